"""A cluster's listing is data: whatever it holds, it is understood or refused in one line."""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from embeddings import cluster_listing
from embeddings.cluster_transfer import FramedFile
from kit import console

TOKEN = "0123456789abcdef"
PATTERN = "cluster*_gpu*.pkl"


def read(answer: bytes, end: bool = True) -> cluster_listing.ClusterListing:
    async def work():
        stream = asyncio.StreamReader()
        stream.feed_data(answer)
        if end:
            stream.feed_eof()
        return await cluster_listing.read(stream, TOKEN, PATTERN, "tensor01")

    return asyncio.run(work())


def framed(*lines: str, banner: str = "") -> bytes:
    return (banner + "\n".join([TOKEN, *lines, f"end {TOKEN}", ""])).encode()


def test_an_ordinary_listing_is_understood():
    name = "cluster1_gpu0.pkl"
    listing = read(framed("rsync", f"link {name}", f"file 12 1700000000 {name}", banner="Hello\n"))
    assert listing.files == {name: cluster_listing.ShardFile(12, 1700000000, link=True)}
    assert listing.rsync and listing.banner == "Hello" and listing.manifest is None
    manifest = read(framed('manifest 3\n{"\n', f"file 1 2 {name}"))
    assert manifest.manifest == b'{"\n' and list(manifest.files) == [name]


@pytest.mark.parametrize(
    "line",
    [
        "file 1 2 ../../x/cluster1_gpu0.pkl",
        "file 1 2 /etc/cluster1_gpu0.pkl",
        "file 1 2 cluster1_gpu0.pkl/../../x_gpu.pkl",
        "file 1 2 cluster1_gpu\x1b[2J.pkl",
        "file 1 2 cluster1_gpu0.pkl\r",
        "file 1 2 cluster" + "x" * 300 + "_gpu.pkl",
        "file 1 2 wikipedia_merged.pkl",
        "file -1 2 cluster1_gpu0.pkl",
        "file 99999999999999999999 2 cluster1_gpu0.pkl",
        "file " + "9" * 5000 + " 2 cluster1_gpu0.pkl",
        "file 1 2",
        "file 0x10 2 cluster1_gpu0.pkl",
        "file ١ 2 cluster\u0661_gpu.pkl",
        "manifest 99999999999999",
        "manifest -5",
        "manifest ",
        "manifest ²",
        "rm -rf /",
    ],
)
def test_a_line_that_is_not_one_of_ours_is_refused_in_one_line(line):
    with pytest.raises((console.Problem, cluster_listing.BrokenListing)) as refused:
        read(framed(line))
    assert "\n" not in str(refused.value) and "\x1b" not in str(refused.value)


def test_two_names_that_are_one_file_on_some_disks_are_refused_by_name():
    lines = [f"file 1 2 {name}" for name in ("clusterA_gpu0.pkl", "clustera_gpu0.pkl")]
    with pytest.raises(console.Problem, match=r"clusterA_gpu0\.pkl and clustera_gpu0\.pkl are one"):
        read(framed(*lines))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"This account is closed.\n",
        f"{TOKEN}\nrsync\n".encode(),
        f"{TOKEN}\nmanifest 50\nshort".encode(),
        f"{TOKEN}\nfile 1 2 cluster1".encode(),
        b"x" * 100_000,
    ],
)
def test_a_listing_that_breaks_off_says_what_came_instead(answer):
    with pytest.raises(cluster_listing.BrokenListing) as broken:
        read(answer)
    if answer.startswith(b"This"):
        assert str(broken.value) == "This account is closed."


def test_endless_answers_are_cut_off(monkeypatch):
    with pytest.raises(console.Problem, match="its login prints without end"):
        read(b"Welcome to tensor01\n" * 10_000)
    monkeypatch.setattr(cluster_listing, "LISTING_BYTES", 1000)
    lines = [f"link cluster{n}_gpu0.pkl" for n in range(100)]
    with pytest.raises(console.Problem, match="its listing does not end"):
        read(framed(*lines))


def test_silence_ends_the_wait(monkeypatch):
    monkeypatch.setattr(cluster_listing, "SILENCE_SECONDS", 0.01)
    with pytest.raises(asyncio.TimeoutError):
        read(f"{TOKEN}\n".encode(), end=False)


def test_a_listing_that_trickles_is_given_up(monkeypatch):
    """A line now and then is no silence."""
    seconds = iter(range(0, 10**6, 50))
    monkeypatch.setattr(cluster_listing, "monotonic", lambda: float(next(seconds)))
    with pytest.raises(asyncio.TimeoutError):
        read(framed(*["rsync"] * 20))
    assert read(framed(*["rsync"] * 5)).rsync


def test_random_bytes_are_a_listing_or_one_line():
    dice = random.Random(5)
    good = framed("rsync", "file 12 1700000000 cluster1_gpu0.pkl", "manifest 2\n{}")
    for _ in range(500):
        answer = bytearray(good)
        for _ in range(dice.randint(1, 6)):
            answer[dice.randrange(len(answer))] = dice.randrange(256)
        try:
            listing = read(bytes(answer))
        except (console.Problem, cluster_listing.BrokenListing) as refused:
            assert "\n" not in str(refused)
        else:
            assert all(cluster_listing.NAME.fullmatch(name) for name in listing.files)


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_a_file_is_what_follows_the_token_and_never_more_than_was_listed(tmp_path, cut):
    data, token = os.urandom(3000), "ab" * 8
    answer = b"Welcome\n" + f"{token}\n".encode() + data
    with open(tmp_path / "part", "wb") as out:
        frame = FramedFile(out, token, 3000)
        assert all(frame.take(answer[at : at + cut]) for at in range(0, len(answer), cut))
    assert (tmp_path / "part").read_bytes() == data and not frame.too_long
    with open(tmp_path / "part", "wb") as out:
        frame = FramedFile(out, token, 2000)
        kept = [frame.take(answer[at : at + cut]) for at in range(0, len(answer), cut)]
    assert not all(kept) and frame.too_long
    assert (tmp_path / "part").read_bytes() == data[:2000]


def test_a_file_whose_answer_never_begins_is_given_up(tmp_path):
    with open(tmp_path / "part", "wb") as out:
        frame = FramedFile(out, TOKEN, 100)
        assert not all(frame.take(b"x" * 10_000) for _ in range(20))
    assert (tmp_path / "part").read_bytes() == b""
