"""JSON of a known shape, read byte by byte: which bytes may follow what was written so far.

Shapes (Literals, Text, Number, KnownFields, Dictionary, Items, AnyOf, Call) make a grammar;
serving/json_schema.py makes them of a JSON schema. The automaton has a stack of calls, one for each
recursion, which ends at DEPTH calls: a choice that would need more is not offered. Between two
tokens of JSON there is one space or none, so no answer can go on with blanks for ever.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

DEPTH = 32  # calls in one another: objects and lists of any kind, and references
MOST_PLACES = 30_000  # of an automaton; steps of a larger one would keep other answers waiting
DIGITS, EXPONENT = 15, 2  # digits that every reader takes without loss


class GrammarTooLarge(ValueError):
    """The shapes need more than MOST_PLACES places."""


@dataclasses.dataclass(frozen=True)
class Literals:
    """One of these texts of JSON."""

    texts: tuple[bytes, ...]


@dataclasses.dataclass(frozen=True)
class Text:
    """A string of `low` to `high` characters."""

    low: int = 0
    high: int | None = None


@dataclasses.dataclass(frozen=True)
class Number:
    """A number, or one without fraction and exponent."""

    whole: bool = False


@dataclasses.dataclass(frozen=True)
class KnownFields:
    """An object of known fields, in this order: (name as JSON text, shape, required)."""

    fields: tuple[tuple[bytes, Any, bool], ...]


@dataclasses.dataclass(frozen=True)
class Dictionary:
    """An object of any names, whose values have one shape."""

    value: Any


@dataclasses.dataclass(frozen=True)
class Items:
    """A list of `low` to `high` values of one shape."""

    value: Any
    low: int = 0
    high: int | None = None


@dataclasses.dataclass(frozen=True)
class AnyOf:
    """Any of these shapes."""

    shapes: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Call:
    """A reference to the shape of that name."""

    name: str


ANY = "any"  # the name of the shape that every JSON value has
ANY_SHAPE = AnyOf((Dictionary(Call(ANY)), Items(Call(ANY)), Text(), Number(),
                    Literals((b"true", b"false", b"null"))))  # fmt: skip
CHARACTER = "character"


def heights(named: Mapping[str, Any]) -> dict[str, float]:
    """How deeply calls nest in the smallest value of each named shape; inf: no finite value."""
    known: dict[str, float] = dict.fromkeys(named, math.inf)
    while True:
        better = {name: height(shape, known) for name, shape in named.items()}
        if better == known:
            return known
        known = better


def height(shape: Any, known: Mapping[str, float]) -> float:
    """How deeply calls nest in the smallest value of a shape."""
    if isinstance(shape, Call):
        return 1 + known[shape.name]
    if isinstance(shape, Text):
        return 1 if shape.low else 0
    if isinstance(shape, AnyOf):
        return min((height(option, known) for option in shape.shapes), default=math.inf)
    if isinstance(shape, Items):
        return height(shape.value, known) if shape.low else 0
    if isinstance(shape, KnownFields):
        return max((height(value, known) for _, value, needed in shape.fields if needed), default=0)
    return 0 if not isinstance(shape, Literals) or shape.texts else math.inf


class Automaton:
    """The places of a grammar. `named`: its shapes; an answer has the shape `root`."""

    def __init__(self, named: Mapping[str, Any], root: str):
        self.heights = heights(named)
        self.bytes: list[list[tuple[int, int, int]]] = []  # from, to, place that follows
        self.free: list[list[tuple[int, float]]] = []  # place that follows, calls that it needs
        self.calls: list[tuple[str, int] | None] = []  # shape, place to return to
        self.room: dict[int, float] = {}  # characters that a text takes; by its place of return
        self.entries, self.ends = {}, set()
        for name in (CHARACTER, *named):
            self.entries[name] = self._place()
        for name, shape in named.items():
            self.ends.add(self._shape(self.entries[name], shape))
        self.ends.add(self._character(self.entries[CHARACTER]))
        self.start = self._place()
        self.ends.add(self._call(self._space(self.start), root))

    # --- places -------------------------------------------------------------------------------
    def _place(self) -> int:
        if len(self.bytes) >= MOST_PLACES:
            raise GrammarTooLarge(f"more than {MOST_PLACES:,} places")
        self.bytes.append([])
        self.free.append([])
        self.calls.append(None)
        return len(self.bytes) - 1

    def _range(self, place: int, low: int, high: int, end: int | None = None) -> int:
        end = self._place() if end is None else end
        self.bytes[place].append((low, high, end))
        return end

    def _bytes(self, place: int, text: bytes) -> int:
        for byte in text:
            place = self._range(place, byte, byte)
        return place

    def _free(self, place: int, end: int, needs: float = 0) -> None:
        self.free[place].append((end, needs))

    def _call(self, place: int, name: str, end: int | None = None) -> int:
        """A place that calls has no other way to go on."""
        caller, end = self._place(), self._place() if end is None else end
        self._free(place, caller)
        self.calls[caller] = (name, end)
        return end

    def _space(self, place: int) -> int:
        end = self._bytes(place, b" ")
        self._free(place, end)
        return end

    # --- shapes -------------------------------------------------------------------------------
    def _shape(self, place: int, shape: Any) -> int:
        """The place where a value of that shape, which begins at `place`, ends."""
        if isinstance(shape, Call):
            return self._call(place, shape.name)
        make = {Literals: self._literals, Text: self._text, Number: self._number,
                KnownFields: self._fields, Dictionary: self._dictionary, Items: self._items,
                AnyOf: self._choice}[type(shape)]  # fmt: skip
        return make(place, shape)

    def _literals(self, place: int, shape: Literals) -> int:
        end, following = self._place(), {}
        for text in dict.fromkeys(shape.texts):
            at = place
            for byte in text[:-1]:  # beginnings are shared
                if (at, byte) not in following:
                    following[at, byte] = self._range(at, byte, byte)
                at = following[at, byte]
            self._range(at, text[-1], text[-1], end)
        return end

    def _text(self, place: int, shape: Text) -> int:
        inside, end = self._bytes(place, b'"'), self._place()
        more = math.inf if shape.high is None else shape.high - shape.low
        for left in range(shape.low, 0, -1):
            inside = self._characters(inside, left + more)
        if shape.high is None:
            self._call(inside, CHARACTER, inside)
            self.room[inside] = math.inf
        else:
            for left in range(int(more), 0, -1):
                self._range(inside, 0x22, 0x22, end)
                inside = self._characters(inside, left)
        return self._range(inside, 0x22, 0x22, end)

    def _characters(self, place: int, room: float) -> int:
        end = self._call(place, CHARACTER)
        self.room[end] = room
        return end

    def _number(self, place: int, shape: Number) -> int:
        end, digits = self._place(), self._place()
        self._range(place, 0x2D, 0x2D, digits)
        self._free(place, digits)
        whole = self._range(digits, 0x30, 0x30)
        self._digits(self._range(digits, 0x31, 0x39), DIGITS - 1, whole)
        if shape.whole:
            return whole
        fraction = self._place()
        self._digits(self._range(self._bytes(whole, b"."), 0x30, 0x39), DIGITS - 1, fraction)
        self._free(whole, fraction)
        self._free(fraction, end)
        signed = self._place()
        for letter in b"eE":
            self._range(fraction, letter, letter, signed)
        for sign in b"+-":
            self._range(signed, sign, sign, unsigned := self._place())
            self._digits(self._range(unsigned, 0x30, 0x39), EXPONENT - 1, end)
        self._digits(self._range(signed, 0x30, 0x39), EXPONENT - 1, end)
        return end

    def _digits(self, place: int, most: int, end: int) -> None:
        for _ in range(most):
            self._free(place, end)
            place = self._range(place, 0x30, 0x39)
        self._free(place, end)

    def _fields(self, place: int, shape: KnownFields) -> int:
        """Two chains of places: nothing was written yet, or something was and a comma is due."""
        end = self._place()
        first, later = self._space(self._bytes(place, b"{")), None
        for name, value, needed in shape.fields:
            needs, after = height(value, self.heights), self._place()
            begin = self._place()
            if first is not None:
                self._free(first, begin, needs)
            if later is not None:
                comma = self._place()
                self._free(later, comma, needs)
                self._free(self._space(self._bytes(comma, b",")), begin)
                if not needed:
                    self._free(later, after)
            named = self._space(self._bytes(begin, name + b":"))
            self._free(self._shape(named, value), after)
            first, later = None if needed else first, after
        for last in (first, later):
            if last is not None:
                self._free(last, end)
        return self._close(end, b"}")

    def _close(self, place: int, bracket: bytes) -> int:
        return self._bytes(self._space(place), bracket)

    def _dictionary(self, place: int, shape: Dictionary) -> int:
        begin, end = self._space(self._bytes(place, b"{")), self._place()
        needs = max(1, height(shape.value, self.heights))
        name = self._place()
        self._free(begin, end)
        self._free(begin, name, needs)
        named = self._bytes(self._text(name, Text()), b":")
        after = self._shape(self._space(named), shape.value)
        self._free(after, end)
        self._free(self._space(self._bytes(after, b",")), name)
        return self._bytes(end, b"}")

    def _items(self, place: int, shape: Items) -> int:
        begin = self._space(self._bytes(place, b"["))
        if shape.high == 0:
            return self._close(begin, b"]")
        end, needs = self._place(), height(shape.value, self.heights)
        if not shape.low:
            self._free(begin, end)
        written = max(shape.low, shape.high or 1)  # each with a place of its own
        for i in range(1, written + 1):
            item = self._place()
            self._free(begin, item, needs)
            after = self._shape(item, shape.value)
            if i >= shape.low:
                self._free(after, end)
            if i < written:
                begin = self._space(self._bytes(after, b","))
        if shape.high is None:
            self._free(self._space(self._bytes(after, b",")), item)
        return self._close(end, b"]")

    def _choice(self, place: int, shape: AnyOf) -> int:
        end = self._place()
        for option in shape.shapes:
            begin = self._place()
            self._free(place, begin, height(option, self.heights))
            self._free(self._shape(begin, option), end)
        return end

    def _character(self, place: int) -> int:
        """One character of a text: UTF-8, or an escape that is no half of a pair."""
        end = self._place()
        for low, high in ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7F)):
            self._range(place, low, high, end)
        one, two, three = self._place(), self._place(), self._place()
        for begin, following in ((one, end), (two, one), (three, two)):
            self._range(begin, 0x80, 0xBF, following)
        for lead, last, low, high, following in (
            (0xE0, 0xE0, 0xA0, 0xBF, one), (0xED, 0xED, 0x80, 0x9F, one),
            (0xF0, 0xF0, 0x90, 0xBF, two), (0xF4, 0xF4, 0x80, 0x8F, two),
        ):  # fmt: skip
            self._range(self._range(place, lead, last), low, high, following)
        for low, high, following in ((0xC2, 0xDF, one), (0xE1, 0xEC, two), (0xEE, 0xEF, two),
                                     (0xF1, 0xF3, three)):  # fmt: skip
            self._range(place, low, high, following)
        escape = self._bytes(place, b"\\")
        for letter in b'"\\/bfnrt':
            self._range(escape, letter, letter, end)
        self._hexadecimal(self._bytes(escape, b"u"), end)
        return end

    def _hexadecimal(self, place: int, end: int) -> None:
        third, last, second = self._place(), self._place(), self._place()
        surrogate = self._place()
        any_digit: Iterable[tuple[int, int]] = ((0x30, 0x39), (0x41, 0x46), (0x61, 0x66))
        for begin, following in ((second, third), (third, last), (last, end)):
            for low, high in any_digit:
                self._range(begin, low, high, following)
        for low, high in ((0x30, 0x39), (0x41, 0x43), (0x45, 0x46), (0x61, 0x63), (0x65, 0x66)):
            self._range(place, low, high, second)
        for letter in b"dD":
            self._range(place, letter, letter, surrogate)
        self._range(surrogate, 0x30, 0x37, third)
