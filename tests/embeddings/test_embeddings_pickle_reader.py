"""Checkpoints are read as data: what numpy writes is understood, everything else is refused."""

from __future__ import annotations

import os
import pickle
import pickletools
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from embeddings import shard_rows, shards
from embeddings.pickles import pickle_machine, reader
from kit import console
from support import embeddings_hostile as hostile
from support.embeddings_cage import read_in_a_cage
from support.embeddings_samples import other_python, shard, vectors, with_flipped_bits

DTYPES = ("f2", "f4", "f8")
LAYOUTS = {
    "C order": lambda a: a,
    "Fortran order": np.asfortranarray,
    "every second row": lambda a: np.repeat(a, 2, axis=0)[::2],
    "every second column": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
}


def rows_of(path: Path, count: int | None = None) -> np.ndarray:
    """The rows of a shard as the merge reads them."""
    loaded = shards.read(path)
    with open(path, "rb", buffering=0) as f:
        blocks = [
            b.copy() for b in shard_rows.blocks(f, loaded, count or loaded.end - loaded.start)
        ]
    return np.concatenate(blocks)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_of_every_type_order_and_protocol_are_those_that_numpy_wrote(
    tmp_path, monkeypatch, protocol, dtype, layout
):
    monkeypatch.setattr(shard_rows, "BLOCK", 500)  # so that the rows come in many blocks
    array = vectors(100, 12, dtype)
    path = shard(tmp_path / "cluster1_gpu0.pkl", LAYOUTS[layout](array), 7, protocol)
    if protocol == 2 and layout == "Fortran order":
        with pytest.raises(console.Problem, match="Fortran order in pickle protocol 2"):
            rows_of(path)
        return
    assert (rows_of(path) == array).all()
    assert (rows_of(path, 33) == array[:33]).all()
    loaded = shards.read(path)
    assert (loaded.start, loaded.end, loaded.dim, loaded.dtype) == (7, 107, 12, f"<{dtype}")
    assert loaded.model == "bge-base"
    assert loaded.about == {"cluster": "tensor01", "gpu": 0, "timestamp": "2026-11-01T12:00:00"}


ZONES = (None, timezone.utc, timezone(timedelta(hours=-5, minutes=-30)))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_times_become_iso_text(tmp_path, protocol):
    for zone in ZONES:
        for when in (
            datetime(2026, 11, 1, 12, 0, 5, 250_000, zone),
            datetime(1, 1, 1, 0, 0, 0, 0, zone),
            datetime(2025, 10, 26, 2, 30, tzinfo=zone, fold=1),
        ):
            path = shard(tmp_path / "cluster1_gpu0.pkl", vectors(3), 0, protocol, timestamp=when)
            assert shards.read(path).about["timestamp"] == when.isoformat()


@pytest.mark.parametrize(
    "call",
    [
        hostile.Calls(datetime, b"\x07\xea\x0d" + bytes(7)),  # a thirteenth month
        hostile.Calls(datetime, b"\x07\xea\x01\x01" + bytes(5)),
        hostile.Calls(datetime, 2026, 11, 1),
        hostile.Calls(timedelta, 10**9, 0, 0),
        hostile.Calls(timezone, 5),
        hostile.Calls(timezone, timedelta(0), "name"),
    ],
)
def test_times_that_python_does_not_write_are_refused(tmp_path, call):
    path = tmp_path / "cluster1_gpu0.pkl"
    path.write_bytes(pickle.dumps({"timestamp": call}))
    with pytest.raises(console.Problem, match="not readable as a plain pickle"):
        shards.read(path)


WRITE = """
import pickle, sys, numpy as np
for protocol in (2, 3, 4, 5):
    for dtype in ("f2", "f4", "f8"):
        array = np.arange(60, dtype=dtype).reshape(12, 5)
        value = {"embeddings": array, "start_index": np.int64(3), "end_index": np.int32(15),
                 "gpu": np.uint8(2), "timestamp": np.float64(1.5), "model": "m"}
        with open(f"{sys.argv[1]}/{protocol}{dtype}.pkl", "wb") as f:
            pickle.dump(value, f, protocol=protocol)
"""


