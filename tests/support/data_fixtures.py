"""Fixtures of the data commands' tests; a test file loads them by pytest_plugins."""

from __future__ import annotations

import functools
import types

import pytest

import data_prep
from kit import console


@pytest.fixture
def inside(capsys, monkeypatch, tmp_path):
    """Run a command's main in this process: inside(data_prep, "--input", path).

    It ends as the real one does, by console.run; a process each would import for a second each.
    Returns returncode, stdout and stderr. TANDEM_WORKDIR is the test's folder.
    """
    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))

    def run(module: types.ModuleType, *arguments: object) -> types.SimpleNamespace:
        words = [str(a) for a in arguments]
        monkeypatch.setattr("sys.argv", [f"{module.__name__}.py", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            console.run(lambda: module.main(words))
        streams = capsys.readouterr()
        return types.SimpleNamespace(
            returncode=ended.value.code, stdout=streams.out, stderr=streams.err
        )

    return run


@pytest.fixture
def prep(inside, tmp_path):
    """Run data_prep.py into tmp_path/out: prep("--input", …, "--confirm")."""
    return functools.partial(inside, data_prep, "--out-dir", tmp_path / "out")
