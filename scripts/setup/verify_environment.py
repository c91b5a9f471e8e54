#!/usr/bin/env python3
"""Compare every installed file with its wheel's RECORD, and import every package.

    .venv-local/bin/python -I -S scripts/setup/verify_environment.py .venv-local
    .venv-local/bin/python -I -S scripts/setup/verify_environment.py --no-imports .venv-local

Must run with the environment's own interpreter. Standard library only; one worker process
per core. `--seal` notes the RECORDs' own hashes in ENV/.tandem/records.json, and later runs
compare with them. `--damaged FILE` receives the names of packages whose files differ.

Exit codes: 0 everything as installed, 1 something damaged, missing or not importable.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import importlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from kit import console, publish  # noqa: E402
from kit.report import Check, report  # noqa: E402

SEAL = ".tandem/records.json"
UNREADABLE = (OSError, ValueError, csv.Error)


class Row(NamedTuple):
    """One line of a RECORD: path relative to site-packages, sha256 in urlsafe base64, bytes."""

    path: str
    digest: str
    size: int


def site_packages(env: Path) -> Path:
    """The folder that holds the environment's packages."""
    found = sorted(env.glob("lib/python3.*/site-packages"))
    if not found:
        raise console.Problem(f"{env}: has no site-packages", "run the set-up again")
    return found[0]


def read_record(dist_info: Path) -> list[Row]:
    """The rows of `dist_info`/RECORD that carry a SHA-256; raises UNREADABLE.

    Without __pycache__, which a few wheels ship: Python rewrites what lies there as it likes.
    """
    with open(dist_info / "RECORD", newline="", encoding="utf-8") as f:
        rows = [r for r in csv.reader(f) if len(r) == 3 and r[1].startswith("sha256=")]
    rows = [r for r in rows if "__pycache__" not in r[0]]
    return [Row(path, digest.removeprefix("sha256="), int(n or 0)) for path, digest, n in rows]


def package_name(dist_info: Path) -> str:
    """`numpy-2.2.6.dist-info` -> `numpy`."""
    return dist_info.name.removesuffix(".dist-info").rsplit("-", 1)[0].replace("_", "-").lower()


def installed(site: Path) -> list[Path]:
    """The .dist-info folders, without those that conda itself installed and keeps books on."""
    return [d for d in sorted(site.glob("*.dist-info")) if _installer(d) != "conda"]


def _installer(dist_info: Path) -> str:
    with contextlib.suppress(OSError):
        return (dist_info / "INSTALLER").read_text(encoding="utf-8").strip()
    return ""


def modules(rows: Iterable[Row]) -> list[str]:
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
    return sorted(".".join(p) for p in top | files if p[0] not in SKIPPED and p[-1] not in SKIPPED)


# Not imports that a package offers: its tests, and what runs when an interpreter starts.
SKIPPED = {"tests", "test", "testing", "examples", "benchmarks", "docs", "sitecustomize"}
# Modules for another package that we do not install, beside what we use of theirs.
SKIPPED |= {"adbc_driver_duckdb", "matplotlib_inline"}


def file_digest(path: str) -> str:
    """SHA-256 as RECORD writes it: urlsafe base64 without padding."""
    digest = hashlib.sha256()
    file = os.open(path, os.O_RDONLY)  # open() would ask the system twice as much for each file
    try:
        while block := os.read(file, 1 << 20):
            digest.update(block)
    finally:
        os.close(file)
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()


def compare(site: Path, dist_info: Path) -> list[str]:
    """What is wrong with one package's files, one line each."""
    try:
        rows = read_record(dist_info)
    except UNREADABLE as error:
        return [f"{dist_info.name}/RECORD: unreadable ({error})"]
    wrong = []
    for row in rows:
        try:
            if file_digest(os.path.join(site, row.path)) != row.digest:
                wrong.append(f"{row.path}: damaged")
        except OSError as error:
            wrong.append(f"{row.path}: {'missing' if error.errno == 2 else error.strerror}")
    return wrong


