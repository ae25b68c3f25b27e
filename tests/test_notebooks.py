"""Notebooks run from top to bottom, small; and each is the pair of its script."""

import os
import pathlib
import subprocess
import sys

import jupytext
import pytest

from tests.flags import COMPILE_FAST

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"
SCRIPTS = sorted(FOLDER.glob("*.py"))
IDS = [path.stem for path in SCRIPTS]


def test_there_are_notebooks():
    assert [name[0] for name in IDS] == list("ABCDEF")


@pytest.mark.parametrize("path", SCRIPTS, ids=IDS)
def test_it_runs(path):
    env = os.environ | {"CLJAX_SIZE": "tiny", "MPLBACKEND": "Agg", "PYTHONPATH": str(FOLDER.parent)}
    env["XLA_FLAGS"] = COMPILE_FAST
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, env=env, cwd=FOLDER)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "|---|" in done.stdout
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=IDS)
def test_it_is_paired_with_outputs(path):
    script, notebook = jupytext.read(path), jupytext.read(path.with_suffix(".ipynb"))
    cells = [[(cell.cell_type, cell.source) for cell in book.cells] for book in (script, notebook)]
    assert cells[0] == cells[1], f"{path.stem}: run `jupytext --to ipynb --execute notebooks/{path.name}`"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert any(output.get("data", {}).get("image/png") for cell in code for output in cell.outputs)
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
