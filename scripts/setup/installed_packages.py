"""What is installed in an environment: its packages, their files by RECORD, and how they differ
from the lock and from the seal that the set-up wrote. Standard library only.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from kit import console, publish
from setup.lock_file import Facts, normal, wanted

SEAL = ".tandem/records.json"
UNREADABLE = (OSError, ValueError, csv.Error)
# Put there by whatever makes an environment; no lock needs to name them.
BOOTSTRAP = frozenset(("pip", "setuptools", "wheel", "uv"))


class RecordedFile(NamedTuple):
    """One line of a RECORD: path relative to site-packages, sha256 in urlsafe base64, bytes."""

    path: str
    digest: str
    size: int


def site_packages(env: Path) -> Path | None:
    """The folder that holds the environment's packages, None if there is none."""
    return next(iter(sorted(env.glob("lib/python3.*/site-packages"))), None)


def need_site_packages(env: Path) -> Path:
    """Like site_packages; raises Problem if there is none."""
    site = site_packages(env)
    if site is None:
        raise console.Problem(f"{env}: has no site-packages", "run the set-up again")
    return site


def versions(site: Path) -> tuple[dict[str, str], list[str]]:
    """({name: version} by dist-info, those whose dist-info is incomplete)."""
    installed, incomplete = {}, []
    for entry in os.scandir(site):
        if not entry.name.endswith(".dist-info"):
            continue
        name, _, version = entry.name.removesuffix(".dist-info").rpartition("-")
        installed[normal(name)] = version
        if not all(os.path.exists(f"{entry.path}/{f}") for f in ("METADATA", "RECORD")):
            incomplete.append(normal(name))
    return installed, incomplete


class Differences(NamedTuple):
    """How an environment differs from its lock."""

    pins: int
    wrong: dict[str, str]  # name: what is wrong with a pinned package
    extra: list[str]  # installed, and not in the lock


def compare_with_lock(site: Path, lock: Path, facts: Facts) -> Differences:
    """Hold the installed names and versions against the lock, in both directions.

    Raises OSError, ValueError or SyntaxError for a lock that cannot be read.
    """
    pins = wanted(lock, facts)
    installed, incomplete = versions(site)
    wrong = {}
    for name, version in pins.items():
        if name not in installed:
            wrong[name] = f"{name}: not there, {version} wanted"
        elif _plain(installed[name]) != _plain(version):
            wrong[name] = f"{name}: {installed[name]}, {version} wanted"
        elif name in incomplete:
            wrong[name] = f"{name}: half installed"
    return Differences(len(pins), wrong, sorted(set(installed) - set(pins) - BOOTSTRAP))


def _plain(version: str) -> str:
    return version.replace("_", "-").lower()


def with_records(site: Path) -> list[Path]:
    """The .dist-info folders, without those of packages that conda itself installed."""
    return [d for d in sorted(site.glob("*.dist-info")) if _installer(d) != "conda"]


def _installer(dist_info: Path) -> str:
    with contextlib.suppress(OSError):
        return (dist_info / "INSTALLER").read_text(encoding="utf-8").strip()
    return ""


def read_record(dist_info: Path) -> list[RecordedFile]:
    """The rows of `dist_info`/RECORD that carry a SHA-256; raises UNREADABLE.

    Without __pycache__, which a few wheels ship: Python rewrites that folder at will.
    """
    with open(dist_info / "RECORD", newline="", encoding="utf-8") as f:
        rows = [r for r in csv.reader(f) if len(r) == 3 and r[1].startswith("sha256=")]
    rows = [r for r in rows if "__pycache__" not in r[0]]
    return [RecordedFile(p, digest.removeprefix("sha256="), int(n or 0)) for p, digest, n in rows]


def package_name(dist_info: Path) -> str:
    """`numpy-2.2.6.dist-info` -> `numpy`."""
    return normal(dist_info.name.removesuffix(".dist-info").rsplit("-", 1)[0])


# Not imports that a package offers: its tests, and what runs when an interpreter starts.
_NOT_OFFERED = {"tests", "test", "testing", "examples", "benchmarks", "docs", "sitecustomize"}
# Modules for another package that we do not install, beside what we use of theirs.
_NOT_OFFERED |= {"adbc_driver_duckdb", "matplotlib_inline"}
# Its folder is put on the path by a .pth file, and imported as `cutlass`.
_NOT_OFFERED |= {"nvidia_cutlass_dsl"}


def modules(rows: Iterable[RecordedFile]) -> list[str]:
    """What `import` can name of a package: its top-level modules, and below a namespace
    package (a folder without __init__.py) the shallowest folders that have one."""
    packages, files = set(), set()
    for row in rows:
        parts = row.path.split("/")
        if parts[0] in ("..", "") or not all(p.isidentifier() for p in parts[:-1]):
            continue
        if parts[-1] == "__init__.py":
            packages.add(tuple(parts[:-1]))
        elif len(parts) == 1 and parts[0].endswith((".py", ".so")):
            files.add((parts[0].split(".")[0],))
    top = {p for p in packages if not any(p[:n] in packages for n in range(1, len(p)))}
    return sorted(".".join(p) for p in top | files if not {p[0], p[-1]} & _NOT_OFFERED)


def record_hashes(site: Path) -> dict[str, str]:
    """{dist-info folder: SHA-256 of its RECORD}: the seal of what was installed."""
    records = [(d.name, d / "RECORD") for d in with_records(site)]
    return {name: publish.sha256(record) for name, record in records if record.is_file()}


def seal(env: Path) -> None:
    """Write the hash of every RECORD to ENV/.tandem/records.json."""
    publish.json_file(env / SEAL, record_hashes(need_site_packages(env)))


def broken_seals(env: Path, site: Path) -> Iterator[tuple[str, str]]:
    """(package, complaint) wherever the installed set is not the one that was sealed."""
    try:
        sealed: dict[str, str] = json.loads((env / SEAL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    now = record_hashes(site)
    for name, digest in sealed.items():
        if name not in now:
            yield package_name(Path(name)), f"{name}: missing"
        elif now[name] != digest:
            yield package_name(Path(name)), f"{name}/RECORD: changed since the set-up"
