"""A JSON schema as a grammar of answers: everything that the grammar makes is valid.

automaton(schema) takes the common part of JSON Schema: type, enum, const, properties, required,
additionalProperties, items, minItems, maxItems, minLength, maxLength, anyOf, oneOf of shapes that
exclude each other, allOf of one, $ref into the schema itself. Titles, descriptions and the like say
nothing about the shape. Every other keyword is refused by name (SchemaRefused), not ignored.

Fields come in the order of `properties`; where `properties` names some, no other ones are written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from serving import json_grammar
from serving.json_grammar import (
    ANY,
    ANY_SHAPE,
    AnyOf,
    Automaton,
    Call,
    Dictionary,
    Items,
    KnownFields,
    Literals,
    Number,
    Text,
)

SILENT = {"title", "description", "default", "examples", "$schema", "$id", "$comment",
          "deprecated", "readOnly", "writeOnly", "$defs", "definitions"}  # fmt: skip
KEYWORDS = {  # of one type; each is refused beside another
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength"},
    "number": set(), "integer": set(), "boolean": set(), "null": set(),
}  # fmt: skip
JOINS = ("$ref", "enum", "const", "anyOf", "oneOf", "allOf")
ROOT = "#"
DEEPEST = 60  # schemas in one another
MOST_REFERENCES = 300
PLAIN = {"boolean": Literals((b"true", b"false")), "null": Literals((b"null",)),
         "number": Number(), "integer": Number(whole=True)}  # fmt: skip


class SchemaRefused(ValueError):
    """A schema that answers cannot be held to; `place` is the path of the keyword."""

    def __init__(self, place: str, why: str):
        self.place, self.why = place, why
        super().__init__(f"{place}: {why}")


def automaton(schema: Any, anything: bool = False) -> Automaton:
    """The automaton of a schema's answers; `anything`: of any JSON object, without a schema."""
    if anything:
        return Automaton({ANY: ANY_SHAPE, ROOT: Dictionary(Call(ANY))}, ROOT)
    reader = _Reader(schema)
    named = reader.read_all()
    try:
        made = Automaton(named, ROOT)
    except json_grammar.GrammarTooLarge:
        raise SchemaRefused("schema", "is too large") from None
    if made.heights[ROOT] > json_grammar.DEPTH:
        why = "no answer is valid" if made.heights[ROOT] == math.inf else "is nested too deep"
        raise SchemaRefused("schema", why)
    return made


