"""Pickles made to harm whoever reads them: {name: bytes}. `CANARY` is the file a code run makes.

python tests/support/embeddings_hostile.py FOLDER      writes each to a file of its own there
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np

CANARY = "/tmp/tandem-canary"


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def name(module: str, attribute: str) -> bytes:
    return b"c" + f"{module}\n{attribute}\n".encode()


def honest(**changes: Any) -> bytes:
    value = {
        "embeddings": np.ones((4, 4), "f4"), "start_index": 0, "end_index": 4, "model": "m"
    } | changes  # fmt: skip
    return pickle.dumps(value, 4)


def with_key(value: bytes, begin: bytes = b"\x80\x04") -> bytes:
    """A dict with one key, `embeddings`, whose value is these opcodes."""
    return begin + b"}" + text("embeddings") + value + b"s."


def array(shape: bytes, dtype: bytes, state: bytes) -> bytes:
    made = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray")
    made += b"K\x00\x85C\x01b\x87R"
    return made + b"(K\x01" + shape + dtype + b"\x89" + state + b"tb"


def dtype(code: str, state: bytes = b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"):
    return (
        name("numpy", "dtype") + text(code) + b"\x89\x88\x87R" + state.replace(b"U\x01<", text("<"))
    )


SHELL, CODE = f"touch {CANARY}", f"open({CANARY!r}, 'w').close()"
PLAIN = dtype("f4")


def running_code() -> dict[str, bytes]:
    """Pickles that call a function."""
    return {
        "os.system": honest(extra=Calls(os.system, SHELL)),
        "eval": honest(extra=Calls(eval, CODE)),
        "exec": honest(extra=Calls(exec, CODE)),
        "open": honest(extra=Calls(open, CANARY, "w")),
        "builtins by protocol 2": pickle.dumps({"embeddings": Calls(exec, CODE)}, 2),
        "os.system by protocol 0": pickle.dumps({"embeddings": Calls(os.system, SHELL)}, 0),
        "getattr chain": honest(extra=Calls(getattr, Calls(__import__, "os"), "system")),
        "INST": b"(S'" + SHELL.encode() + b"'\nios\nsystem\n.",
        "OBJ": b"\x80\x02(" + name("os", "system") + text(SHELL) + b"o.",
        "NEWOBJ": b"\x80\x02" + name("os", "system") + b")\x81.",
        "NEWOBJ_EX": b"\x80\x04" + name("os", "system") + b")}\x92.",
        "EXT1": b"\x80\x02\x82\x01.",
        "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
        "PERSID": b"\x80\x02Pos.system\n.",
        "BINPERSID": b"\x80\x02" + text("x") + b"Q.",
        "dotted name": with_key(text("numpy") + text("core.multiarray.os.system") + b"\x93"),
        "numpy runstring": with_key(
            name("numpy.testing._private.utils", "runstring") + text(CODE) + b"}\x86R"
        ),
        "BUILD of a global": with_key(name("numpy", "ndarray") + b"}b"),
        "BUILD of a dict": with_key(b"}}b"),
        "call of ndarray": with_key(name("numpy", "ndarray") + b"(K\x02tR"),
        "call of a string": with_key(text("os.system") + b"(" + text(SHELL) + b"tR"),
        "call with a list": with_key(name("numpy", "dtype") + b"]R"),
    }


def filling_memory() -> dict[str, bytes]:
    """Pickles that ask for more memory or time than their size."""
    huge8, huge4 = struct.pack("<Q", 1 << 40), struct.pack("<I", (1 << 32) - 1)
    return {
        "LONG_BINPUT": b"\x80\x02Kar\xff\xff\xff\x7f.",
        "bytearray": honest(extra=Calls(bytearray, 10**10)),
        "BYTEARRAY8 too long": with_key(b"\x96" + huge8 + b"abc"),
        "BINBYTES8 too long": with_key(b"\x8e" + huge8 + b"abc"),
        "BINUNICODE too long": with_key(b"X" + huge4 + b"abc"),
        "BINUNICODE8 too long": with_key(b"\x8d" + huge8 + b"abc"),
        "negative BINBYTES8": with_key(b"\x8e" + b"\xff" * 8),
        "FRAME too long": b"\x80\x04\x95" + huge8 + b"}.",
        "LONG4": with_key(b"\x8b\x00\x00\x00\x10" + b"\xff" * 100),
        "LONG1 of 255 bytes": with_key(b"\x8a\xff" + b"\x7f" * 255),
        "LONG in decimal": b"\x80\x02L" + b"9" * 200_000 + b"L\n.",
        "a million lists": with_key(b"]" + b"]" * 1_000_000),
        "a million marks": with_key(b"(" * 1_000_000),
        "a million memos": with_key(b"N" + b"\x94" * 1_000_000),
        "DUP doubling": with_key(b"]" + b"2" * 100_000),
        "nested tuples": with_key(b")" + b"\x85" * 300_000),
        "tuples that hash for ever": b"\x80\x04})" + b"\x94h\x00\x86" * 60 + b"Ns.",
        "endless name": b"\x80\x02c" + b"a" * 5_000_000,
        "repeated text": with_key(b"]" + (text("a" * 4000) + b"\x94a") * 9000),
    }


def odd_arrays() -> dict[str, bytes]:
    """Arrays whose shape, dtype or state is not what numpy writes."""
    largest = b"J\xff\xff\xff\x7f"
    fields = b"(K\x03" + text("<") + b"N" + text("f") + b"\x85}K\x01K\x01K\x1btb"
    return {
        "huge shape": with_key(array(largest * 2 + b"\x86", PLAIN, b"C\x04abcd")),
        "negative shape": with_key(array(b"J\xff\xff\xff\xffK\x04\x86", PLAIN, b"C\x04abcd")),
        "shape of text": with_key(array(text("ab") + b"\x85", PLAIN, b"C\x04abcd")),
        "nested shape": with_key(array(b"K\x01\x85K\x01\x86", PLAIN, b"C\x04abcd")),
        "more bytes than the shape": with_key(array(b"K\x01K\x01\x86", PLAIN, b"C\x08abcdefgh")),
        "object array": honest(embeddings=np.array([[1, "a"]], object)),
        "string array": honest(embeddings=np.array([["a", "b"]])),
        "structured array": honest(embeddings=np.zeros((2, 2), "f4,i4")),
        "dtype with fields": with_key(array(b"K\x01K\x01\x86", dtype("f4", fields), b"C\x04abcd")),
        "dtype with a wild state": with_key(dtype("f4", b"(J\xff\xff\xff\x7fN]tb")),
        "dtype of its own length": with_key(
            array(b"K\x01K\x01\x86", dtype("V999999999"), b"C\x04abcd")
        ),
        "dtype built twice": with_key(
            PLAIN + b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        ),  # fmt: skip
        "array never filled": with_key(
            name("numpy.core.multiarray", "_reconstruct")
            + name("numpy", "ndarray")
            + b"K\x00\x85C\x01b\x87R"
        ),  # fmt: skip
        "subclass": with_key(
            name("numpy.core.multiarray", "_reconstruct")
            + name("numpy", "memmap")
            + b"K\x00\x85C\x01b\x87R"
        ),  # fmt: skip
        "out-of-band buffer": b"\x80\x05}" + text("embeddings") + b"\x97s.",
    }


def broken_form() -> dict[str, bytes]:
    """What is no whole, single pickle of one dict."""
    return {
        "trailing bytes": honest() + b"cos\nsystem\n(S'true'\ntR.",
        "second pickle": honest() + honest(),
        "duplicate keys": b"\x80\x04}" + text("model") + b"Ns" + text("model") + b"K\x01s.",
        "key that is no text": b"\x80\x04}NNs.",
        "a list that holds itself": b"\x80\x04]\x94h\x00a.",
        "a dict that holds itself": b"\x80\x04}\x94" + text("embeddings") + b"h\x00s.",
        "pop of nothing": b"\x80\x040.",
        "tuple of nothing": b"\x80\x04\x87.",
        "recall of nothing": with_key(b"h\x05"),
        "stop at once": b"\x80\x04.",
        "marks left over": b"\x80\x04(}.",
        "protocol 9": b"\x80\x09}.",
        "protocol 1": pickle.dumps({"embeddings": 1}, 1),
        "no pickle": b"PK\x03\x04" + b"\0" * 100,
        "empty": b"",
        "bad UTF-8": with_key(b"X\x02\x00\x00\x00\xc3(").replace(
            text("embeddings"), b"\x8c\x02\xc3("
        ),
    }


def corpus() -> dict[str, bytes]:
    """Every hostile pickle, by what it tries."""
    return running_code() | filling_memory() | odd_arrays() | broken_form()


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(corpus().values()):
        (folder / f"cluster1_gpu{number}.pkl").write_bytes(data)


if __name__ == "__main__":
    main()
