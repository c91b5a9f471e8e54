"""A lock is held by one; a file system without locks is not "somebody else"."""

import errno

import pytest

from kit import lock


def test_one_holds_it_and_the_next_is_told_no(tmp_path):
    path = tmp_path / "lock"
    with path.open("w") as first, path.open("w") as second:
        assert lock.try_lock(first.fileno(), "here")
        assert not lock.try_lock(second.fileno(), "here")
    with path.open("w") as third:
        assert lock.try_lock(third.fileno(), "here")


@pytest.mark.parametrize("number", sorted(lock.NO_LOCKS))
def test_a_file_system_without_locks_is_a_warning_once(tmp_path, monkeypatch, capsys, number):
    def flock(*_):
        raise OSError(number, errno.errorcode[number])

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    monkeypatch.setattr(lock, "_warned", set())
    with (tmp_path / "lock").open("w") as file:
        assert lock.try_lock(file.fileno(), "data") and lock.try_lock(file.fileno(), "data")
    assert capsys.readouterr().err.count("has no locks") == 1
