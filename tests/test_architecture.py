"""The rules of the tree: layers only point down, files are small, importing is light."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
MODULES = sorted((ROOT / "cljax").rglob("*.py"))
LAYERS = [
    ["_pytree", "_typing", "_checks", "_registry", "_batch", "_layout", "_joined", "_basis"],
    ["tree", "losses"],
    ["curvature"],
    ["spectral"],
    ["theory", "parallel"],
    ["training"],
    ["plots"],
    ["_report"],
    ["_plan_report"],
    ["cli"],
    ["__main__"],
]
LAYER = {name: index for index, names in enumerate(LAYERS) for name in names}
IDS = [str(path.relative_to(ROOT)) for path in MODULES]


def imported(path):
    """Top-level parts of the package that a module imports, however deep in its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cljax":
            rest = node.module.split(".")[1:]
            yield from rest[:1] or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("cljax."))


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_layers_only_point_down(path):
    part = path.relative_to(ROOT / "cljax").parts[0].removesuffix(".py")
    if part == "__init__":
        return
    for other in imported(path):
        assert other == part or LAYER[other] < LAYER[part] or LAYER[part] == LAYER[other] <= 1, f"imports {other}"


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_files_are_small(path):
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_no_flattening_and_no_global_configuration(path):
    text = path.read_text()
    assert "config.update(" not in text
    assert path.name == "dense.py" or "ravel_pytree" not in text


@pytest.mark.fast
def test_importing_is_light():
    code = "import sys, cljax; print([m for m in ('matplotlib', 'tyro', 'rich', 'orbax', 'flax') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"
