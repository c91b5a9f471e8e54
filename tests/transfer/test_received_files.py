"""What a host sends: no file here is larger than listed, whichever carrier brings it."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer import address, carriers, host, rsync_carrier, tar_carrier
from transfer.received_files import GROWTH

LISTED = {"log.txt": 1000, "sub/weights": 7, "small": 5, "gone": 3}
SENT = {"log.txt": b"l" * 3_000_000, "sub/weights": b"w" * 8, "small": b"small"}


@pytest.fixture
def stand_in(tmp_path: Path):
    """A folder host with SENT in its kit's reports/."""
    for name, content in SENT.items():
        path = tmp_path / "host" / "tandem" / "reports" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    there = host.host_at(address.parse(str(tmp_path / "host"), "tandem"))
    there.open()
    yield there
    there.close()


def carrier_of(kind: str, there: host.Host):
    if kind == "rsync":
        rsync_carrier.rsync_tool.choose() or pytest.skip("no rsync here")
        return rsync_carrier.RsyncCarrier(there, *rsync_carrier.rsync_tool.choose())
    return {"copy": carriers.CopyCarrier, "tar": tar_carrier.TarCarrier}[kind](there)


@pytest.mark.slow
@pytest.mark.parametrize("growth", [0, GROWTH])
@pytest.mark.parametrize("kind", ["copy", "tar", "rsync"])
def test_what_is_larger_than_listed_is_cut_and_named(kind, growth, stand_in, tmp_path):
    target = tmp_path / "here"
    larger = carrier_of(kind, stand_in).fetch(LISTED, "reports", target, growth)
    sizes = {str(p.relative_to(target)): p.stat().st_size for p in target.rglob("*") if p.is_file()}
    assert all(size <= LISTED[name] for name, size in sizes.items())
    if growth or kind == "copy":  # nothing was cut off, so all came
        assert larger == {"log.txt", "sub/weights"}
        assert (target / "small").read_bytes() == b"small"
        assert (target / "log.txt").read_bytes() == b"l" * 1000


@pytest.mark.slow
def test_rsync_writes_no_file_beyond_the_largest_that_was_listed(stand_in, tmp_path, monkeypatch):
    """While it runs, too: nothing may fill the disk before the guard looks."""
    monkeypatch.setattr(rsync_carrier.TransferGuard, "watch", lambda self, process: None)
    written: list[int] = []
    target = tmp_path / "here"

    def measure(*_):
        written.extend(p.stat().st_size for p in target.rglob("*") if p.is_file())
        return set()

    monkeypatch.setattr(rsync_carrier, "cut_to_size", measure)
    carrier = carrier_of("rsync", stand_in)
    carrier.fetch(LISTED, "reports", target, 0)
    assert carrier.cause == f" ({rsync_carrier.MORE})"
    assert all(size <= 1024 for size in written)


@pytest.mark.slow
def test_rsync_is_ended_that_brings_more_bytes_or_files_than_were_listed(tmp_path, stand_in):
    for n in range(40):
        (tmp_path / f"f{n}").write_bytes(b"x" * 10)
    guard = rsync_carrier.TransferGuard(tmp_path, {"f0": 10}, 0)
    rc, _ = rsync_carrier._once(["sleep", "60"], {}, rsync_carrier.ProgressLine(0), guard)
    assert guard.passed and rc == 255
    few = {f"f{n}": 10 for n in range(40)}
    assert rsync_carrier.TransferGuard(tmp_path, few, 0).bytes == 400


def test_what_an_interrupted_transfer_left_is_not_taken_for_more(tmp_path):
    (tmp_path / ".rsync-partial").mkdir()
    (tmp_path / ".rsync-partial" / "big").write_bytes(b"x" * 900)
    guard = rsync_carrier.TransferGuard(tmp_path, {"big": 1000}, 0)
    assert guard.bytes == 1900  # rsync keeps the old part while it writes the new file


def archive(members: list[tuple[str, bytes, bytes, float]], form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, content, kind, mtime in members:
            member = tarfile.TarInfo(name)
            member.size, member.type, member.mtime = len(content), kind, mtime
            member.linkname = "/etc/passwd"
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


NAMES = st.sampled_from(["log.txt", "./small", "sub/weights", "../x", "/x", "other", "small/x"])
MEMBERS = st.tuples(
    NAMES,
    st.binary(max_size=1200),
    st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]),
    st.sampled_from([0.0, 1.5, -1.0, 1e300]),
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    members=st.lists(MEMBERS, max_size=5),
    holes=st.dictionaries(st.integers(0, 4000), st.integers(0, 255), max_size=8),
    cut=st.integers(0, 9000),
)
def test_whatever_a_tar_stream_holds_only_listed_files_come_of_listed_size(
    members, holes, cut, tmp_path_factory
):
    data = bytearray(archive(members, tarfile.PAX_FORMAT)[:cut])
    for at, value in holes.items():
        if at < len(data):
            data[at] = value
    top = tmp_path_factory.mktemp("tar")
    target = top / "a" / "here"
    with contextlib.suppress(IsADirectoryError, NotADirectoryError, FileExistsError):
        tar_carrier.unpack(io.BytesIO(bytes(data)), LISTED, target)
    for path in top.rglob("*"):
        assert not path.is_symlink()
        if path.is_file() and not path.name.endswith(".part"):
            assert path.stat().st_size <= LISTED[os.path.relpath(path, target)]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_without_bounds_ends_the_reading_and_is_not_held_in_memory(kind, tmp_path):
    member = tarfile.TarInfo("small")
    member.size, member.type = 16 << 20, kind
    stream = io.BytesIO(member.tobuf(tarfile.GNU_FORMAT) + bytes(16 << 20))
    assert tar_carrier.unpack(stream, LISTED, tmp_path) == set()
    assert stream.tell() < 2 << 20


def test_long_names_in_either_form_of_tar_come(tmp_path):
    name = "a" * 200 + "/ü" * 30
    for number, form in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        data = archive([(name, b"hello", tarfile.REGTYPE, 1.5)], form)
        tar_carrier.unpack(io.BytesIO(data), {name: 5}, tmp_path / str(number))
        assert (tmp_path / str(number) / name).read_bytes() == b"hello"


def test_a_copy_says_whose_permission_is_lacking(stand_in, tmp_path, monkeypatch):
    there, here = tmp_path / "host" / "tandem" / "reports" / "small", tmp_path / "here" / "small"

    def refused(source: Path, target: Path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", closed)

    monkeypatch.setattr(carriers, "copy_whole", refused)
    carrier, closed = carriers.CopyCarrier(stand_in), str(there)
    assert carrier.fetch({"small": 5}, "reports", here.parent, 0) == set()
    assert carrier.cause == f" ({there}: permission denied)"
    closed = str(here)
    with pytest.raises(PermissionError):
        carrier.fetch({"small": 5}, "reports", here.parent, 0)
