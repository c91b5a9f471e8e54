"""What holds for every command: help without any package, exit codes, names."""

import functools
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.checkout import ROOT

PYTHON = sorted((ROOT / "scripts").glob("*.py"))
SHELL = sorted([*(ROOT / "scripts").glob("*.sh"), *ROOT.glob("*.sh")])
EVERY = [pytest.param(p, id=p.name) for p in PYTHON + SHELL]


@functools.cache
def run(path: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run a command as on a machine with nothing but Python and bash."""
    bare = [os.path.realpath(sys.executable), "-S", "-E"] if path.suffix == ".py" else ["bash"]
    return subprocess.run(
        [*bare, str(path), *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


def test_contributing_names_every_command_once_and_no_other():
    table = [
        line for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if line[:3] == "| `"
    ]
    named = [name for line in table for name in re.findall(r"`(\w+\.(?:py|sh))`", line)]
    assert sorted(named) == sorted(p.name for p in PYTHON + SHELL)


@pytest.mark.parametrize("path", EVERY)
def test_help_needs_no_package(path):
    result = run(path, "--help")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert path.name in result.stdout


@pytest.mark.parametrize("path", EVERY)
def test_help_names_the_exit_codes(path):
    assert "Exit codes:" in run(path, "--help").stdout


@pytest.mark.parametrize("path", EVERY)
def test_an_unknown_option_is_one_line_and_exit_2(path):
    result = run(path, "--no-such-option")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"{path.name}: ") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("path", EVERY)
@pytest.mark.slow
def test_a_control_sequence_in_a_wrong_call_does_not_reach_the_terminal(path):
    result = run(path, "--no\x1b[2J\x07é", "a\x1b]0;title\x07")
    assert result.returncode == 2
    assert not set("\x1b\x07") & set(result.stdout + result.stderr)


@pytest.mark.parametrize("path", EVERY)
def test_it_can_be_run_as_a_program(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert os.access(path, os.X_OK), f"chmod +x {path.name}"
    assert first == f"#!/usr/bin/env {'python3' if path.suffix == '.py' else 'bash'}"


def test_every_file_that_names_its_interpreter_can_be_run_as_a_program():
    places = [ROOT / ".ci", ROOT / "scripts", ROOT / "tests"]
    files = [*ROOT.glob("*.sh"), *(file for place in places for file in place.rglob("*"))]
    files = [f for f in files if f.is_file() and ROOT / "tests" / "node_modules" not in f.parents]
    named = [file for file in files if file.open("rb").read(2) == b"#!"]
    assert [str(file) for file in named if not os.access(file, os.X_OK)] == []


def test_no_module_has_the_name_of_another_package():
    """`import x` must mean ours: no stem of scripts/ is a stdlib module or a dependency."""
    ours = {p.stem for p in PYTHON}
    ours |= {p.parent.name for p in (ROOT / "scripts").glob("*/__init__.py")}
    locks = [ROOT / f"requirements-{env}.txt" for env in ("local", "remote")]
    pinned = {
        name.lower().replace("-", "_")
        for lock in locks
        for name in re.findall(r"^([\w.-]+)==", lock.read_text(), re.M)
    }
    installed = set(importlib.metadata.packages_distributions())
    mine = {name for name in installed if name in ours} & ours
    assert not ours & set(sys.stdlib_module_names)
    assert not ours & pinned
    assert not mine, f"installed packages have these names too: {mine}"


@pytest.mark.parametrize("no", ["", "0", "no", "false"])
def test_only_a_yes_confirms(no):
    for target in ("data", "train", "rlhf", "pipeline"):
        for word, confirms in ((no, False), ("1", True)):
            words = ["make", "-n", target, f"CONFIRM={word}", "HOST=x"]
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
            assert ("--confirm" in done.stdout) == confirms