def work() -> None:
    """A worker: reads one task a line, answers one list of complaints a line, ends at EOF."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a package prints while it is imported is not an answer
    for line in sys.stdin:
        kind, what, site = json.loads(line)
        if kind == "files":
            wrong = compare(Path(site), Path(what))
        else:
            wrong = _try_import(what)
        answers.write(json.dumps(wrong) + "\n")
        answers.flush()
    os._exit(0)  # no package's exit hooks


def _try_import(module: str) -> list[str]:
    try:
        importlib.import_module(module)
    except BaseException as error:  # a package may well call sys.exit()
        said = " ".join(str(error).split()) or "no message"
        return [f"{type(error).__name__}: {said[:200]}"]
    return []


def _start() -> subprocess.Popen:
    env = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | dict(os.environ)
    return subprocess.Popen(
        [sys.executable, "-I", __file__, "--worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=env,
    )


def _drive(tasks: queue.SimpleQueue, site: Path, results: dict[tuple[str, str], list[str]]) -> None:
    worker = _start()
    while True:
        try:
            kind, what = tasks.get_nowait()
        except queue.Empty:
            break
        with contextlib.suppress(BrokenPipeError):
            worker.stdin.write(json.dumps([kind, what, str(site)]) + "\n")
            worker.stdin.flush()
        answer = worker.stdout.readline()
        if not answer:
            results[kind, what] = [f"the interpreter died (exit status {worker.wait()})"]
            worker = _start()
        else:
            results[kind, what] = json.loads(answer)
    worker.stdin.close()
    worker.wait()


def run_tasks(site: Path, tasks: list[tuple[str, str]]) -> dict[tuple[str, str], list[str]]:
    """{(kind, what): complaints} of every task, on all cores."""
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    results: dict[tuple[str, str], list[str]] = {}
    count = max(1, min(os.cpu_count() or 1, 16, len(tasks)))
    drivers = [
        threading.Thread(target=_drive, args=(waiting, site, results), daemon=True)
        for _ in range(count)
    ]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    return results


def _rows(dist_info: Path) -> list[Row]:
    try:
        return read_record(dist_info)
    except UNREADABLE:
        return []


def record_hashes(site: Path) -> dict[str, str]:
    """{dist-info folder: SHA-256 of its RECORD}: the seal of what was installed."""
    return {
        d.name: publish.sha256(d / "RECORD") for d in installed(site) if (d / "RECORD").is_file()
    }


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


def examine(env: Path, imports: bool) -> tuple[list[Check], list[str]]:
    """Every check of the environment, and the names of packages whose files are damaged."""
    site = site_packages(env)
    records = {d: _rows(d) for d in installed(site)}
    by_size = sorted(records, key=lambda d: -sum(r.size for r in records[d]))
    tasks = [("files", str(d)) for d in by_size]
    if imports:
        tasks += [("import", m) for d in by_size for m in modules(records[d])]
    tasks = list(dict.fromkeys(tasks))
    results = run_tasks(site, tasks)
    wrong: dict[str, list[str]] = {}
    for name, complaint in broken_seals(env, site):
        wrong.setdefault(name, []).append(complaint)
    for d in records:
        if complaints := results["files", str(d)]:
            wrong.setdefault(package_name(d), []).extend(complaints)
    checks = [_package_check(env, name, complaints) for name, complaints in wrong.items()]
    if not wrong:
        count = sum(map(len, records.values()))
        checks.append(Check("files", "ok", f"{count} files of {len(records)} packages match"))
    if imports:
        checks += _import_checks(env, results)
    return checks, sorted(wrong)


def _package_check(env: Path, name: str, complaints: list[str]) -> Check:
    more = f" and {len(complaints) - 3} more" if len(complaints) > 3 else ""
    return Check(name, "fail", "; ".join(complaints[:3]) + more, _remedy(env))


def _import_checks(env: Path, results: dict[tuple[str, str], list[str]]) -> list[Check]:
    failed = {what: w for (kind, what), w in results.items() if kind == "import" and w}
    if not failed:
        count = sum(kind == "import" for kind, _ in results)
        return [Check("imports", "ok", f"{count} modules import")]
    return [Check(f"import {m}", "fail", w[0], _remedy(env)) for m, w in failed.items()]


def _remedy(env: Path) -> str:
    name = "remote" if "remote" in env.name else "local"
    return f"./setup_{name}.sh mends it; ./setup_{name}.sh --force rebuilds"


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("env", help="the environment's folder")
    parser.add_argument("--no-imports", action="store_true", help="compare files only")
    parser.add_argument("--seal", action="store_true", help="note what stands, if all is good")
    parser.add_argument("--damaged", metavar="FILE", help="write damaged packages' names there")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    env = Path(args.env)
    checks, damaged = examine(env, not args.no_imports)
    if args.damaged:
        Path(args.damaged).write_text("".join(f"{n}\n" for n in damaged), encoding="utf-8")
    extra: dict[str, Any] = {"damaged": damaged}
    code = report(checks, args.json, **extra)
    if args.seal and code == console.GOOD:
        publish.json_file(env / SEAL, record_hashes(site_packages(env)))
    return code


if __name__ == "__main__":
    if sys.argv[1:] == ["--worker"]:
        work()
    console.run(main)
