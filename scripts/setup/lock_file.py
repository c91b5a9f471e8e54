"""A hashed lock: its pins, and which of them an interpreter needs (environment markers).

Run as a script it prints the facts of the interpreter that runs it. Standard library only.
"""

from __future__ import annotations

import ast
import json
import os
import platform
import re
import sys
from pathlib import Path

Facts = dict[str, str]


def interpreter_facts() -> Facts:
    """The facts of the running interpreter, those of markers by their name in markers."""
    return {
        "python_full_version": platform.python_version(),
        "python_version": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "implementation_name": sys.implementation.name,
        "platform_python_implementation": platform.python_implementation(),
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "platform_system": platform.system(),
        "sys_platform": sys.platform,
        "bits": str(sys.maxsize.bit_length() + 1),
        "libc": " ".join(platform.libc_ver()),
        "mac": platform.mac_ver()[0],
    }


def ask_facts(python: str) -> list[str]:
    """The command that makes an interpreter print its facts, as JSON."""
    return [python, "-I", "-S", str(Path(__file__).resolve())]


def normal(name: str) -> str:
    """The package's name as indexes compare it: Foo_Bar -> foo-bar."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(lock: Path) -> list[tuple[str, str, str]]:
    """(name, version, marker or '') of every pin. Raises OSError."""
    text = lock.read_text(encoding="utf-8")
    pins = re.findall(
        r"^([\w.-]+)(?:\[[^]]*])?==([^\s;\\]+)(?: *; *([^\\\n]+?))? *\\?$", text, re.M
    )
    return [(normal(name), version, marker) for name, version, marker in pins]


def same_pins(one: Path, other: Path) -> bool:
    """Whether two locks differ in comments and blank lines alone. Raises OSError."""
    first, second = (lock.read_bytes() for lock in (one, other))
    return first == second or _without_comments(first) == _without_comments(second)


def _without_comments(lock: bytes) -> list[bytes]:
    return [
        line for line in lock.splitlines() if line.strip() and not line.lstrip().startswith(b"#")
    ]


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


if __name__ == "__main__":
    print(json.dumps(interpreter_facts()))
