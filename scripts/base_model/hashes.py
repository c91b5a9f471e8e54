"""The hashes of a model's files, compared with those of the hub and of configs/models.yaml."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from base_model import locate
from base_model.model_folder import ModelFolder
from kit.report import Check


def downloaded(folder: Path) -> dict[str, tuple[str, str]]:
    """{file: (commit, etag)} as `hf download --local-dir` noted it; etag is a SHA-256 for LFS."""
    notes = folder / ".cache" / "huggingface" / "download"
    notes_of: dict[str, tuple[str, str]] = {}
    for path in sorted(notes.rglob("*.metadata")):
        lines = path.read_text(encoding="utf-8", errors="replace").split()
        if len(lines) >= 2:
            file = path.relative_to(notes).as_posix().removesuffix(".metadata")
            notes_of[file] = lines[0], lines[1]
    return notes_of


def commits(folder: Path) -> set[str]:
    """The revisions that the files there are of, where the hub's tools or a clone noted them."""
    cached, cloned = locate.snapshot(folder), _head(folder / ".git")
    noted = {commit for commit, _ in downloaded(folder).values()}
    return noted | ({cached[1]} if cached else set()) | ({cloned} if cloned else set())


def _head(git: Path) -> str | None:
    """The commit that a clone has checked out, read without running git; None where unknown."""
    try:
        text = (git / "HEAD").read_text(encoding="utf-8").strip()
        branch = text.removeprefix("ref: ")
        if branch != text and re.fullmatch(r"refs/heads/[\w.-]+", branch):
            packed = git / "packed-refs"
            lines = packed.read_text(encoding="utf-8").splitlines() if packed.is_file() else []
            known = {name: commit for commit, _, name in (line.partition(" ") for line in lines)}
            loose = git / branch
            text = loose.read_text().strip() if loose.is_file() else known.get(branch, "")
    except (OSError, ValueError):
        return None
    return text if re.fullmatch(r"[0-9a-f]{40}", text) else None


def sha256(path: Path, done: Callable[[int], None] = lambda n: None, git: bool = False) -> str:
    """SHA-256 of a file, or with `git` the blob id that Git gives it; `done` gets bytes read."""
    digest = hashlib.sha1(usedforsecurity=False) if git else hashlib.sha256()
    if git:
        digest.update(b"blob %d\0" % path.stat().st_size)
    with open(path, "rb", buffering=0) as f:
        while block := f.read(1 << 22):
            digest.update(block)
            done(len(block))
    return digest.hexdigest()


def expected_hashes(model: ModelFolder) -> dict[str, str]:
    """{file: SHA-256 (64 digits) or Git blob id (40)} that are known for files that are there."""
    hashes: dict[str, str] = {}
    for name, (_, etag) in downloaded(model.folder).items():
        hashes[name] = etag
    if locate.snapshot(model.folder):  # a snapshot links to blobs that are named by their hash
        for path in model.folder.rglob("*"):
            hashes[path.relative_to(model.folder).as_posix()] = path.resolve().name
    for entry in (model.facts or {}).get("files", []):
        if entry["sha256"]:
            hashes[entry["path"]] = entry["sha256"]
    good = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
    return {n: h for n, h in hashes.items() if good.fullmatch(h) and (model.folder / n).is_file()}


def checks(model: ModelFolder, done: Callable[[int], None] = lambda n: None) -> list[Check]:
    """Every file that has a known hash, compared; four files at a time."""
    expected = expected_hashes(model)
    if not expected:
        text = "no hashes are known: not in configs/models.yaml, not downloaded with `hf download`"
        return [Check("hashes", "skip", text)]

    from concurrent.futures import ThreadPoolExecutor  # 20 ms that only hashing needs

    def one(item: tuple[str, str]) -> str:
        return sha256(model.folder / item[0], done, git=len(item[1]) == 40)

    with ThreadPoolExecutor(4) as pool:
        actual = dict(zip(expected, pool.map(one, expected.items()), strict=True))
    notes = downloaded(model.folder)
    wrong = []
    for name in (n for n in expected if actual[n] != expected[n]):
        text = f"SHA-256 {actual[name][:12]}…, {expected[name][:12]}… is known"
        whole = (
            name in notes and not name.endswith(".safetensors") and _as_noted(model, name, notes)
        )
        fix = f"{model.again} --revision {(model.facts or {}).get('revision')}, or keep it"
        if whole:
            wrong.append(Check(name, "warn", f"{text}: as downloaded, of another revision", fix))
        else:
            wrong.append(Check(name, "fail", text, model.afresh(name)))
    return wrong or [Check("hashes", "ok", f"{len(expected)} files have the known hashes")]


def _as_noted(model: ModelFolder, name: str, notes: dict[str, tuple[str, str]]) -> bool:
    etag = notes[name][1]
    return sha256(model.folder / name, git=len(etag) == 40) == etag
