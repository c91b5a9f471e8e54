"""Where a cluster is and how to log in there, without ever holding the secret.

    cluster = find("tensor01", Path(".credentials"))

`.credentials/<cluster>.credentials` is JSON, mode 0600:

    {"address": "10.0.0.7", "username": "mapper", "password": "..."}
    {"address": "10.0.0.7", "username": "mapper", "key_file": "~/.ssh/tensor", "port": 2222,
     "remote_dir": "/scratch/mapper/embeddings"}

Without such a file the name is an ssh name (the user's ssh config, ProxyJump and agent hold), or a
folder beginning with /, ./ or ../ that stands in for a host. A password is only looked at to see
that it is one: ssh asks for it later through askpass.py, which reads the file again.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import console, json_files
from transfer.address import REMOTE_PATH, SSH_NAME

SHARDS = "mapper_embeddings/embeddings"  # below the home folder on the host
FIELDS = {"address": str, "username": str, "password": str, "key_file": str, "port": int,
          "remote_dir": str}  # fmt: skip
ADDRESS = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:-]*")
USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
SAFE = "letters, digits and . _ / + = @ ~ -, no '..', no space"


@dataclass(frozen=True)
class Cluster:
    """One host. `folder`: it is a folder on this machine. `secret`: the file with a password."""

    name: str
    remote_dir: str
    folder: Path | None = None
    address: str | None = None
    username: str | None = None
    port: int | None = None
    key_file: Path | None = None
    secret: Path | None = None


def find(name: str, folder: Path, remote_dir: str | None = None) -> Cluster:
    """The cluster called `name`; a Misuse says which file and field is wrong."""
    if remote_dir and (bad := unsafe(remote_dir)):
        raise console.Misuse(f"--remote-dir {bad}", SAFE)
    if name.startswith(("/", "./", "../")):
        called = os.path.basename(os.path.abspath(name))
        if not called or called.startswith("."):
            raise console.Misuse(f"--clusters: {name} has no name to go by", "name it otherwise")
        return Cluster(called, remote_dir or SHARDS, folder=Path(name))
    if not SSH_NAME.fullmatch(name):
        raise console.Misuse(
            f"--clusters: {name!a} is not a host name", "letters, digits, dot, dash, user@host"
        )
    path = folder / f"{name}.credentials"
    if not path.exists():
        return Cluster(name, remote_dir or SHARDS)
    if "@" in name:
        raise console.Misuse(f"{path}: its username belongs into it", "rename it without @")
    return _of_file(name, path, remote_dir)


def _of_file(name: str, path: Path, remote_dir: str | None) -> Cluster:
    """The cluster that a credentials file describes."""
    values = load(path)
    where = remote_dir or values.get("remote_dir") or f"/home/{values['username']}/{SHARDS}"
    key = Path(os.path.expanduser(values["key_file"])) if "key_file" in values else None
    if key and not key.is_absolute():
        key = path.parent.parent / key
    if key and not key.is_file():
        raise console.Misuse(f"{path}: key_file {key} does not exist", "name the private key")
    return Cluster(
        name, where, None, values["address"], values["username"], values.get("port", 22), key,
        path.resolve() if "password" in values else None,
    )  # fmt: skip


def known(folder: Path) -> list[str]:
    """The names of all clusters with a credentials file."""
    return sorted(p.name[: -len(".credentials")] for p in folder.glob("*.credentials"))


def load(path: Path) -> dict[str, Any]:
    """The checked fields of a credentials file. No message repeats a value of it."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise console.Misuse(f"{path}: mode {mode:04o} lets others read it", f"chmod 600 {path}")
    try:
        values = json.loads(
            path.read_text(encoding="utf-8"), object_pairs_hook=json_files.unique_keys
        )
    except json.JSONDecodeError as error:
        reason = f"{path}:{error.lineno}: broken JSON: {error.msg}"
    except UnicodeDecodeError:
        reason = f"{path}: not UTF-8"
    except json_files.DuplicateKey:
        reason = f"{path}: a field is given twice"
    except (ValueError, RecursionError):  # a number or a nesting beyond what Python reads
        reason = f"{path}: broken JSON"
    else:
        reason = _wrong(values)
        if not reason:
            return values
        reason = f"{path}: {reason}"
    raise console.Misuse(reason, "docs/EMBEDDINGS.md shows the fields")


def _wrong(values: Any) -> str:
    """What is wrong with the fields, or ''."""
    if not isinstance(values, dict):
        return "not a JSON object"
    for key, value in values.items():
        if key not in FIELDS:
            closest = difflib.get_close_matches(key, FIELDS, 1, 0)
            return f"unknown field {key[:40]!a}; did you mean {closest[0]}?"
        if type(value) is not FIELDS[key] or value == "":
            return f"{key} must be a {'number' if FIELDS[key] is int else 'text'}"
    missing = [key for key in ("address", "username") if key not in values]
    if "password" not in values and "key_file" not in values:
        missing.append("password or key_file")
    if missing:
        return f"missing: {', '.join(missing)}"
    if "password" in values and "key_file" in values:
        return "both password and key_file; keep one"
    return _malformed(values)


def _malformed(values: dict[str, Any]) -> str:
    if not ADDRESS.fullmatch(values["address"]):
        return "address is not a host name or IP address"
    if not USER.fullmatch(values["username"]):
        return "username is not a user name"
    if not 0 < values.get("port", 22) < 65536:
        return "port must be 1 to 65535"
    if re.search(r'["\n\r\0]|\$\{', values.get("key_file", "")):
        return "key_file holds a quote, a line break or ${"
    if re.search(r"[\n\r\0]", values.get("password", "")):
        return "password holds a line break"
    bad = unsafe(values.get("remote_dir", SHARDS))
    return f"remote_dir {bad}" if bad else ""


def unsafe(path: str) -> str:
    """Why a remote path cannot be passed on, or '': shells and rsyncs would disagree about it."""
    plain = REMOTE_PATH.fullmatch(path) and not path.startswith("-")
    if plain and ".." not in path.split("/"):
        return ""
    return f"{path[:80]!a} cannot be passed on safely"
