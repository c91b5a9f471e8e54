"""Files that hold no text: what each is, by its first bytes or its name, and what to do with it."""

from __future__ import annotations

from pathlib import Path

_TABLE = (
    "convert it: .venv-local/bin/python -c \"import pandas; pandas.{reader}('{name}')"
    ".to_json('{stem}.jsonl', orient='records', lines=True, force_ascii=False)\""
)
_UNPACK = "unpack it and give the files in it"
_CONVERT = "convert it to PDF, HTML or .txt"
_KINDS: list[tuple[str, str, tuple[bytes, ...], tuple[str, ...]]] = [
    ("Parquet", _TABLE.replace("{reader}", "read_parquet"), (b"PAR1",), (".parquet",)),
    ("Arrow", _TABLE.replace("{reader}", "read_feather"), (b"ARROW1",), (".arrow", ".feather")),
    ("Excel", "save it as CSV in UTF-8", (), (".xlsx", ".xls", ".ods")),
    ("Word", _CONVERT, (), (".docx", ".doc", ".odt", ".rtf")),
    ("PowerPoint", _CONVERT, (), (".pptx", ".ppt")),
    ("EPUB", _CONVERT, (), (".epub", ".mobi")),
    ("gzip", "gunzip it", (b"\x1f\x8b",), (".gz", ".tgz")),
    ("Zstandard", "unpack it with zstd -d", (b"\x28\xb5\x2f\xfd",), (".zst",)),
    ("xz", "unpack it with xz -d", (b"\xfd7zXZ\x00",), (".xz",)),
    ("bzip2", "unpack it with bunzip2", (b"BZh",), (".bz2",)),
    ("SQLite", "export its table as CSV", (b"SQLite format 3\x00",), (".db", ".sqlite")),
    ("zip", _UNPACK, (b"PK\x03\x04",), (".zip",)),
    ("tar", _UNPACK, (), (".tar",)),
    ("NumPy", "write its rows as JSON Lines", (b"\x93NUMPY",), (".npy", ".npz")),
    ("Python pickle", "write its rows as JSON Lines", (), (".pkl", ".pickle")),
    ("PDF", "name it *.pdf", (b"%PDF-",), (".pdf",)),
]


def describe(path: Path, head: bytes) -> str:
    """'a Parquet file; convert it: …', or '' where neither name nor first bytes tell."""
    suffix = path.suffix.lower()
    for kind, remedy, magics, suffixes in _KINDS:
        if suffix in suffixes or any(head.startswith(magic) for magic in magics):
            article = "an" if kind[0] in "AE" else "a"
            named = remedy.format(name=path, stem=path.with_suffix("").as_posix())
            return f"{article} {kind} file; {named}"
    return ""
