"""Every snippet of the README runs: Python as it stands, commands through the command line's own entry point."""

import os
import pathlib
import re
import shlex

import pytest

from cljax import cli

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
    assert {language for language, _ in BLOCKS} == {"python", "bash"}
    assert {command.split()[0] for command in COMMANDS} == {"pip", "cljax", "pytest", "python"}


@pytest.mark.parametrize("code", PYTHON, ids=["own-model", "own-loop"])
def test_python(code, capsys):
    exec(compile(code, "README.md", "exec"), {})
    assert "nan" not in capsys.readouterr().out.lower()


def test_commands_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        if program == "cljax" and command not in NEEDS_DATA:
            assert cli.main([*arguments, *(["--quiet"] if "track" in arguments else [])]) == 0
    printed = capsys.readouterr().out
    for line in printed.splitlines():
        if line.startswith("wrote "):
            assert pathlib.Path(line.removeprefix("wrote ")).exists()
    assert (tmp_path / "runs/digits-mlp/eigenvalues.png").exists()


@pytest.mark.slow
@pytest.mark.skipif("CLJAX_DATA" not in os.environ, reason="CLJAX_DATA does not name a folder with the real MNIST")
@pytest.mark.parametrize("command", NEEDS_DATA)
def test_commands_on_real_data(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*shlex.split(command)[1:], "--quiet"]) == 0


def test_plots_shown_are_in_the_repository():
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README.read_text())
    assert shown
    assert all((README.parent / path).is_file() for path in shown)