class _Reader:
    """Reads one schema; `named` are the shapes that references lead to."""

    def __init__(self, schema: Any):
        self._schema, self._named, self._open = schema, {ANY: ANY_SHAPE}, [ROOT]
        self._alternatives: list[tuple[tuple[Any, ...], str]] = []  # of each oneOf, its place
        self._guessed: list[Any] = []  # shapes whose schema names no type

    def read_all(self) -> dict[str, Any]:
        """{reference: shape}, of the root and all that it refers to."""
        while self._open:
            reference = self._open.pop()
            if len(self._named) > MOST_REFERENCES:
                raise SchemaRefused("schema", f"refers to more than {MOST_REFERENCES} schemas")
            if reference not in self._named:
                place = "schema" + reference.removeprefix("#").replace("/", ".")
                self._named[reference] = self._read(self._find(reference, place), place, 0)
        for reference in self._named:
            self._check_circle(reference)
        for shapes, place in self._alternatives:
            self._check_apart(shapes, place)
        return self._named

    def _find(self, reference: str, place: str) -> Any:
        """What a reference means; SchemaRefused where nothing is there."""
        at = self._schema
        for part in reference.split("/")[1:]:
            part = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(at, list) and part.isdecimal() and int(part) < len(at):
                at = at[int(part)]
            elif isinstance(at, dict) and part in at:
                at = at[part]
            else:
                raise SchemaRefused(place, "is referred to and not there")
        return at

    def _check_circle(self, reference: str) -> None:
        """Refuse a reference that leads back to itself before anything is written."""
        open_, seen = [self._named[reference]], set()
        while open_:
            shape = open_.pop()
            if isinstance(shape, AnyOf):
                open_ += shape.shapes
            elif isinstance(shape, Call):
                if shape.name == reference:
                    raise SchemaRefused(f"schema{reference[1:]}", "refers to itself alone")
                if shape.name not in seen:
                    seen.add(shape.name)
                    open_.append(self._named[shape.name])

    # --- one schema ---------------------------------------------------------------------------
    def _read(self, schema: Any, place: str, depth: int) -> Any:
        """The shape of a schema."""
        if schema is True or schema == {}:
            return Call(ANY)
        if schema is False:
            return Literals(())
        if not isinstance(schema, dict):
            raise SchemaRefused(place, "must be an object, true or false")
        if depth > DEEPEST:
            raise SchemaRefused(place, "is nested too deep")
        if depth and "$id" in schema:
            raise SchemaRefused(f"{place}.$id", "is supported at the root alone")
        given = {key: value for key, value in schema.items() if key not in SILENT}
        joins = [key for key in JOINS if key in given]
        if joins:
            return self._join(joins[0], given, place, depth)
        types = self._types(given, place)
        self._check_keywords(given, types, place)
        if not types:
            types = [name for name, keys in KEYWORDS.items() if keys & given.keys()]
        if not types:
            return Call(ANY)
        shapes = tuple(self._typed(name, given, place, depth) for name in types)
        if "type" not in given:
            self._guessed += shapes
        return shapes[0] if len(shapes) == 1 else AnyOf(shapes)

    @staticmethod
    def _check_keywords(given: dict[str, Any], types: list[str], place: str) -> None:
        """SchemaRefused for a keyword that none of the types has; no types: any type."""
        for key in given:
            if key != "type" and not any(key in KEYWORDS[name] for name in types or KEYWORDS):
                known = any(key in keys for keys in KEYWORDS.values())
                why = f"does not go with type {', '.join(types)}" if known else "is not supported"
                raise SchemaRefused(f"{place}.{key}", why)

    @staticmethod
    def _types(given: dict[str, Any], place: str) -> list[str]:
        """The types that a schema names; [] for none."""
        types = given.get("type", [])
        types = [types] if isinstance(types, str) else types
        named = isinstance(types, list) and all(isinstance(name, str) for name in types)
        if not named or ("type" in given and not types):
            raise SchemaRefused(f"{place}.type", "must be the name of a type, or a list of them")
        for name in types:
            if name not in KEYWORDS:
                raise SchemaRefused(f"{place}.type", f"{name} is no type of JSON Schema")
        both = "number" in types  # an integer is a number too
        return [name for name in dict.fromkeys(types) if not (both and name == "integer")]

    def _join(self, key: str, given: dict[str, Any], place: str, depth: int) -> Any:
        """A schema that is a reference, a list of values or of other schemas."""
        others = given.keys() - {key} - ({"type"} if key in ("enum", "const") else set())
        if others:
            raise SchemaRefused(f"{place}.{min(others)}", f"is not supported beside {key}")
        value, here = given[key], f"{place}.{key}"
        if key == "$ref":
            return self._reference(value, here)
        if key == "const":
            return self._values([value], given, place)
        if not isinstance(value, list) or not value:
            raise SchemaRefused(here, "must be a list that is not empty")
        if key == "enum":
            return self._values(value, given, place)
        shapes = tuple(self._read(option, f"{here}.{i}", depth + 1)
                       for i, option in enumerate(value))  # fmt: skip
        if key == "allOf" and len(shapes) > 1:
            raise SchemaRefused(here, "of several schemas is not supported")
        if key == "oneOf":
            self._alternatives.append((shapes, here))
        return shapes[0] if len(shapes) == 1 else AnyOf(shapes)

    def _reference(self, value: Any, place: str) -> Call:
        if not isinstance(value, str) or not (value == ROOT or value.startswith("#/")):
            raise SchemaRefused(place, "must lead into the schema itself (#/$defs/NAME)")
        self._open.append(value)
        return Call(value)

    def _values(self, values: list[Any], given: dict[str, Any], place: str) -> Literals:
        """The values of an enum that are of the schema's types."""
        types = self._types(given, place)
        texts = [_text(value) for value in values if not types or _type(value) & set(types)]
        return Literals(tuple(texts))

    def _typed(self, name: str, given: dict[str, Any], place: str, depth: int) -> Any:
        if name == "object":
            return self._object(given, place, depth)
        if name == "array":
            low, high = _bounds(given, "minItems", "maxItems", place)
            return Items(self._read(given.get("items", True), f"{place}.items", depth + 1),
                         low, high)  # fmt: skip
        if name == "string":
            return Text(*_bounds(given, "minLength", "maxLength", place))
        return PLAIN[name]

    def _object(self, given: dict[str, Any], place: str, depth: int) -> Any:
        properties, required = given.get("properties", {}), given.get("required", [])
        if not isinstance(properties, dict):
            raise SchemaRefused(f"{place}.properties", "must be an object")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise SchemaRefused(f"{place}.required", "must be a list of names")
        other = given.get("additionalProperties", True)
        here = f"{place}.additionalProperties"
        others = self._read(other, here, depth + 1)
        if not properties and not required:
            return KnownFields(()) if other is False else Dictionary(others)
        fields = [
            (_text(name), self._read(schema, f"{place}.properties.{name}", depth + 1),
             name in required)
            for name, schema in properties.items()
        ]  # fmt: skip
        missing = [name for name in dict.fromkeys(required) if name not in properties]
        return KnownFields((*fields, *((_text(name), others, True) for name in missing)))

    # --- oneOf --------------------------------------------------------------------------------
    def _check_apart(self, shapes: tuple[Any, ...], place: str) -> None:
        """Refuse oneOf unless no value can have two of its shapes."""
        options = [list(self._simple(shape, set())) for shape in shapes]
        for i, one in enumerate(options):
            for other in options[:i]:
                if not all(self._apart(a, b) for a in one for b in other):
                    why = "a value could have two of these shapes; use anyOf"
                    raise SchemaRefused(place, why)

    def _simple(self, shape: Any, seen: set[str]) -> Iterator[Any]:
        """A shape without choices and references."""
        if isinstance(shape, AnyOf):
            for option in shape.shapes:
                yield from self._simple(option, seen)
        elif isinstance(shape, Call):
            if shape.name not in seen:
                seen.add(shape.name)
                yield from self._simple(self._named[shape.name], seen)
        else:
            yield shape

    def _apart(self, one: Any, other: Any) -> bool:
        """Whether no value has both of these shapes."""
        if any(shape is guess for guess in self._guessed for shape in (one, other)):
            return False
        if not _firsts(one) & _firsts(other):
            return True
        if isinstance(one, Literals) and isinstance(other, Literals):
            return not {_equal(t) for t in one.texts} & {_equal(t) for t in other.texts}
        if not (isinstance(one, KnownFields) and isinstance(other, KnownFields)):
            return False
        theirs = {name: value for name, value, needed in other.fields if needed}
        return any(
            isinstance(value, Literals) and isinstance(theirs.get(name), Literals)
            and self._apart(value, theirs[name])
            for name, value, needed in one.fields if needed
        )  # fmt: skip


