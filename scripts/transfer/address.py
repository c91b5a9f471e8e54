"""HOST, REMOTE_DIR and BUCKET, read and checked: an ssh name, a folder or a bucket of rclone's.

A HOST is what one types after `ssh`, or a folder beginning with /, ./ or ../ that stands in for a
host's home. Names are allow-listed because remote quoting cannot be made portable: rsync and
Apple's openrsync treat the same name differently.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from kit import console, paths

SSH_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9.-]*)?")
REMOTE_PATH = re.compile(r"[A-Za-z0-9._/+=@~-]+")
# Compiled where they are asked for: a sync with a host waits for neither.
WITH_PORT = r"(?:ssh://)?([^\s:/]+?)(?:\s+-p\s*|:)(\d+)/?|ssh://([^\s:/]+)/?"
BUCKET_NAME = r"(?s)([A-Za-z0-9_][A-Za-z0-9_.+@-]*):(.*)"
A_BUCKET = "BUCKET=REMOTE:name/path, where rclone listremotes lists REMOTE"
NO_HOST = (
    "name one: as the argument (gpu1, me@10.0.0.7, ./folder), in HOST=, "
    "or as host in configs/paths_config.json"
)


class Address(NamedTuple):
    """Where the kit is on a host. `folder` stands in for the host's home, None for an ssh name."""

    name: str
    remote_dir: str
    folder: Path | None = None

    @property
    def root(self) -> str:
        """The kit's folder as scripts on the host name it."""
        return f"{self.folder.name}/{self.remote_dir}" if self.folder else self.remote_dir

    @property
    def place(self) -> str:
        """The kit's folder as messages print it: gpu1:tandem."""
        return f"{self.name.rstrip('/')}{'/' if self.folder else ':'}{self.remote_dir}"

    @property
    def ident(self) -> str:
        """One word for file names, another for each host and folder there."""
        import hashlib  # 3 ms, which the login does not wait for

        where = f"{self.folder or self.name}:{self.remote_dir}"
        word = re.sub(r"[^A-Za-z0-9]+", "-", where).strip("-")[-40:]
        return f"{word}-{hashlib.sha256(where.encode()).hexdigest()[:8]}"


def chosen(named: str | None = None) -> Address:
    """The host that the argument names, else the variables or the configuration (kit/paths)."""
    configured = paths.load()
    name = named or configured["host"]
    if not name:
        raise console.Misuse("no HOST given", NO_HOST)
    return parse(name, configured["remote_dir"])


def parse(name: str, remote_dir: str) -> Address:
    """The Address of HOST `name`; a Misuse names what is wrong with it."""
    remote_dir = check_remote_dir(remote_dir)
    if name.startswith(("/", "./", "../")):
        return _folder(name, remote_dir)
    if SSH_NAME.fullmatch(name):
        return Address(name, remote_dir)
    if match := re.fullmatch(WITH_PORT, name):
        host, port = match[1] or match[3], match[2]
        user, _, address = host.rpartition("@")
        lines = f"Host gpu1 / HostName {address}" + f" / Port {port}" * bool(port)
        lines += f" / User {user}" * bool(user)
        raise console.Misuse(
            f"HOST {name!r}: a port or a URL does not go here",
            f"write a block into ~/.ssh/config ({lines}), then HOST=gpu1",
        )
    raise console.Misuse(
        f"HOST {name!r} is not a name for ssh",
        "use letters, digits, . _ - (user@host too), or a folder beginning with / or ./; "
        "a port and options belong into a Host block of ~/.ssh/config",
    )


def _folder(name: str, remote_dir: str) -> Address:
    if not name.isprintable():
        raise console.Misuse(f"HOST {name!r} holds a control character", "rename the folder")
    if remote_dir.startswith("/"):
        raise console.Misuse(
            f"remote_dir {remote_dir} is absolute and HOST {name} is a folder",
            "use a relative remote_dir, or an ssh name",
        )
    folder = Path(os.path.abspath(name))
    if not folder.parent.is_dir():
        raise console.Misuse(f"HOST {name}: no folder {folder.parent}", f"mkdir -p {folder.parent}")
    if folder.exists() and not folder.is_dir():
        raise console.Misuse(f"HOST {name} is a file", "name a folder or an ssh name")
    kit_there = (folder / remote_dir).resolve()
    if kit_there in (paths.ROOT, paths.workdir()):
        raise console.Misuse(
            f"HOST {name}: {kit_there} is this checkout itself", "name another folder"
        )
    return Address(name, remote_dir, folder)


def chosen_bucket(named: str | None, host: str | None) -> str:
    """The bucket that the argument or the variable BUCKET names; '' where a host is meant."""
    bucket = named or ("" if host else os.environ.get("BUCKET", ""))
    if bucket and (other := host or paths.host_variable()):
        raise console.Misuse(
            f"both HOST={other} and BUCKET={_shown(bucket)}",
            "a sync has one other side: name one of them",
        )
    return bucket


def parse_bucket(text: str) -> Address:
    """The Address of BUCKET; a Misuse names what is wrong with it."""
    if match := re.fullmatch(r"(s3|gs|gcs|az|r2)://(.+)", text):
        raise console.Misuse(
            f"BUCKET {text!r}: a URL does not go here",
            f"name the remote that rclone has for it: BUCKET={match[1]}:{match[2]}",
        )
    if text.startswith((":", "/", ".")) or not (match := re.fullmatch(BUCKET_NAME, text)):
        why = "keys do not belong into a command" if text.startswith(":") else "it names no remote"
        raise console.Misuse(f"BUCKET {_shown(text)}: {why}", A_BUCKET)
    path = re.sub(r"/(\./|/)*", "/", match[2]).strip("/")
    parts = path.split("/")
    if not path or not REMOTE_PATH.fullmatch(path) or {"..", "."} & set(parts) or path[0] in "-~":
        raise console.Misuse(
            f"BUCKET {_shown(text)}: {path!r} cannot be used" if path else
            f"BUCKET {text!r} names no bucket",
            f"{A_BUCKET}; a path of letters, digits and . _ / + = @ ~ -",
        )  # fmt: skip
    return Address(f"{match[1]}:{path}", "")


def _shown(text: str) -> str:
    """BUCKET as a message may give it: without what follows the first comma or '='."""
    cut = re.split(r"[,=]", text)[0]
    return repr(cut if cut == text else f"{cut}…")


def check_remote_dir(text: str) -> str:
    """REMOTE_DIR as the scripts use it, relative to the home there unless it begins with /."""
    plain = text[2:] if text.startswith("~/") else text
    plain = re.sub(r"/+$", "", re.sub(r"/(\./|/)*", "/", plain))
    plain = plain[2:] if plain.startswith("./") else plain
    bad = not REMOTE_PATH.fullmatch(plain) or plain[0] in "-~" or plain == "."
    if bad or ".." in plain.split("/"):
        raise console.Misuse(
            f"remote_dir {text!r} cannot be used",
            "use a folder of letters, digits and . _ / + = @ ~ -, without .. and no - in front",
        )
    return plain