@pytest.mark.slow
@pytest.mark.parametrize("numpy", ["1.26.4", "2"])
def test_shards_written_by_numpy_1_and_2_are_read(tmp_path, tmp_path_factory, numpy):
    python = other_python(tmp_path_factory.getbasetemp(), numpy)
    subprocess.run([python, "-c", WRITE, tmp_path], check=True)
    for path in sorted(tmp_path.glob("*.pkl")):
        loaded = shards.read(path)
        assert (loaded.start, loaded.end) == (3, 15)
        assert loaded.about == {"gpu": 2, "timestamp": 1.5}
        assert (rows_of(path).ravel() == np.arange(60)).all()
    assert len(list(tmp_path.glob("*.pkl"))) == 12


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_shard_cut_at_any_opcode_or_byte_is_one_clear_error(tmp_path, protocol):
    path = shard(tmp_path / "cluster1_gpu0.pkl", vectors(6, 4), 0, protocol)
    whole = path.read_bytes()
    boundaries = [position for _, _, position in pickletools.genops(whole)]
    assert len(boundaries) > 50
    for cut in sorted({*boundaries, *range(len(whole))}):
        path.write_bytes(whole[:cut])
        with pytest.raises(console.Problem) as caught:
            shards.read(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
        assert "not whole" in str(caught.value) or cut < 2


@pytest.mark.slow
def test_hostile_pickles_are_refused_unexecuted_in_little_memory(tmp_path):
    files = hostile.corpus()
    assert len(files) >= 60
    messages, peak_kb, numpy = read_in_a_cage(files, tmp_path, "shards", "shards.read(path)")
    assert not os.path.exists(hostile.CANARY)
    for name, message in messages.items():
        assert message, f"{name} was read as if it were a checkpoint"
        assert "\n" not in message and len(message) < 500, name
        assert str(tmp_path) in message, name
    assert peak_kb < 64 * 1024
    assert not numpy, "numpy had a part in it"


def test_a_key_that_stands_twice_is_refused_in_an_otherwise_good_checkpoint(tmp_path):
    path = shard(tmp_path / "cluster1_gpu0.pkl", vectors(3, 4), 0, protocol=3)
    twice = hostile.text("model") + hostile.text("another")
    path.write_bytes(path.read_bytes()[:-2] + twice + b"u.")
    with pytest.raises(console.Problem, match="the key 'model' is given twice"):
        shards.read(path)


def test_the_canary_of_the_hostile_pickles_sings_in_plain_pickle():
    """The corpus is dangerous indeed: were they loaded, the canary would be there."""
    try:
        for name in ("os.system", "exec", "open", "builtins by protocol 2"):
            pickle.loads(hostile.corpus()[name])
            assert os.path.exists(hostile.CANARY), name
            os.unlink(hostile.CANARY)
    finally:
        Path(hostile.CANARY).unlink(missing_ok=True)


@pytest.mark.slow
def test_flipped_bits_never_crash_the_reader(tmp_path):
    path = shard(tmp_path / "cluster1_gpu0.pkl", vectors(3, 4), 0)
    for _ in with_flipped_bits(path, 1500, seed=1):
        try:
            shards.read(path)
        except console.Problem as problem:
            assert "\n" not in str(problem)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": ...}, "its 'embeddings' is missing"),
        ({"embeddings": [[1.0]]}, "its 'embeddings' is a list"),
        ({"embeddings": np.ones(4, "f4"), "end_index": 4}, r"the shape \(4,\)"),
        ({"embeddings": np.ones((0, 4), "f4"), "end_index": 0}, r"the shape \(0, 4\)"),
        ({"embeddings": np.ones((4, 4), "i4")}, "the type <i4"),
        ({"embeddings": np.ones((4, 4), ">f4")}, "the type >f4"),
        ({"start_index": ...}, "its 'start_index' is missing"),
        ({"end_index": "4"}, "its 'end_index' is a str"),
        ({"start_index": True, "end_index": 5}, "its 'start_index' is a bool"),
        ({"start_index": -4, "end_index": 0}, "its 'start_index' is a int"),
        ({"end_index": 5}, "holds 4 rows for items 0-5"),
        ({"model": 3}, "its 'model' is a int"),
    ],
)
def test_a_checkpoint_with_a_wrong_part_is_named_with_what_is_wrong(tmp_path, change, message):
    path = shard(tmp_path / "cluster1_gpu0.pkl", np.ones((4, 4), "f4"), 0, **change)
    with pytest.raises(console.Problem, match=message) as caught:
        shards.read(path)
    assert str(path) in str(caught.value)


def test_reading_a_large_shard_touches_only_its_ends(tmp_path):
    path = shard(tmp_path / "cluster1_gpu0.pkl", vectors(4000, 256), 0, protocol=5)
    taken = []

    class Counting(pickle_machine.PickleMachine):
        def fill(self, n):
            super().fill(n)
            taken.append(len(self.buf))

    with open(path, "rb", buffering=0) as f:
        reader.run(Counting(f.fileno()), path)
    assert sum(taken) < 200_000 < path.stat().st_size
