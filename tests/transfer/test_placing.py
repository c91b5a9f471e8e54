"""Files here that are replaced: whatever happens in between, both the old and the new are there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from transfer import name_swap, placing


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A folder like adapters/, with a staged file and one that is here."""
    (tmp_path / ".incoming").mkdir()
    (tmp_path / ".incoming" / "f").write_text("new")
    (tmp_path / "f").write_text("mine")
    return tmp_path


def contents(top: Path) -> set[str]:
    return {path.read_text() for path in top.rglob("*") if path.is_file()}


def test_what_is_replaced_is_in_replaced_under_its_path(top):
    before, kept = placing.Keeper(top).replace(top / ".incoming" / "f", top / "f")
    assert (top / "f").read_text() == "new" and kept.read_text() == "mine"
    assert before.size == 4 and kept.relative_to(top).parts[0] == ".replaced"


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("steps", range(5))
def test_an_end_between_any_two_renames_loses_nothing(top, monkeypatch, atomic, steps):
    done: list[str] = []

    def counted(real):
        def call(*args):
            if len(done) == steps:
                raise KeyboardInterrupt
            done.append(real.__name__)
            return real(*args)

        return call

    monkeypatch.setattr(os, "rename", counted(os.rename))
    swap = name_swap.swap_atomically if atomic else lambda first, second: False
    monkeypatch.setattr(name_swap, "swap_atomically", swap)
    with contextlib.suppress(KeyboardInterrupt):
        placing.Keeper(top).replace(top / ".incoming" / "f", top / "f")
    assert contents(top) == {"new", "mine"}
    assert not (top / ".incoming" / "f").exists() or (top / "f").read_text() == "mine"


def test_a_folder_swaps_with_a_folder(top):
    for name, text in (("a", "old"), (".incoming/a", "newer")):
        (top / name).mkdir()
        (top / name / "w").write_text(text)
    _, kept = placing.Keeper(top).replace(top / ".incoming" / "a", top / "a")
    assert ((top / "a" / "w").read_text(), (kept / "w").read_text()) == ("newer", "old")


def test_a_name_that_is_taken_by_now_is_not_overwritten(top):
    keeper = placing.Keeper(top)
    assert not keeper.place_new(top / ".incoming" / "f", top / "f")
    assert (top / "f").read_text() == "mine"
    assert keeper.place_new(top / ".incoming" / "f", top / "new" / "g")
    assert (top / "new" / "g").read_text() == "new" and not (top / ".incoming" / "f").exists()


def test_what_an_interrupted_sync_left_on_another_disk_is_kept(top, monkeypatch):
    monkeypatch.setattr(placing, "_device", lambda path: path.as_posix())
    (top / ".f.part").write_text("swapped out by a killed sync")
    placing.Keeper(top).replace(top / ".incoming" / "f", top / "f")
    assert (top / "f").read_text() == "new"
    assert contents(top) >= {"new", "mine", "swapped out by a killed sync"}


def test_dropping_removes_the_empty_folders_above_and_nothing_else(top):
    keeper = placing.Keeper(top)
    _, kept = keeper.replace(top / ".incoming" / "f", top / "f")
    keeper.drop(kept)
    assert not (top / ".replaced").exists() and (top / "f").exists()
