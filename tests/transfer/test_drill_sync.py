"""Two rounds of the drill that edits, kills and fills disks during syncs (make drill-sync)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.mark.slow
def test_two_rounds_of_the_drill_find_every_byte():
    place = Path(__file__).with_name("drill_sync.py")
    specification = importlib.util.spec_from_file_location("drill_sync", place)
    drill_sync = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(drill_sync)
    counts = drill_sync.drill(rounds=2, seed=3, ssh=False)
    assert counts["files"] > 0
