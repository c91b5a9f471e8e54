"""Pins: a lock's lines for one interpreter, what an environment holds, and where they differ."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

from kit.report import Check

# Put there by whoever makes an environment, and no matter to the kit.
_BESIDE = frozenset(("pip", "setuptools", "wheel", "uv"))
Facts = dict[str, str]

# Run by any interpreter with -I -S; its output is the interpreter's facts, markers by their name.
ASK_FACTS = """
import json, os, platform, sys
print(json.dumps({
    "python_full_version": platform.python_version(), "python_version": "%d.%d" % sys.version_info[:2],
    "implementation_name": sys.implementation.name, "os_name": os.name,
    "platform_python_implementation": platform.python_implementation(),
    "platform_machine": platform.machine(), "platform_system": platform.system(),
    "sys_platform": sys.platform, "bits": str(sys.maxsize.bit_length() + 1),
    "libc": " ".join(platform.libc_ver()), "mac": platform.mac_ver()[0]}))
"""  # noqa: E501


def normal(name: str) -> str:
    """The package's name as indexes compare it: Foo_Bar -> foo-bar."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(lock: Path) -> list[tuple[str, str, str]]:
    """(name, version, marker or '') of every pin. Raises OSError."""
    text = lock.read_text(encoding="utf-8")
    found = re.findall(
        r"^([\w.-]+)(?:\[[^]]*])?==([^\s;\\]+)(?: *; *([^\\\n]+?))? *\\?$", text, re.M
    )
    return [(normal(name), version, marker) for name, version, marker in found]


def wanted(lock: Path, facts: Facts) -> dict[str, str]:
    """{name: version} that the lock asks of an interpreter with these facts."""
    return {n: v for n, v, marker in read_lock(lock) if not marker or holds(marker, facts)}


def holds(marker: str, facts: Facts) -> bool:
    """Whether a marker such as "python_full_version < '3.11' and os_name == 'posix'" is true."""
    return _eval(ast.parse(marker, mode="eval").body, facts)


def _eval(node: ast.expr, facts: Facts) -> bool:
    if isinstance(node, ast.BoolOp):
        both = isinstance(node.op, ast.And)
        return (all if both else any)(_eval(v, facts) for v in node.values)
    if not isinstance(node, ast.Compare) or len(node.ops) != 1:
        raise ValueError("not a marker")
    sides = [node.left, node.comparators[0]]
    left, right = (facts.get(s.id, "") if isinstance(s, ast.Name) else s.value for s in sides)
    versions = any(isinstance(s, ast.Name) and s.id.startswith("python_") for s in sides)
    return _compare(type(node.ops[0]), left, right, versions)


def _compare(op: type, left: str, right: str, versions: bool) -> bool:
    if op in (ast.In, ast.NotIn):
        return (left in right) == (op is ast.In)
    if versions and right.endswith(".*"):
        inside = (left + ".").startswith(right[:-1])
        return inside == (op is ast.Eq)
    a, b = (_version(left), _version(right)) if versions else (left, right)
    results = {ast.Eq: a == b, ast.NotEq: a != b, ast.Lt: a < b, ast.LtE: a <= b}
    return (results | {ast.Gt: a > b, ast.GtE: a >= b})[op]


def _version(text: str) -> tuple[int, ...]:
    numbers = [int(n) for n in re.match(r"[\d.]*", text)[0].split(".") if n]  # type: ignore[index]
    return tuple(numbers + [0] * (4 - len(numbers)))


def site_packages(env: Path) -> Path | None:
    """The folder that holds the environment's packages, None where there is none."""
    return next(iter(sorted(env.glob("lib/python3.*/site-packages"))), None)


def installed(site: Path) -> tuple[dict[str, str], list[str]]:
    """({name: version} by dist-info, those whose dist-info is incomplete)."""
    versions, broken = {}, []
    for entry in os.scandir(site):
        if not entry.name.endswith(".dist-info"):
            continue
        name, _, version = entry.name.removesuffix(".dist-info").rpartition("-")
        versions[normal(name)] = version
        if not all(os.path.exists(f"{entry.path}/{f}") for f in ("METADATA", "RECORD")):
            broken.append(normal(name))
    return versions, broken


def check(env: Path, lock: Path, facts: Facts, fix: str) -> Check:
    """Every pin of `lock` against the environment's metadata, without importing anything."""
    site = site_packages(env)
    if site is None:
        return Check("pins", "fail", f"{env.name} has no site-packages", fix)
    try:
        pins = wanted(lock, facts)
    except (OSError, ValueError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or error
        return Check("pins", "fail", f"{lock.name}: not readable ({reason})", "git restore it")
    if not pins:
        return Check("pins", "fail", f"{lock.name} holds no pins", f"git restore {lock.name}")
    there, broken = installed(site)
    wrong = [f"{n}: not there, {v} wanted" for n, v in pins.items() if n not in there]
    wrong += [
        f"{n}: {there[n]}, {v} wanted"
        for n, v in pins.items()
        if n in there and not _same(there[n], v)
    ]
    wrong += [f"{n}: half installed" for n in broken if n in pins]
    if wrong:
        return Check("pins", "fail", f"{len(wrong)} of {len(pins)} differ: {_few(wrong)}", fix)
    beside = sorted(set(there) - set(pins) - _BESIDE)
    more = f"; beside them {_few(beside)}" if beside else ""
    return Check("pins", "ok", f"all {len(pins)} of {lock.name}{more}")


def _same(there: str, pin: str) -> bool:
    return there.replace("_", "-").lower() == pin.replace("_", "-").lower()


def _few(items: list[str], count: int = 4) -> str:
    more = f" and {len(items) - count} more" if len(items) > count else ""
    return ", ".join(items[:count]) + more


def check_shared(locks: list[Path], facts: Facts) -> Check:
    """Whether the packages that both locks hold have one version, for this interpreter."""
    try:
        first, second = (wanted(lock, facts) for lock in locks)
    except (OSError, ValueError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or error
        return Check("shared pins", "fail", f"a lock is not readable ({reason})", "git restore it")
    both = sorted(first.keys() & second.keys())
    wrong = [f"{n} {first[n]} and {second[n]}" for n in both if first[n] != second[n]]
    if wrong:
        return Check("shared pins", "fail", f"the two locks differ: {_few(wrong)}", "make lock")
    return Check("shared pins", "ok", f"{len(both)} packages have one version in both locks")
