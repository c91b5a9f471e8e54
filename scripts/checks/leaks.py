"""Secrets that git holds or would take. Names of files are reported, values never."""

from __future__ import annotations

import os
import re
import shlex
import stat
from pathlib import Path

from checks.probe import ProgramAnswer
from kit import console
from kit.report import Check
from kit.secret_names import is_secret

# Values that are secrets wherever they stand: Hugging Face, AWS, OpenAI, GitHub, private keys.
VALUES = (
    r"(hf_[A-Za-z0-9]{34,}|AKIA[0-9A-Z]{16}|sk-[A-Za-z0-9_-]{40,}|gh[pousr]_[A-Za-z0-9]{36}"
    r"|^-----BEGIN ([A-Z]+ )?PRIVATE KEY-----$)"
)
# A user's configuration may colour the output or read submodules, which --untracked refuses.
_GREP = ["git", "grep", "--no-color", "--no-recurse-submodules", "--untracked"]
COMMANDS = {
    "git tracked": ["git", "ls-files", "-z"],
    "git open": ["git", "ls-files", "-z", "--others", "--exclude-standard"],
    "git values": [*_GREP, "-lIzE", "-e", VALUES],
}
# Variables that make git look at another repository, index or set of paths than this checkout's.
_OTHER_REPOSITORY = re.compile(
    r"GIT_(DIR|WORK_TREE|INDEX_FILE|OBJECT_DIRECTORY|ALTERNATE_OBJECT_DIRECTORIES|COMMON_DIR"
    r"|NAMESPACE|PREFIX|CONFIG_PARAMETERS|\w+_PATHSPECS|DISCOVERY_ACROSS_FILESYSTEM)"
)


def variables() -> dict[str, str]:
    """This process's variables for COMMANDS, without those that lead git elsewhere."""
    kept = {k: v for k, v in os.environ.items() if not _OTHER_REPOSITORY.fullmatch(k)}
    return kept | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}


def check(
    tracked: ProgramAnswer, not_ignored: ProgramAnswer, values: ProgramAnswer, root: Path
) -> list[Check]:
    """From the answers of COMMANDS: secrets in git, about to be, or open to other users."""
    checks = _open_files(root)
    if tracked.code != 0:
        return [_no_answer(tracked, root), *checks]
    for answer, what in ((tracked, "tracked"), (not_ignored, "not ignored")):
        names = [n for n in answer.text.split("\0") if n and is_secret(n)]
        if names:
            text = f"{what} by git: {console.few(names)}"
            checks.append(Check(f"secrets {what}", "fail", text, _remedy(names, what)))
    if values.code not in (0, 1):  # 1: no file holds one
        text = f"git could not search the files: {_reason(values)}"
        checks.append(Check("secrets in files", "warn", text, "run git grep here and look"))
    elif holding := [n for n in values.text.split("\0") if n and values.code == 0]:
        fix = "take it out of the file, and make the token or key invalid where it was issued"
        text = f"a key or token is in {console.few(holding)}"
        checks.append(Check("secrets in files", "fail", text, fix))
    return checks or [Check("secrets", "ok", "none tracked, all ignored")]


def _no_answer(tracked: ProgramAnswer, root: Path) -> Check:
    """Why git listed nothing: this is no checkout, or git refused or failed."""
    if "not a git repository" in tracked.text and not (root / ".git").exists():
        return Check("secrets", "skip", "not a git checkout: nothing can be committed")
    if tracked.code == 127 and not (root / ".git").exists():
        return Check("secrets", "skip", "git is not installed, and this is not a git checkout")
    text = f"not known whether git holds any: {_reason(tracked)}"
    fix = "git ls-files here says more"
    if "dubious ownership" in tracked.text:
        text = "not known whether git holds any: the checkout belongs to another user"
        fix = f"git config --global --add safe.directory {shlex.quote(str(root))}"
    elif tracked.code == 127:
        fix = "install git (apt-get install git, or xcode-select --install)"
    return Check("secrets", "warn", text, fix)


def _reason(answer: ProgramAnswer) -> str:
    if answer.code is None:
        return "git gave no answer in time"
    lines = [line.strip() for line in answer.text.splitlines() if line.strip()]
    text = next((line for line in lines if line.startswith("fatal:")), "")
    return (text or (lines or [f"git ended with {answer.code}"])[0])[:120]


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
    text = f"others can read {console.few(names)}"
    return [Check("secrets readable", "warn", text, f"chmod 600 {' '.join(names)}")]


def _open_to_others(path: Path) -> bool:
    return bool(os.stat(path).st_mode & (stat.S_IRWXG | stat.S_IRWXO))
