"""The frame around a host's answer: what is the answer, and what is not; its limits."""

from __future__ import annotations

import os
import subprocess
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import console
from transfer import frame as frames
from transfer.frame import AnswerFrame, AnswerLimits, BrokenAnswer


def read(
    frame: AnswerFrame, pieces: list[bytes], limits: AnswerLimits | None = None, sink=None, stderr=0
):
    """What `frame` reads from a pipe into which `pieces` are written."""
    reader, writer = os.pipe()

    def write() -> None:
        with open(writer, "wb", buffering=0) as f:
            for piece in pieces:
                try:
                    f.write(piece)
                except BrokenPipeError:
                    return

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        return frame.read(reader, limits or AnswerLimits(), lambda: stderr, sink)
    finally:
        os.close(reader)
        thread.join()


def slow_read(frame: AnswerFrame, pieces: list[bytes], limits: AnswerLimits, sink=None):
    """What `frame` reads where each of `pieces` comes by itself."""
    left = iter(pieces)

    def one_piece(stream: int, size: int) -> bytes:
        return next(left, b"")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames.select, "select", lambda *_: ([1], [], []))
        patch.setattr(frames.os, "read", one_piece)
        return frame.read(-1, limits, lambda: 0, sink)


def test_a_script_runs_inside_its_frame_and_its_exit_code_and_bytes_are_kept():
    frame = AnswerFrame()
    script = "printf 'Welcome\\n\\n'\n" + frame.wrap("printf 'a\\nb'; exit 7")
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=False)
    framed = read(frame, [done.stdout])
    assert (framed.banner, framed.body, framed.code) == (b"Welcome\n\n", b"a\nb", 7)
    assert done.returncode == 7


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    banner=st.binary(max_size=60),
    body=st.binary(max_size=200),
    after=st.binary(max_size=40),
    cuts=st.lists(st.integers(0, 400), max_size=6),
    piped=st.booleans(),
)
def test_the_answer_is_what_stands_between_the_marks_however_it_is_cut(
    banner, body, after, cuts, piped
):
    frame = AnswerFrame()
    whole = banner + frame.begin + body + frame.end + b"0\n" + after
    places = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    pieces = [whole[a:b] for a, b in zip(places, places[1:], strict=False)]
    passed: list[bytes] = []
    framed = read(frame, pieces, sink=passed.append if piped else None)
    assert framed.begun and framed.code == 0 and framed.banner == banner
    assert (b"".join(passed) if piped else framed.body) == body


@settings(max_examples=100, deadline=None)
@given(garbage=st.binary(max_size=300))
def test_garbage_is_never_an_answer(garbage):
    framed = read(AnswerFrame(), [garbage])
    assert not framed.begun and framed.code is None and framed.banner == garbage


def test_an_answer_without_its_end_has_no_exit_code():
    frame = AnswerFrame()
    framed = read(frame, [frame.begin + b"half"])
    assert framed.begun and framed.code is None


@pytest.mark.parametrize("end", [b"\n", b"x\n", b"-1\n", b"1000\n", b" 0\n"])
def test_an_end_without_a_plain_exit_code_is_no_end(end):
    frame = AnswerFrame()
    assert read(frame, [frame.begin + frame.end + end]).code is None


def test_an_endless_answer_and_endless_errors_are_cut_off():
    frame, limits = AnswerFrame(), AnswerLimits(stdout=1000, stderr=1000)
    with pytest.raises(BrokenAnswer, match="longer than"):
        read(frame, [frame.begin, b"x" * 2000], limits)
    with pytest.raises(BrokenAnswer, match="error messages"):
        read(frame, [frame.begin], limits, stderr=2000)
    with pytest.raises(BrokenAnswer, match="prints without end"):
        read(AnswerFrame(), [b"x" * (1 << 17)])
    with pytest.raises(BrokenAnswer, match="longer than"):
        read(frame, [frame.begin, frame.end + b"1" * 2000], limits, sink=lambda piece: None)


def test_a_silent_host_is_given_up():
    reader, writer = os.pipe()
    try:
        with pytest.raises(BrokenAnswer, match="no answer within"):
            AnswerFrame().read(reader, AnswerLimits(silence=0), lambda: 0)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.slow
def test_an_answer_that_trickles_is_given_up_and_a_stream_is_not(monkeypatch):
    """A byte now and then is no silence: without a bound of the whole it never ends."""
    seconds = iter(range(0, 10**6, 5))
    monkeypatch.setattr(frames.time, "monotonic", lambda: float(next(seconds)))
    limits = AnswerLimits(silence=6)  # the clock goes on by 5 s with every look
    pieces = [b"x"] * 200
    with pytest.raises(BrokenAnswer, match="its answer has no end after 60 s"):
        slow_read(AnswerFrame(), pieces, limits)
    frame, passed = AnswerFrame(), []
    whole = [frame.begin, *pieces, frame.end + b"0\n"]
    assert slow_read(frame, whole, limits, passed.append).code == 0
    assert b"".join(passed) == b"x" * 200


@pytest.mark.parametrize("text", ["abc", "nan", "-1", "1 s"])
def test_seconds_that_are_no_number_are_named(monkeypatch, text):
    monkeypatch.setenv("TANDEM_SILENCE", text)
    with pytest.raises(console.Misuse, match="TANDEM_SILENCE=.*; give a number of seconds"):
        frames.patience()
