"""What the tests of adapters share."""

import pytest

from support import adapter_runs


@pytest.fixture
def manage(tmp_path, monkeypatch, capsys):
    """manage("list", fails=2): checkpoint_manager.py with that exit code."""
    return adapter_runs.caller("checkpoint_manager", tmp_path, monkeypatch, capsys)
