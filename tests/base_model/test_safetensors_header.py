"""The reader of safetensors headers refuses each kind of damage by name."""

import json
import re
import struct

import pytest

from base_model import safetensors_header
from base_model.safetensors_header import Broken


def raw_header(value: object) -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text


def entry(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "0 bytes are no safetensors file"),
        (b"\xff" * 8, "a header of 18,446,744,073,709,551,615 bytes"),
        (struct.pack("<Q", 500) + b"{}", "cut off inside its header"),
        (raw_header(b"{not json"), "its header is not JSON"),
        (raw_header(b"[" * 100_000), "its header is not JSON"),
        (raw_header([1]), "not a JSON object"),
        (raw_header(b'{"a": {}, "a": {}}'), "names a tensor twice"),
        (raw_header({"a": 1}), "a: no dtype, shape and offsets"),
        (raw_header({"a": entry("F33")}) + bytes(8), "unknown dtype 'F33'"),
        (raw_header({"a": entry(shape=(-2,))}) + bytes(8), "cannot be"),
        (raw_header({"a": entry(shape=(True, 2))}) + bytes(8), "cannot be"),
        (raw_header({"a": entry(shape=(3,))}) + bytes(8), "does not fill its 8 bytes"),
        (raw_header({"a": entry(shape=(9**99,) * 100_000)}) + bytes(8), "100,000 dimensions"),
        (raw_header({"a": entry(offsets=(4, 12))}) + bytes(12), "begins at 4 where 0 is due"),
        (raw_header({"a": entry(), "b": entry()}) + bytes(8), "b: begins at 0 where 8 is due"),
        (raw_header({"a": entry()}) + bytes(5), "cut off: 3 of 8 bytes of data are missing"),
        (raw_header({"a": entry()}) + bytes(9), "1 bytes too long"),
    ],
)
def test_a_broken_header_says_what_is_wrong(data, expected, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(Broken, match=re.escape(expected)):
        safetensors_header.read(path)


def test_what_the_safetensors_package_writes_is_read(tmp_path):
    numpy = pytest.importorskip("numpy")
    save_file = pytest.importorskip("safetensors.numpy").save_file
    tensors = {
        "a": numpy.zeros((2, 3), "float32"),
        "empty": numpy.zeros((0, 4), "float16"),
        "scalar": numpy.array(1, "int64"),
        "flags": numpy.zeros(5, bool),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert safetensors_header.read(tmp_path / "x.safetensors") == {
        "a": ("F32", (2, 3)),
        "empty": ("F16", (0, 4)),
        "scalar": ("I64", ()),
        "flags": ("BOOL", (5,)),
    }
