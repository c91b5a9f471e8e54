#!/usr/bin/env python3
"""Compare every installed file with its wheel's RECORD, and import every package.

    .venv-local/bin/python -I -S scripts/setup/verify_environment.py .venv-local
    .venv-local/bin/python -I -S scripts/setup/verify_environment.py --no-imports .venv-local
    … verify_environment.py ENV -- uv pip sync …      compares while that command fills ENV

Must run with the environment's own interpreter. Standard library only; one worker process per
core. The installed names and versions are held against ENV/.tandem/lock.txt in both directions.
`--seal` is for a new environment: a package that the lock does not name is a failure, and the
RECORDs' own hashes go to ENV/.tandem/records.json, with which later runs compare.
`--damaged FILE` receives the names of packages whose files differ. `--unchanged-since FILE`
reads only what has changed since that file was written.

Exit codes: 0 everything as installed, 1 something damaged, missing, not in the lock or not
importable, 3 the command after -- failed (nothing was verified).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from kit import console  # noqa: E402
from kit.moving_line import MovingLine  # noqa: E402
from kit.report import Check, report, table  # noqa: E402
from setup import installed_packages, lock_file  # noqa: E402
from setup.package_workers import Findings, PackageChecker  # noqa: E402

COMMAND_FAILED = 3


def run_command(command: list[str], checker: PackageChecker) -> tuple[int, str]:
    """Run what fills the environment, hashing what is complete: (its exit code, why it failed).

    On a terminal it shows its own progress, if it is not told to be quiet; elsewhere its lines are
    passed on, but for the list of what was installed, and a line is added every 25 s.
    """
    terminal = sys.stderr.isatty()
    shows_its_own = terminal and "--quiet" not in command
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stderr=None if terminal else subprocess.PIPE, text=True
    )
    lines: list[str] = []
    reader = threading.Thread(target=_pass_on, args=(process, lines), daemon=True)
    try:
        if not terminal:
            reader.start()
        with contextlib.nullcontext() if shows_its_own else MovingLine(checker.state):
            checker.follow(lambda: process.poll() is None)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait()
    if not terminal:
        reader.join(1)
    return process.returncode, why(lines)


def _pass_on(process: subprocess.Popen, lines: list[str]) -> None:
    for line in process.stderr:
        lines.append(line.rstrip())
        if not re.match(r" [-+~] \S", line):
            console.note(line.rstrip())


def why(lines: list[str]) -> str:
    """The cause in what uv wrote: its first `error:` or `×` line, and the innermost `Caused by`."""
    first = [
        line.strip(" ×").removeprefix("error: ") for line in lines if re.match(r"error:|\s*×", line)
    ]
    inner = [re.sub(r"^\s*(Caused by:|cause:|╰─▶)\s*", "", line) for line in lines
             if re.match(r"\s*(Caused by:|cause:|╰─▶)", line)]  # fmt: skip
    return ": ".join([*first[:1], *inner[-1:]]) or "it gave no reason"


def failed_command(command: list[str], reason: str) -> Check:
    """The installation that failed, with what helps against its cause."""
    fix = "run this again when the cause is gone; what was fetched stays in the cache"
    if re.search(r"No space left|os error 28|[Qq]uota", reason):
        fix = "free room or files on that disk: df -h . and df -i . (make storage)"
    elif re.search(r"dns|connect|timed? ?out|tls|certificate|unreachable|offline", reason, re.I):
        fix = "check the network, the proxy and the index (PIP_INDEX_URL), and run this again"
    name = next((os.path.basename(word) for word in command if "/uv" in word), "command")
    return Check(name, "fail", reason[:300], fix)


def check_lock(env: Path, site: Path, fresh: bool) -> tuple[list[Check], list[str]]:
    """(the installed set against the lock's, the pinned packages that are not as they should be).

    In a `fresh` environment a package that the lock does not name is a failure.
    """
    lock = env / ".tandem" / "lock.txt"
    if not lock.is_file():
        return [], []
    facts = lock_file.interpreter_facts()
    try:
        difference = installed_packages.compare_with_lock(site, lock, facts)
    except (OSError, ValueError, SyntaxError) as error:
        return [Check("lock", "fail", f"{lock}: not readable ({error})", _remedy(env))], []
    wrong, extra = difference.wrong, difference.extra
    if wrong:
        text = f"{len(wrong)} of {difference.pins} pins differ: {console.few(list(wrong.values()))}"
        return [Check("lock", "fail", text, _remedy(env))], sorted(wrong)
    if extra and fresh:
        text = f"{console.few(extra)} installed, and not in the lock"
        fix = "conda's configuration may add them (create_default_packages); --backend venv"
        return [Check("lock", "fail", text, fix)], []
    more = f"; beside them {console.few(extra)}" if extra else ""
    return [Check("lock", "ok", f"all {difference.pins} pins are installed{more}")], []


def file_checks(env: Path, site: Path, findings: Findings) -> tuple[list[Check], list[str]]:
    """(one check a damaged package, or one for all; the names of the damaged packages)."""
    wrong: dict[str, list[str]] = {}
    for name, complaint in installed_packages.broken_seals(env, site):
        wrong.setdefault(name, []).append(complaint)
    for name, complaints in findings.files.items():
        wrong.setdefault(name, []).extend(complaints)
    checks = [
        Check(name, "fail", console.few(lines, separator="; "), _remedy(env))
        for name, lines in wrong.items()
    ]
    text = f"{findings.file_count} files of {findings.packages} packages match"
    return checks or [Check("files", "ok", text)], sorted(wrong)


def import_checks(env: Path, findings: Findings) -> list[Check]:
    """One check a module that does not import, or one for all."""
    failed = findings.imports.items()
    checks = [Check(f"import {m}", "fail", text, _remedy(env)) for m, text in failed]
    return checks or [Check("imports", "ok", f"{findings.module_count} modules import")]


def _remedy(env: Path) -> str:
    known = {"remote": "./setup_remote.sh", "serve": "./setup_remote.sh --serve"}
    command = next((c for name, c in known.items() if name in env.name), "./setup_local.sh")
    return f"{command} repairs it; {command} --force rebuilds"


def parse(argv: list[str]) -> tuple:
    """(the options, the command after -- or [])."""
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("env", type=Path, help="the environment's folder")
    parser.add_argument("--no-imports", action="store_true", help="compare files only")
    parser.add_argument("--seal", action="store_true", help="note what is there, if all is good")
    parser.add_argument("--damaged", type=Path, metavar="FILE", help="damaged packages' names")
    parser.add_argument("--unchanged-since", type=Path, metavar="FILE", help="do not read older")
    parser.add_argument("--mark", type=Path, metavar="FILE", help="written when all is in place")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    end = argv.index("--") if "--" in argv else len(argv)
    return parser.parse_args(argv[:end]), argv[end + 1 :]


def main(argv: list[str] | None = None) -> int:
    args, command = parse(sys.argv[1:] if argv is None else argv)
    env = args.env
    site = installed_packages.need_site_packages(env)
    since = os.stat(args.unchanged_since).st_mtime_ns if args.unchanged_since else 0
    checker = PackageChecker(site, not args.no_imports, since)
    if command:
        code, reason = run_command(command, checker)
        if code:
            print(table([failed_command(command, reason)]))
            return COMMAND_FAILED
    if args.mark:
        args.mark.write_text("")
    with MovingLine(checker.state):
        findings = checker.finish()
    checks, absent = check_lock(env, site, args.seal)
    compared, damaged = file_checks(env, site, findings)
    checks += compared + ([] if args.no_imports else import_checks(env, findings))
    damaged = sorted({*damaged, *absent})
    if args.damaged:
        args.damaged.write_text("".join(f"{name}\n" for name in damaged), encoding="utf-8")
    code = report(checks, args.json, damaged=damaged)
    if args.seal and code == console.GOOD:
        installed_packages.seal(env)
    return code


if __name__ == "__main__":
    console.run(main)
