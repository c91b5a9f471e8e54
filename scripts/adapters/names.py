"""`name@version`: how adapters are named everywhere, and which version a range means.

mapper-lora           the highest version that is not retired
mapper-lora@latest    the same
mapper-lora@v1.0.0    exactly that one, retired or not (`1.0.0` too)
mapper-lora@^1.2      1.2 or newer, below 2.0 (below 0.3 for ^0.2: the first number that is not 0)
mapper-lora@~1.2      1.2 or newer, below 1.3 (~1: below 2)
mapper-lora@1.2       any 1.2.x
mapper-lora@>=1.0,<2  any range that pip understands
"""

from __future__ import annotations

import re

from kit import console

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
VERSION = re.compile(r"v(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})")
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # of a file's path: the same on every system
LONGEST = 200  # characters of NAME@VERSION
RESERVED = ("runs",)  # the folders below adapters/ that hold no versions
BUMPS = ("major", "minor", "patch")
VersionNumber = tuple[int, int, int]


def check_name(name: str) -> str:
    """`name`, or Misuse: it becomes a folder that must mean the same on every file system."""
    if not NAME.fullmatch(name) or name in RESERVED or name.endswith("."):
        raise console.Misuse(
            f"{name!r} cannot be an adapter's name",
            "use lower-case letters, digits, '-', '_', '.' (at most 64), not `runs`",
        )
    return name


def number(version: str) -> VersionNumber | None:
    """'v1.20.3' -> (1, 20, 3); None for what is not a version."""
    match = VERSION.fullmatch(version)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def text(version: VersionNumber) -> str:
    """(1, 20, 3) -> 'v1.20.3'"""
    return "v{}.{}.{}".format(*version)


def after(latest: VersionNumber | None, bump: str) -> VersionNumber:
    """The number that follows `latest`; the first version of all is v1.0.0."""
    if latest is None:
        return (1, 0, 0)
    major, minor, patch = latest
    return {
        "major": (major + 1, 0, 0),
        "minor": (major, minor + 1, 0),
        "patch": (major, minor, patch + 1),
    }[bump]


def split(reference: str) -> tuple[str, str]:
    """'mapper-lora@^1.0' -> ('mapper-lora', '^1.0'); without '@' the version is 'latest'."""
    if len(reference) > LONGEST:
        raise console.Misuse(f"a reference of {len(reference)} characters", "write NAME@VERSION")
    name, at, wanted = reference.partition("@")
    check_name(name)
    if at and not wanted.strip():
        raise console.Misuse(f"{reference}: no version after @", f"write {name}@latest")
    return name, wanted.strip() or "latest"


def matches(wanted: str, versions: list[VersionNumber]) -> list[VersionNumber]:
    """Those of `versions` that 'latest', '1.0.0', '^1.0', '~1.2' or '>=1.0,<2' allows, sorted."""
    if wanted == "latest":
        return sorted(versions)
    exact = number(wanted if wanted.startswith("v") else f"v{wanted}")
    if exact:
        return [v for v in versions if v == exact]
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        allowed = SpecifierSet(_range(wanted))
    except InvalidSpecifier:
        raise console.Misuse(
            f"@{wanted} is not a version",
            "write @v1.0.0, @latest, @^1.0, @~1.2 or @'>=1.0,<2'",
        ) from None
    return sorted(v for v in versions if text(v)[1:] in allowed)


def _range(wanted: str) -> str:
    """'^1.2', '~1.2' and '1.2' in the words of packaging's SpecifierSet."""
    if re.fullmatch(r"v?[0-9]+(\.[0-9]+)?", wanted):
        return f"=={wanted.removeprefix('v')}.*"
    match = re.fullmatch(r"([\^~])v?([0-9]+)(?:\.([0-9]+))?(?:\.([0-9]+))?", wanted)
    if not match:
        return wanted
    given = [int(part) for part in match.groups()[1:] if part is not None]
    if match[1] == "^":  # the first number that is not 0 must stay
        keep = next((i for i, part in enumerate(given) if part), len(given) - 1)
    else:
        keep = min(1, len(given) - 1)
    above = [*given[:keep], given[keep] + 1]
    return f">={'.'.join(map(str, given))},<{'.'.join(map(str, above))}"
