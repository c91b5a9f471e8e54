"""An rclone that hangs, speaks nonsense or knows too much; manifests without end."""

from __future__ import annotations

import json

import pytest

from kit import console
from support.bucket_server import AnsweringBucket
from transfer import bucket, rclone


def program_of(monkeypatch, folder, text):
    """RCLONE is this shell text from now on."""
    script = folder / "rclone"
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    monkeypatch.setenv("RCLONE", str(script))
    monkeypatch.setenv("TANDEM_SILENCE", "0.3")


HANGING = ["exec sleep 60", "sleep 5 & wait", "echo x; exec >&-; exec sleep 60"]


@pytest.mark.slow
@pytest.mark.parametrize("text", HANGING)
def test_an_rclone_that_gives_no_sign_is_ended_and_named(monkeypatch, tmp_path, text):
    program_of(monkeypatch, tmp_path, text)
    with pytest.raises(console.Problem, match=r"s3:n: rclone gave no sign for 0 s; .*rclone lsd"):
        rclone.run(["lsjson", "s3:n"], "s3:n")


def test_an_rclone_that_speaks_is_waited_for(monkeypatch, tmp_path):
    program_of(monkeypatch, tmp_path, "for n in 1 2 3 4 5; do sleep 0.1; echo {} >&2; done; echo y")
    assert rclone.run(["lsjson", "s3:n"], "s3:n") == b"y\n"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b'{"Features": {}, "Hashes": 5}', ""),
        (b'{"Features": {}, "Hashes": ["md5"]}', "md5"),
        (b"[]", ""),
        (b"[" * 9999, ""),
    ],
)
def test_odd_features_give_no_checksum(answer, kind):
    assert AnsweringBucket(backend=answer).hash_kind == kind


def test_only_manifests_of_laptops_are_read_and_not_without_end(monkeypatch):
    """Each is a question of its own to the store."""
    names = [f".manifest/{odd}" for odd in ("../../etc/x.json", "a/b.json", "a\n.json", "x")]
    names += [f".manifest/{n:04}-up.json" for n in range(bucket.MOST_MANIFESTS + 5)]
    listed = json.dumps([{"Path": name, "Size": 1} for name in names]).encode()
    store, read = AnsweringBucket(lsjson=listed, cat=b"{}"), []
    monkeypatch.setattr(store, "object", lambda path: read.append(path) or path)
    store.listing(("adapters",))
    assert read == names[4:-5]
