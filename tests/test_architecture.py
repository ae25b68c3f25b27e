"""The rules of the tree: layers only point down, files are small, importing is light."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
MODULES = sorted((ROOT / "cljax").rglob("*.py"))
BASE = ["_pytree", "_typing", "_checks", "_registry", "_batch", "_layout", "_joined", "_random", "_basis"]
BASE += ["_in_flight", "_current_mesh", "_unread", "_quick"]
LAYERS = [
    BASE,
    ["tree", "losses"],
    ["curvature"],
    ["spectral"],
    ["theory", "parallel"],
    ["training"],
    ["plots"],
    ["_report"],
    ["_plan_report"],
    ["cli", "_compile_cache", "_cpu_threads"],
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
@pytest.mark.parametrize(
    ("env", "threads"),
    [
        ({"XLA_FLAGS": "--xla_a=1 --xla_force_host_platform_device_count=1000"}, "4000"),
        ({"JAX_NUM_CPU_DEVICES": "1000"}, "4000"),
        ({"JAX_NUM_CPU_DEVICES": "1000", "NPROC": "7"}, "7"),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}, "None"),
        ({}, "None"),
    ],
)
def test_commands_have_threads_for_their_devices(env, threads):
    code = "import os; from cljax._cpu_threads import enough_threads as f; f(); print(os.environ.get('NPROC'))"
    own = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "NPROC")
    env = {name: value for name, value in os.environ.items() if name not in own} | env
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=env)
    assert found.stdout.strip() == threads


KEEP = """
from cljax._compile_cache import keep_programs
keep_programs()
import jax
print(jax.config.jax_compilation_cache_dir)
jax.jit(lambda x: 2 * x)(1.0)
"""


@pytest.mark.fast
@pytest.mark.parametrize("own", [True, False])
def test_commands_keep_compiled_programs(own, tmp_path):
    env = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    env |= {"XDG_CACHE_HOME": str(tmp_path)} | ({"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own")} if own else {})
    found = subprocess.run([sys.executable, "-c", KEEP], capture_output=True, text=True, check=True, cwd=ROOT, env=env)
    folder = tmp_path / ("own" if own else "cljax")
    assert found.stdout.strip() == str(folder)
    assert any(folder.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.fast
def test_importing_is_light():
    heavy = ("jax", "matplotlib", "tyro", "rich", "orbax", "flax")
    code = f"import sys, cljax; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"
