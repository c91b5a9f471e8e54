"""What an honest checkpoint is made of: plain values, places in the file, and who may make them.

A pickle builds its values by calling what it names. Here a name (GLOBALS) leads to a function of
ours (MAKERS) that checks its arguments and returns plain data; nothing is imported for a pickle.
How numpy writes arrays: numpy/_core/src/multiarray/methods.c (array_reduce,
array_reduce_ex_picklebuffer); how Python writes times: Lib/_pydatetime.py (_getstate).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embeddings.pickles.reader import Machine

NUMBERS = {  # numpy's type codes and how struct reads one of them
    "f2": "e", "f4": "f", "f8": "d", "b1": "?",
    "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
}  # fmt: skip


class Refused(Exception):
    """What `read` turns into a Problem: the reason, without file and position."""


@dataclass(frozen=True)
class Text:
    """A string that is not read yet: `length` UTF-8 bytes at `offset`."""

    offset: int
    length: int


@dataclass(frozen=True)
class Bytes:
    """Bytes that are not read. `escaped`: each stands as a Latin-1 character in UTF-8."""

    offset: int
    length: int
    escaped: bool = False


@dataclass(frozen=True)
class Global:
    """A name that an honest checkpoint uses. It is only ever compared, never imported."""

    name: str


@dataclass
class Dtype:
    """A numpy type: `code` as in NUMBERS, `order` '<', '>' or '|'; None until BUILD."""

    code: str
    order: str | None = None


@dataclass
class Array:
    """A numpy array: where its elements lie. `data` is None until BUILD filled it."""

    dtype: Dtype | None = None
    shape: tuple[int, ...] = ()
    fortran: bool = False
    data: Bytes | None = None


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


def new_array(machine: Machine, cls: Any, shape: Any, code: Any) -> Array:
    if cls != Global("ndarray") or shape != (0,) or not isinstance(code, Bytes):
        raise Refused("an array that is not numpy's own")
    return Array()


def new_dtype(machine: Machine, code: Any, align: Any, copy: Any) -> Dtype:
    code = machine.decode(code, "a type")
    if code not in NUMBERS:
        kinds = {"O": "Python objects", "V": "structures", "U": "strings", "S": "strings"}
        raise Refused(f"an array of {kinds.get(code[:1], f'type {code!a}'[:40])}")
    if (align, copy) not in ((False, True), (0, 1)):
        raise Refused("a type with arguments that numpy does not write")
    return Dtype(code)


def new_scalar(machine: Machine, dtype: Any, data: Any) -> int | float | bool:
    if not isinstance(dtype, Dtype):
        raise Refused("a number with arguments that numpy does not write")
    form = (dtype.order or "<").replace("|", "<") + NUMBERS[dtype.code]
    return struct.unpack(form, few_bytes(machine, data))[0]


def few_bytes(machine: Machine, data: Any) -> bytes:
    """The contents of a short Bytes."""
    if not isinstance(data, Bytes) or data.length > 32:
        raise Refused("something other than a few bytes where a number or a time has them")
    raw = os.pread(machine.fd, data.length, data.offset)
    return raw.decode("utf-8").encode("latin-1") if data.escaped else raw


def new_datetime(machine: Machine, data: Any, zone: Any = None) -> str:
    """ISO 8601. Ten bytes: year (2), month, day, hour, minute, second, microsecond (3)."""
    raw = few_bytes(machine, data)
    if len(raw) != 10 or not (zone is None or isinstance(zone, timezone)):
        raise Refused("a datetime with arguments that Python does not write")
    year, micro = int.from_bytes(raw[:2], "big"), int.from_bytes(raw[7:], "big")
    month = raw[2] & 0x7F  # the highest bit is `fold`
    return datetime(year, month, *raw[3:7], micro, zone).isoformat()


def new_timezone(machine: Machine, offset: Any) -> timezone:
    return timezone(offset)


def new_timedelta(machine: Machine, *parts: Any) -> timedelta:
    if len(parts) != 3 or any(type(part) is not int for part in parts):
        raise Refused("a timedelta with arguments that Python does not write")
    return timedelta(*parts)


def new_from_buffer(
    machine: Machine, data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None
) -> Array:
    order = machine.decode(order, "an order")
    if order not in ("C", "F") or axes is not None:
        raise Refused("an array that is neither in C nor in Fortran order")
    array = Array()
    fill_array(array, data, dtype, shape, order == "F")
    return array


def new_bytes(machine: Machine, text: Any, encoding: Any) -> Bytes:
    if not isinstance(text, Text) or machine.decode(encoding, "an encoding") != "latin1":
        raise Refused("_codecs.encode with arguments that pickle does not write")
    return Bytes(text.offset, text.length, escaped=True)


def fill_array(array: Array, data: Any, dtype: Any, shape: Any, fortran: bool) -> None:
    """Give `array` its elements, if they are exactly as many bytes as its shape needs."""
    if not isinstance(data, Bytes) or not isinstance(dtype, Dtype) or dtype.order is None:
        raise Refused("an array whose elements or type are not given plainly")
    if type(shape) is not tuple or len(shape) > 8 or any(type(n) is not int for n in shape):
        raise Refused("an array with a shape that is no tuple of numbers")
    need = int(dtype.code[1:])
    for n in shape:
        need *= n
    if min(shape, default=0) < 0 or not need <= data.length <= (2 * need if data.escaped else need):
        raise Refused(f"an array of shape {shape} in {data.length} bytes")
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
