"""What a pickle may call: each name leads to a function of ours that checks its arguments.

A pickle builds its values by calling what it names. Here a name (GLOBALS) leads to a function
(MAKERS) that returns plain data; nothing is imported for a pickle. How numpy writes arrays:
numpy/_core/src/multiarray/methods.c (array_reduce, array_reduce_ex_picklebuffer); how Python
writes times: Lib/_pydatetime.py (_getstate).
"""

from __future__ import annotations

import os
import struct
from datetime import datetime, timedelta, timezone
from typing import Any, Protocol

from embeddings.pickles.values import (
    NUMBERS,
    PickleArray,
    PickleBytes,
    PickleDtype,
    PickleGlobal,
    PickleRefused,
    PickleText,
)


class Decoder(Protocol):
    """What the makers need of the machine: its file, and the characters of a text."""

    fd: int

    def decode(self, value: Any, what: str = ...) -> str: ...


GLOBALS = {
    "numpy.core.multiarray _reconstruct": "_reconstruct",
    "numpy._core.multiarray _reconstruct": "_reconstruct",
    "numpy.core.multiarray scalar": "scalar",
    "numpy._core.multiarray scalar": "scalar",
    "numpy.core.numeric _frombuffer": "_frombuffer",
    "numpy._core.numeric _frombuffer": "_frombuffer",
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",
    "datetime datetime": "datetime",
    "datetime timezone": "timezone",
    "datetime timedelta": "timedelta",
}


def new_array(machine: Decoder, cls: Any, shape: Any, code: Any) -> PickleArray:
    if cls != PickleGlobal("ndarray") or shape != (0,) or not isinstance(code, PickleBytes):
        raise PickleRefused("an array that is not numpy's own")
    return PickleArray()


def new_dtype(machine: Decoder, code: Any, align: Any, copy: Any) -> PickleDtype:
    code = machine.decode(code, "a type")
    if code not in NUMBERS:
        kinds = {"O": "Python objects", "V": "structures", "U": "strings", "S": "strings"}
        raise PickleRefused(f"an array of {kinds.get(code[:1], f'type {code!a}'[:40])}")
    if (align, copy) not in ((False, True), (0, 1)):
        raise PickleRefused("a type with arguments that numpy does not write")
    return PickleDtype(code)


def new_scalar(machine: Decoder, dtype: Any, data: Any) -> int | float | bool:
    if not isinstance(dtype, PickleDtype):
        raise PickleRefused("a number with arguments that numpy does not write")
    form = (dtype.order or "<").replace("|", "<") + NUMBERS[dtype.code]
    return struct.unpack(form, few_bytes(machine, data))[0]


def few_bytes(machine: Decoder, data: Any) -> bytes:
    """The contents of a short PickleBytes."""
    if not isinstance(data, PickleBytes) or data.length > 32:
        raise PickleRefused("something other than a few bytes where a number or a time has them")
    raw = os.pread(machine.fd, data.length, data.offset)
    return raw.decode("utf-8").encode("latin-1") if data.escaped else raw


def new_datetime(machine: Decoder, data: Any, zone: Any = None) -> str:
    """ISO 8601. Ten bytes: year (2), month, day, hour, minute, second, microsecond (3)."""
    raw = few_bytes(machine, data)
    if len(raw) != 10 or not (zone is None or isinstance(zone, timezone)):
        raise PickleRefused("a datetime with arguments that Python does not write")
    year, micro = int.from_bytes(raw[:2], "big"), int.from_bytes(raw[7:], "big")
    month = raw[2] & 0x7F  # the highest bit is `fold`
    return datetime(year, month, *raw[3:7], micro, zone).isoformat()


def new_timezone(machine: Decoder, offset: Any) -> timezone:
    return timezone(offset)


def new_timedelta(machine: Decoder, *parts: Any) -> timedelta:
    if len(parts) != 3 or any(type(part) is not int for part in parts):
        raise PickleRefused("a timedelta with arguments that Python does not write")
    return timedelta(*parts)


def new_from_buffer(
    machine: Decoder, data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None
) -> PickleArray:
    order = machine.decode(order, "an order")
    if order not in ("C", "F") or axes is not None:
        raise PickleRefused("an array that is neither in C nor in Fortran order")
    array = PickleArray()
    fill_array(array, data, dtype, shape, order == "F")
    return array


def new_bytes(machine: Decoder, text: Any, encoding: Any) -> PickleBytes:
    if not isinstance(text, PickleText) or machine.decode(encoding, "an encoding") != "latin1":
        raise PickleRefused("_codecs.encode with arguments that pickle does not write")
    return PickleBytes(text.offset, text.length, escaped=True)


def fill_array(array: PickleArray, data: Any, dtype: Any, shape: Any, fortran: bool) -> None:
    """Give `array` its elements, if they are exactly as many bytes as its shape needs."""
    if (
        not isinstance(data, PickleBytes)
        or not isinstance(dtype, PickleDtype)
        or dtype.order is None
    ):
        raise PickleRefused("an array whose elements or type are not given plainly")
    if type(shape) is not tuple or len(shape) > 8 or any(type(n) is not int for n in shape):
        raise PickleRefused("an array with a shape that is not a tuple of numbers")
    need = int(dtype.code[1:])
    for n in shape:
        need *= n
    if min(shape, default=0) < 0 or not need <= data.length <= (2 * need if data.escaped else need):
        raise PickleRefused(f"an array of shape {shape} in {data.length} bytes")
    array.data, array.dtype, array.shape, array.fortran = data, dtype, shape, fortran


MAKERS = {
    "_reconstruct": new_array,
    "_frombuffer": new_from_buffer,
    "dtype": new_dtype,
    "scalar": new_scalar,
    "encode": new_bytes,
    "datetime": new_datetime,
    "timezone": new_timezone,
    "timedelta": new_timedelta,
}
