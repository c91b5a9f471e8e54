"""The values of a pickle that is read as data: plain ones, and places in the file."""

from __future__ import annotations

from dataclasses import dataclass

NUMBERS = {  # numpy's type codes and how struct reads one of them
    "f2": "e", "f4": "f", "f8": "d", "b1": "?",
    "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
}  # fmt: skip


def kind_name(value: object) -> str:
    """'text' of a PickleText, 'dict' of a dict: how messages name a value."""
    return type(value).__name__.removeprefix("Pickle").lower()


class PickleRefused(Exception):
    """What `read` turns into a Problem: the reason, without file and position."""


@dataclass(frozen=True)
class PickleText:
    """A string that is not read yet: `length` UTF-8 bytes at `offset`."""

    offset: int
    length: int


@dataclass(frozen=True)
class PickleBytes:
    """Bytes that are not read. `escaped`: each is a Latin-1 character in UTF-8."""

    offset: int
    length: int
    escaped: bool = False


@dataclass(frozen=True)
class PickleGlobal:
    """A name that an honest checkpoint uses. It is only ever compared, never imported."""

    name: str


@dataclass
class PickleDtype:
    """A numpy type: `code` as in NUMBERS, `order` '<', '>' or '|'; None until BUILD."""

    code: str
    order: str | None = None


@dataclass
class PickleArray:
    """A numpy array: where its elements lie. `data` is None until BUILD filled it."""

    dtype: PickleDtype | None = None
    shape: tuple[int, ...] = ()
    fortran: bool = False
    data: PickleBytes | None = None
