"""Files as text and as records, with the number of the line or item that each came from.

A file that cannot be read is a Reject of the whole file (number 0); a line that cannot be read
is a Reject of that line. Nothing is skipped silently.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpus.rows import Reject
from corpus.sources import encodings, file_kinds
from kit import console, json_files

SNIFF = 1 << 16
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_JIS = (b"\x1b$B", b"\x1b$@", b"\x1b(J")  # ISO-2022-JP turns to Japanese with these


LFS_REMEDY = "git lfs pull fetches the file itself"


def lfs_pointer(head: bytes) -> str:
    """What a file is that Git LFS has not fetched yet; '' for other files."""
    pointer = head.startswith(b"version https://git-lfs.github.com/spec/")
    return "a Git LFS pointer, not the file itself" if pointer else ""


def is_unreadable(path: Path) -> bool:
    """Whether reading the whole file will only say why it cannot be read."""
    with open(path, "rb") as f:
        head = f.read(SNIFF)
    return not head or bool(lfs_pointer(head)) or looks_binary(head)


class Unreadable(Exception):
    """A file that is empty, binary or in another encoding; the text says which and the remedy."""


def looks_binary(head: bytes) -> bool:
    """NUL bytes or many control bytes in the first block, and not UTF-16 with its mark."""
    if head.startswith((*_UTF16, *_UTF32)):
        return False
    control = sum(b < 32 and b not in b"\t\n\r\f\x1a\x1b" for b in head)
    return b"\0" in head or control > len(head) // 20


def _encoding_of(data: bytes) -> str:
    """The encoding that a byte-order mark names, else UTF-8."""
    if data.startswith(_UTF32):  # first: UTF-16's mark begins it
        return "utf-32"
    return "utf-16" if data.startswith(_UTF16) else "utf-8-sig"


def text_of_file(
    path: Path, encoding: str | None = None, guess: bool = False, recipe: str = ""
) -> str:
    """The file's text: `encoding`, else its byte-order mark, else UTF-8, else (guess) cp1252.

    Line ends become \\n. Raises Unreadable; `recipe` is the one that its remedy names.
    """
    data = path.read_bytes()
    if not data:
        raise Unreadable("the file has 0 bytes; copy it again or delete it")
    if pointer := lfs_pointer(data[:200]):
        raise Unreadable(f"{pointer}; {LFS_REMEDY}")
    if looks_binary(data[:SNIFF]):
        what = file_kinds.describe(path, data[:16])
        raise Unreadable(what or "a binary file where text is expected; convert it to UTF-8 text")
    given = encoding
    if encoding is None:
        encoding = _encoding_of(data)
        if encoding == "utf-8-sig" and any(mark in data for mark in _JIS):
            set_it = f": --set recipes.{recipe}.encoding=iso2022_jp" if recipe else ""
            raise Unreadable(f"ISO-2022-JP, not UTF-8{set_it or '; save the file as UTF-8'}")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        text = _cp1252(data) if guess else None
        if text is None:
            name = encoding.removesuffix("-sig").upper()
            raise Unreadable(f"line {line} is not {name}; {_remedy(data, recipe)}") from None
    except (LookupError, ValueError):
        raise _no_encoding(encoding) from None
    if given and encodings.is_wrong(text, given):
        raise Unreadable(f"{given} makes no text of it; {_remedy(data, recipe)}")
    return _with_newlines(text)


def _remedy(data: bytes, recipe: str) -> str:
    """How to read bytes that are not UTF-8; an encoding is named only where it reads them all."""
    name = encodings.guess(data)
    if name is None or not recipe:
        return "save the file as UTF-8"
    return f"it reads well as {name}: --set recipes.{recipe}.encoding={name}"


def _with_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _no_encoding(name: str) -> Unreadable:
    return Unreadable(f"no encoding of text is named {name!r}; cp1252 and utf-16 are names")


def _cp1252(data: bytes) -> str | None:
    """Windows-1252, unless so many letters are accented that it must be something else."""
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return None
    letters = sum(c.isalpha() for c in text)
    accented = sum(c.isalpha() and c > "\x7f" for c in text)
    return text if accented * 5 <= letters else None


def records(
    path: Path, source: str, kind: str, encoding: str | None = None, recipe: str = ""
) -> Iterator[tuple[int, Any] | Reject]:
    """(number, record) of a table or of JSON, or the Reject of what could not be read."""
    try:
        text = text_of_file(path, encoding, recipe=recipe)
        yield from _csv(text, source) if kind == "csv" else _json(text, source)
    except Unreadable as error:
        yield Reject(source, 0, "unreadable", str(error))


def first_records(path: Path, kind: str, encoding: str | None = None) -> list[dict[str, Any]]:
    """Up to 20 records (of a table: its header), to see which recipe fits; [] where none is read.

    An unreadable file gives []: reading it whole will say what is wrong.
    """
    try:
        if kind == "csv":
            text = _head(path, encoding)
            reader = csv.reader(io.StringIO(text), delimiter=_delimiter(text), strict=True)
            header = next(reader, [])
            return [dict.fromkeys(header, "")]
        items = itertools.islice(records(path, path.name, kind, encoding), 20)
        return [i[1] for i in items if isinstance(i, tuple) and isinstance(i[1], dict)]
    except (Unreadable, csv.Error):
        return []


def _head(path: Path, encoding: str | None) -> str:
    with open(path, "rb") as f:
        head = f.read(SNIFF)
    if looks_binary(head):
        raise Unreadable("binary")
    encoding = encoding or _encoding_of(head)
    try:
        return _with_newlines(head.decode(encoding, "replace"))
    except (LookupError, ValueError):
        raise _no_encoding(encoding) from None


def _delimiter(text: str) -> str:
    header = text.split("\n", 1)[0]
    return max(",;\t|", key=header.count)


def _csv(text: str, source: str) -> Iterator[tuple[int, dict[str, str]] | Reject]:
    """The rows of a table. A line with a broken quote is rejected and the next one begins a row.

    That holds where every row is one line. Where cells have line breaks, what follows a broken
    quote may be the middle of a cell: Problem, rather than rows made of pieces of others.
    """
    records = _csv_records(text)
    _, _, header = next(records, (1, "", []))
    if isinstance(header, csv.Error):
        raise Unreadable(f"the header: {header}; correct its quotes")
    if twice := [name for name in header if name and header.count(name) > 1]:
        raise Unreadable(f"the header has the column {twice[0]} twice; rename one")
    broken, several = "", False
    for number, raw, fields in records:
        last = number + raw.rstrip("\n").count("\n")
        if isinstance(fields, csv.Error):
            yield Reject(source, number, "broken line", f"{fields}; correct the quotes", record=raw)
            broken = broken or f"{source}:{number}: broken line ({fields})"
            fields = []
        several = several or last > number
        if broken and (several or _stray_quote(raw, fields)):
            raise console.Problem(
                f"{broken}, and cells with line breaks: where the next row begins is unclear",
                "correct the quotes of that line",
            )
        if len(fields) == len(header):
            yield last, dict(zip(header, fields, strict=True))
        elif any(fields):
            wrong = f"{len(fields)} fields where the header has {len(header)}"
            lines = f", from line {number} on" if last > number else ""
            yield Reject(source, last, "broken line", wrong + lines, record=fields)


def _csv_records(text: str) -> Iterator[tuple[int, str, list[str] | csv.Error]]:
    """(number of its first line, its text, fields) of each record.

    Of one that is broken only the first line, with the error; reading goes on with the next line.
    """
    csv.field_size_limit(1 << 30)
    file = io.StringIO(text, newline="\n")
    reader = csv.reader(file, delimiter=_delimiter(text), strict=True)
    number, place = 1, 0
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            fields = error
            file.seek(place)
            file.readline()
        if fields is None:
            return
        raw = text[place : file.tell()]
        yield number, raw, fields
        number, place = number + raw.count("\n"), file.tell()


def _stray_quote(raw: str, fields: list[str]) -> bool:
    """Whether a quote is inside a field without quotes around it, as at the end of a cell."""
    return any('"' in field and field.replace('"', '""') not in raw for field in fields)


def _json(text: str, source: str) -> Iterator[tuple[int, Any] | Reject]:
    start = text.lstrip()[:1]
    if not start:
        yield Reject(source, 0, "unreadable", "only white space; copy it again or delete it")
        return
    one_line = "\n" not in text.strip()
    if start == "[" or one_line or (start == "{" and not _first_line_is_whole(text)):
        try:
            value = loads(text)
        except json.JSONDecodeError as error:
            line = f", line {error.lineno}" if error.pos else ""
            yield Reject(source, 0, "unreadable", f"not JSON{line}: {error.msg}; correct it")
            return
        yield from enumerate(value if isinstance(value, list) else _by_rows(value), 1)
        return
    for number, line in enumerate(io.StringIO(text, newline="\n"), 1):  # \n only, never U+0085
        if not line.strip():
            continue
        try:
            yield number, loads(line)
        except json.JSONDecodeError as error:
            yield Reject(source, number, "broken line", f"not JSON: {error.msg}", record=line[:200])


def _by_rows(value: Any) -> list[Any]:
    """The rows of pandas' df.to_json(), which is {column: {"0": …, "1": …}}; [value] of others."""
    columns = list(value.values()) if isinstance(value, dict) else []
    if not columns or not all(
        isinstance(c, dict) and c.keys() == columns[0].keys() for c in columns
    ):
        return [value]
    index = list(columns[0])
    if not index or not all(place.isdigit() for place in index):
        return [value]
    return [{name: column[place] for name, column in value.items()} for place in index]


def loads(text: str) -> Any:
    """json.loads, where too deep a nesting, too long a number, and a key that an object has twice
    are JSONDecodeErrors too."""
    try:
        return json.loads(text, object_pairs_hook=json_files.unique_keys)
    except json.JSONDecodeError:
        raise
    except json_files.DuplicateKey as error:
        raise json.JSONDecodeError(f"the key {error.key} occurs twice", text, 0) from None
    except (RecursionError, ValueError) as error:
        deep = isinstance(error, RecursionError)
        wrong = "nested too deeply" if deep else "a number has too many digits"
        raise json.JSONDecodeError(wrong, text, 0) from None


def _first_line_is_whole(text: str) -> bool:
    """Whether the first line is a value of its own: then the file is JSON Lines."""
    first = text.lstrip().split("\n", 1)
    try:
        loads(first[0])
    except json.JSONDecodeError:
        return len(first) > 1 and first[1].lstrip()[:1] == "{" and first[0].rstrip().endswith("}")
    return True
