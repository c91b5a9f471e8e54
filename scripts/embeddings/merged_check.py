"""Check a merged file against its manifest, stretch by stretch.

checks = verify(Path("data/embeddings/wikipedia_merged.pkl"))
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from embeddings import merge_folder, merged_formats, shard_rows
from embeddings.merged_manifest import VERSION
from embeddings.segments import is_intact
from kit import console
from kit.report import Check

AGAIN = "merge again: make embeddings"


def manifest(output: Path) -> dict[str, Any]:
    """The manifest beside `output`, after ending a publication that was interrupted."""
    merge_folder.recover(output)
    path = merged_formats.manifest_of(output)
    if not output.exists():
        raise console.Problem(f"{output}: there is no such file", AGAIN)
    if not path.exists():
        raise console.Problem(f"{path}: there is no manifest beside {output.name}", AGAIN)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["format"] != VERSION or output.name not in facts["files"]:
            raise ValueError
        shard_rows.digest(facts["digest"])
        for name, file in facts["files"].items():
            check_segments(file["segments"])
            if Path(name).name != name:
                raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise console.Problem(f"{path}: not the manifest of a merged file", AGAIN) from None
    return facts


def check_segments(segments: list[dict[str, Any]]) -> None:
    """A ValueError, KeyError or TypeError unless they follow each other from the first byte on."""
    end = 0
    for part in segments:
        if part["offset"] != end or type(part["length"]) is not int or part["length"] < 0:
            raise ValueError
        if not all(isinstance(part[key], str) for key in ("what", "digest")):
            raise ValueError
        end += part["length"]


def verify(output: Path) -> list[Check]:
    """One check per file that the manifest names, and one per stretch that is damaged."""
    facts = manifest(output)
    checks = []
    for name, file in facts["files"].items():
        checks += verify_file(output.with_name(name), file["segments"], facts["digest"])
    return checks


def verify_file(path: Path, segments: list[dict[str, Any]], digest: str) -> list[Check]:
    """Size and digests of one file."""
    if not path.is_file():
        return [Check(path.name, "fail", "is missing", AGAIN)]
    size, wanted = path.stat().st_size, sum(part["length"] for part in segments)
    if size != wanted:
        return [Check(path.name, "fail", f"{size} bytes instead of {wanted}", AGAIN)]
    with open(path, "rb", buffering=0) as f:
        bad = [part for part in segments if not is_intact(f, part, digest)]
    if not bad:
        return [Check(path.name, "ok", f"{console.size(size)}, {digest} of every part as written")]
    return [
        Check(path.name, "fail", f"damaged: {part['what']}" + source(part), AGAIN) for part in bad
    ]


def source(part: dict[str, Any]) -> str:
    return f" (from {part['file']})" if "file" in part else ""
