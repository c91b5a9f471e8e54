"""Where things are on this machine: the checkout, the folders, the host. Reads paths_config.json.

TANDEM_WORKDIR moves all relative folders under another root (a rehearsal does that).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kit import console, json_files

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = ROOT / "configs" / "paths_config.json"


def workdir() -> Path:
    """The folder that holds data/, models/, adapters/: the checkout unless TANDEM_WORKDIR says."""
    return Path(os.environ.get("TANDEM_WORKDIR") or ROOT).resolve()


def environment() -> str:
    """'local' or 'remote': TANDEM_ENV, else which environment is built in this checkout."""
    named = os.environ.get("TANDEM_ENV")
    if named:
        if named not in ("local", "remote"):
            raise console.Misuse(f"TANDEM_ENV={named}", "set it to local or remote")
        return named
    only_remote = (ROOT / ".venv-remote").exists() and not (ROOT / ".venv-local").exists()
    return "remote" if only_remote else "local"


def _without_comments(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = json_files.unique_keys(pairs)
    return {key: value for key, value in values.items() if not key.startswith("_comment")}


def load(config: Path | None = None) -> dict[str, Any]:
    """The effective paths configuration: file < environments section < TANDEM_ variables."""
    config = config or CONFIG
    try:
        raw = json.loads(config.read_text(encoding="utf-8"), object_pairs_hook=_without_comments)
    except json.JSONDecodeError as error:
        raise console.Misuse(f"{config}:{error.lineno}: {error.msg}", "correct the JSON") from None
    except json_files.DuplicateKey as error:
        raise console.Misuse(f"{config}: {error}", "delete one of them") from None
    except (ValueError, RecursionError):
        raise console.Misuse(f"{config}: not JSON in UTF-8", "correct it") from None
    known = {"folders": dict, "host": str, "remote_dir": str, "environments": dict}
    sections = [("the file", raw)]
    if isinstance(raw, dict) and isinstance(raw.get("environments"), dict):
        sections += raw["environments"].items()
    for name, section in sections:
        if not isinstance(section, dict):
            raise console.Misuse(f"{config}: {name} must be an object", "correct that value")
        for key, value in section.items():
            if key not in known:
                hint = f"did you mean {_closest(key, known)!r}?"
                raise console.Misuse(f"{config}: unknown key {key!r}", hint)
            if not isinstance(value, known[key]):
                kind = {dict: "an object", str: "a string"}[known[key]]
                raise console.Misuse(f"{config}: {key} must be {kind}", "correct that value")
        for key, value in section.get("folders", {}).items():
            if not isinstance(value, str):
                raise console.Misuse(f"{config}: {key} must be a string", "correct that value")
    here = raw.get("environments", {}).get(environment(), {})
    return {
        "folders": raw.get("folders", {}) | here.get("folders", {}),
        "host": _first("HOST", here, raw, "host", ""),
        "remote_dir": _first("REMOTE_DIR", here, raw, "remote_dir", "tandem"),
    }


def _first(variable: str, here: dict, file: dict, key: str, default: str) -> str:
    """The plain variable, then TANDEM_…, then the file: the one order for HOST and REMOTE_DIR."""
    plain = host_variable() if variable == "HOST" else os.environ.get(variable)
    return plain or os.environ.get(f"TANDEM_{variable}") or here.get(key) or file.get(key, default)


def host_variable() -> str:
    """The variable HOST, or '' where another program set it; that is noted once on stderr."""
    host = os.environ.get("HOST", "")
    if not is_of_another_program(host):
        return host
    console.note(
        f"the variable HOST={host} is not used: a shell or conda set it; a host of that name is "
        f"me@{host}"
    )
    os.environ.pop("HOST")
    return ""


def is_of_another_program(host: str) -> bool:
    """Whether a value of HOST is not the user's choice: tcsh sets this machine's own name,
    conda's compilers a target such as x86_64-conda-linux-gnu. A HOST of that name can still be
    given as an argument, or as me@NAME.
    """
    machine = os.uname().nodename
    own = {machine, machine.partition(".")[0]} - {"", "localhost"}
    return (
        host in own or re.fullmatch(r"\w+-(\w+-)?(linux-gnu|apple-darwin)[\w.]*", host) is not None
    )


def _closest(name: str, known: Iterable[str]) -> str:
    import difflib  # only a mistake waits for it

    return difflib.get_close_matches(name, known, 1, 0)[0]


def folder(name: str) -> Path:
    """The absolute path of one folder of the configuration, `data_raw` say."""
    folders = load()["folders"]
    if name not in folders:
        hint = f"did you mean {_closest(name, folders)}?" if folders else f"add it to {CONFIG}"
        raise console.Misuse(f"{CONFIG}: no folder is named {name!r}", hint)
    return workdir() / folders[name]


def show(path: Path | str) -> str:
    """`path` as messages print it: relative to the current folder where it is below it."""
    path = Path(os.path.abspath(path))
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