def _text(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"),
                          allow_nan=False).encode()  # fmt: skip
    except ValueError:
        raise SchemaRefused("schema", "a value is not finite, or no Unicode") from None


def _equal(text: bytes) -> str:
    """The same text for equal values: 1 and 1.0 are one, 1 and true are two."""
    return json.dumps(json.loads(text, parse_int=float), sort_keys=True)


def _type(value: Any) -> set[str]:
    """The names of a value's types."""
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return {"number", "integer"}
    names = {float: "number", str: "string", list: "array", dict: "object", type(None): "null"}
    return {names[type(value)]}


def _firsts(shape: Any) -> set[str]:
    """What its values begin with, by type."""
    if isinstance(shape, Literals):
        return {"0" if t[:1] in b"-0123456789" else t[:1].decode() for t in shape.texts}
    if isinstance(shape, KnownFields | Dictionary):
        return {"{"}
    return {"["} if isinstance(shape, Items) else {'"'} if isinstance(shape, Text) else {"0"}


def _bounds(given: dict[str, Any], low: str, high: str, place: str) -> tuple[int, int | None]:
    """The two bounds of a length."""
    for key in (low, high):
        value = given.get(key, 0)
        if "integer" not in _type(value) or value < 0:
            raise SchemaRefused(f"{place}.{key}", "must be a whole number from 0 on")
    least, most = int(given.get(low, 0)), given.get(high)
    if most is not None and most < least:
        raise SchemaRefused(f"{place}.{high}", f"is below {low}")
    beyond = json_grammar.MOST_PLACES + 1  # too large, however much larger
    return min(least, beyond), None if most is None else min(int(most), beyond)
