#!/usr/bin/env python3
"""Look at the place where an environment will be built, before anything is installed.

    python scripts/setup/preflight.py local|remote|serve

Whether .envs belongs to this user and can be written, programs may run there, symbolic links and
locks work, files can still be made, TMPDIR and uv's cache are folders that can be written, and
packages exist for this system. Any Python from 3.10 on; standard library only.

Exit codes: 0 good (warnings too), 1 the environment could not be built here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from kit import console, paths  # noqa: E402
from kit.report import Check, table, worst  # noqa: E402

# the files that an environment holds, rounded up, and what the oldest of its wheels are built for
FILES = {"local": 25_000, "remote": 60_000, "serve": 60_000}
GLIBC = {"local": (2, 17), "remote": (2, 28), "serve": (2, 31)}


def check_owner(envs: Path) -> Iterator[Check]:
    """.envs and what is in it can be written and deleted by this user."""
    places = [envs, *sorted(envs.glob("*"))]
    foreign = [p for p in places if p.exists() and not os.access(p, os.W_OK)]
    if foreign:
        text = f"{paths.show(foreign[0])} cannot be written: an earlier set-up with sudo owns it?"
        yield Check(".envs", "fail", text, f"sudo chown -R $(id -un) {shlex.quote(str(envs))}")
    elif not envs.exists() and not os.access(envs.parent, os.W_OK):
        fix = f"sudo chown -R $(id -un) {shlex.quote(str(envs.parent))}, or use a checkout of yours"
        yield Check(".envs", "fail", f"{envs.parent} cannot be written", fix)
    elif envs.is_symlink() and not envs.exists():
        yield Check(".envs", "fail", f"{envs} links to nowhere", f"rm {shlex.quote(str(envs))}")


def check_disk(envs: Path, env: str) -> Iterator[Check]:
    """Links, programs, locks and new files on the file system of .envs."""
    with tempfile.TemporaryDirectory(prefix=".look-", dir=envs) as folder:
        yield from _check_links(Path(folder))
        yield from _check_programs(Path(folder))
        yield from _check_locks(Path(folder))
    facts = os.statvfs(envs)
    if facts.f_files and facts.f_favail < FILES[env]:
        text = f"{facts.f_favail:,} files can still be made, {FILES[env]:,} are needed"
        fix = f"df -i {shlex.quote(str(envs))}; delete folders of many small files (uv cache prune)"
        yield Check("inodes", "fail", text, fix)


def _check_links(folder: Path) -> Iterator[Check]:
    try:
        os.symlink("target", folder / "link")
    except OSError as error:
        text = f"no symbolic links here ({error.strerror}): exFAT, FAT and some shares have none"
        yield Check(
            "links", "fail", text, "move the checkout to a disk of this system (ext4, APFS)"
        )


def _check_programs(folder: Path) -> Iterator[Check]:
    program = folder / "program"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    try:
        subprocess.run([str(program)], check=True)
    except OSError as error:
        if error.errno == errno.ETXTBSY:
            return
        text = f"no program may run below {folder.parent}: that disk is mounted noexec"
        yield Check(
            "programs", "fail", text, "move the checkout to another disk, or remount it exec"
        )


def _check_locks(folder: Path) -> Iterator[Check]:
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            text = "this file system has no locks"
            yield Check("locks", "warn", text, "run one set-up at a time")


def check_variables() -> Iterator[Check]:
    """Folders that the user has named and that cannot be written."""
    for name in ("TMPDIR", "UV_CACHE_DIR", "PIP_CACHE_DIR", "CONDA_PKGS_DIRS"):
        value = os.environ.get(name)
        if not value:
            continue
        where = Path(value.split(os.pathsep)[0])
        missing = name == "TMPDIR" and not where.is_dir()
        while not where.exists():
            where = where.parent
        if missing or not where.is_dir() or not os.access(where, os.W_OK):
            text = f"{name}={value} is not a folder that you can write"
            yield Check(name, "fail", text, f"unset {name}, or name another one")


def check_system(env: str) -> Iterator[Check]:
    """Packages exist for this system's C library and processor."""
    machine, libc = platform.machine(), " ".join(platform.libc_ver())
    if sys.platform != "linux":
        return
    version = re.match(r"glibc (\d+)\.(\d+)", libc)
    if version and (int(version[1]), int(version[2])) < GLIBC[env]:
        needed = ".".join(map(str, GLIBC[env]))
        text = f"{libc}, packages need {needed} or newer"
        yield Check("glibc", "fail", text, "take Ubuntu 20.04, Debian 11 or newer")
    if not version and Path("/etc/alpine-release").exists():
        text = "musl: most packages have no build for it"
        yield Check("libc", "fail", text, "take a system with glibc: Debian, Ubuntu, Fedora")
    if machine not in ("x86_64", "aarch64"):
        text = f"{machine}: packages have no builds for it"
        yield Check("processor", "fail", text, "take an x86-64 or arm64 machine")


def look(root: Path, env: str) -> list[Check]:
    """Everything that would stop an environment from being built in `root`/.envs."""
    envs = root / ".envs"
    checks = [*check_system(env), *check_owner(envs), *check_variables()]
    if worst(checks) == "fail":
        return checks
    try:
        envs.mkdir(exist_ok=True)
        checks += check_disk(envs, env)
    except OSError as error:
        text = f"{envs}: {error.strerror}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = f"free space or files there: df -h {envs}; df -i {envs}; quota"
        else:
            fix = f"check the permissions of {root}"
        checks.append(Check(".envs", "fail", text, fix))
    return checks


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("env", choices=("local", "remote", "serve"))
    args = parser.parse_args(argv)
    checks = look(paths.ROOT, args.env)
    if checks:
        print(table(checks))
    return console.FAILED if worst(checks) == "fail" else console.GOOD


if __name__ == "__main__":
    console.run(main)
