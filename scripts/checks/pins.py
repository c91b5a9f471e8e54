"""Pins: what an environment holds, and where that differs from its lock."""

from __future__ import annotations

from pathlib import Path

from kit import console
from kit.report import Check
from setup.installed_packages import compare_with_lock, site_packages
from setup.lock_file import Facts, wanted


def check(env: Path, lock: Path, facts: Facts, fix: str) -> Check:
    """Every pin of `lock` against the environment's metadata, without importing anything."""
    site = site_packages(env)
    if site is None:
        return Check("pins", "fail", f"{env.name} has no site-packages", fix)
    try:
        difference = compare_with_lock(site, lock, facts)
    except (OSError, ValueError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or error
        return Check("pins", "fail", f"{lock.name}: not readable ({reason})", "git restore it")
    if not difference.pins:
        return Check("pins", "fail", f"{lock.name} holds no pins", f"git restore {lock.name}")
    if wrong := list(difference.wrong.values()):
        text = f"{len(wrong)} of {difference.pins} differ: {console.few(wrong)}"
        return Check("pins", "fail", text, fix)
    more = f"; beside them {console.few(difference.extra)}" if difference.extra else ""
    return Check("pins", "ok", f"all {difference.pins} of {lock.name}{more}")


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
        return Check(
            "shared pins", "fail", f"the two locks differ: {console.few(wrong)}", "make lock"
        )
    return Check("shared pins", "ok", f"{len(both)} packages have one version in both locks")
