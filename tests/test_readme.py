"""Every snippet of the README runs: Python as it stands, commands in processes of their own."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from tests.flags import COMPILE_FAST

README = pathlib.Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README.read_text(), flags=re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [
    part.strip()
    for language, code in BLOCKS
    if language == "bash"
    for line in code.splitlines()
    for part in line.split("&&")
]
NEEDS_DATA = [command for command in COMMANDS if "--dataset" in command]


def test_all_blocks_are_known():
    assert {language for language, _ in BLOCKS} == {"python", "bash", "console"}  # console needs a cluster
    assert {command.split()[0] for command in COMMANDS} == {"pip", "cljax", "pytest", "python"}


@pytest.mark.parametrize("code", PYTHON, ids=["own-model", "spectra", "own-loop", "mesh", "theory"])
def test_python(code, capsys):
    exec(compile(code, "README.md", "exec"), {})
    assert "nan" not in capsys.readouterr().out.lower()


def run(command, folder, xla_flags=COMPILE_FAST):
    """Run a command as a user would, in a process of its own that has the machine's own devices."""
    program, *arguments = shlex.split(command)
    module = [sys.executable, "-m", "cljax", *arguments, *(["--quiet"] if "track" in arguments else [])]
    assert program == "cljax"
    flags = {"XLA_FLAGS": xla_flags, "COLUMNS": "200", "PYTHONPATH": str(README.parent)}
    done = subprocess.run(module, cwd=folder, env=os.environ | flags, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_commands_in_order(tmp_path):
    commands = [command for command in COMMANDS if command.startswith("cljax") and command not in NEEDS_DATA]
    # the first is 600 steps
    shorter = [f"{command} --num-steps 150" if command == "cljax track" else command for command in commands]
    assert shorter != commands
    printed = "".join(run(command, tmp_path) for command in shorter)
    written = re.findall(r"^wrote (.*)$", printed, flags=re.MULTILINE)
    assert len(written) > len(commands)
    assert all((tmp_path / path).exists() for path in written)
    assert (tmp_path / "runs/digits-mlp/eigenvalues.png").exists()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif("CLJAX_DATA" not in os.environ, reason="CLJAX_DATA does not name a folder with the real MNIST")
@pytest.mark.parametrize("command", NEEDS_DATA)
def test_commands_on_real_data(command, tmp_path):
    """Shorter: what is tested is that the command works as pasted. Compiled fast, it would run for long."""
    shorter = re.sub(r"--num-steps \d+", "--num-steps 10 --num-test 500 --measure-examples 64", command)
    assert "wrote" in run(shorter, tmp_path, xla_flags="")


def test_plots_shown_are_in_the_repository():
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README.read_text())
    assert shown
    assert all((README.parent / path).is_file() for path in shown)
