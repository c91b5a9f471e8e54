"""Secrets that git holds or would take. Names of files are reported, values never."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from checks.probe import Answer
from kit.report import Check
from kit.secret_names import is_secret

# Values that are secrets wherever they stand: Hugging Face, AWS, OpenAI, GitHub, private keys.
VALUES = (
    r"(hf_[A-Za-z0-9]{34,}|AKIA[0-9A-Z]{16}|sk-[A-Za-z0-9_-]{40,}|gh[pousr]_[A-Za-z0-9]{36}"
    r"|^-----BEGIN ([A-Z]+ )?PRIVATE KEY-----$)"
)
COMMANDS = {
    "git tracked": ["git", "ls-files", "-z"],
    "git open": ["git", "ls-files", "-z", "--others", "--exclude-standard"],
    "git values": ["git", "grep", "-lIzE", "--untracked", "-e", VALUES],
}


def check(tracked: Answer, not_ignored: Answer, values: Answer, root: Path) -> list[Check]:
    """From the answers of COMMANDS: secrets in git, about to be, or open to other users."""
    found = _open_files(root)
    if tracked.code != 0:
        return [Check("secrets", "skip", "not a git checkout: nothing can be committed"), *found]
    for answer, what in ((tracked, "tracked"), (not_ignored, "not ignored")):
        names = [n for n in answer.text.split("\0") if n and is_secret(n)]
        if names:
            text = f"{what} by git: {_few(names)}"
            found.append(Check(f"secrets {what}", "fail", text, _remedy(names, what)))
    holding = [n for n in values.text.split("\0") if n] if values.code == 0 else []
    if holding:
        fix = "take it out of the file, and make the token or key invalid where it was issued"
        text = f"a key or token stands in {_few(holding)}"
        found.append(Check("secrets in files", "fail", text, fix))
    return found or [Check("secrets", "ok", "none tracked, all ignored")]


def _remedy(names: list[str], what: str) -> str:
    if what == "tracked":
        return f"git rm --cached {names[0]}, add it to .gitignore, and make that secret invalid"
    return f"echo '/{names[0]}' >> .gitignore, or move it to .credentials/"


def _open_files(root: Path) -> list[Check]:
    """Secret files at the top and in .credentials/ that other users can read."""
    files = [p for p in (*root.glob(".credentials/*"), *root.glob(".env*")) if p.is_file()]
    wrong = [p for p in files if is_secret(p.relative_to(root).as_posix()) and _open_to_others(p)]
    if not wrong:
        return []
    names = [p.relative_to(root).as_posix() for p in wrong]
    text = f"others can read {_few(names)}"
    return [Check("secrets readable", "warn", text, f"chmod 600 {' '.join(names)}")]


def _open_to_others(path: Path) -> bool:
    return bool(os.stat(path).st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
