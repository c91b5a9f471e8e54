#!/usr/bin/env python3
"""Run setup_remote.sh on a host that already has the kit, streaming what it says.

    HOST=gpu1 python scripts/transfer/set_up_host.py [OPTION...]      setup_remote.sh's options

setup_remote.sh calls this after the push. Exit codes: those of setup_remote.sh there.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from kit import console  # noqa: E402
from transfer.host import open_host  # noqa: E402

# The caller's, not the host's: they would send it on to another host or folder.
NOT_THERE = ("HOST", "REMOTE_DIR", "TANDEM_HOST", "TANDEM_REMOTE_DIR", "TANDEM_WORKDIR")


def script(root: str, options: list[str]) -> str:
    """What runs in the host's home folder. TANDEM_PYTHON holds there too."""
    python = os.environ.get("TANDEM_PYTHON")
    words = ["env", *([f"TANDEM_PYTHON={python}"] if python else [])]
    words += ["./setup_remote.sh", "--here", *options]
    absent = f"{root}: the kit is not there; ./setup_remote.sh HOST pushes it"
    return (
        f"CDPATH= cd {shlex.quote(root)} 2>/dev/null && [ -x setup_remote.sh ] || "
        f"{{ echo {shlex.quote(absent)} >&2; exit 1; }}; exec {shlex.join(words)}"
    )


def main(argv: list[str] | None = None) -> int:
    options = sys.argv[1:] if argv is None else argv
    with open_host() as host:
        code = script(host.root, options)
        if host.is_folder:
            env = {k: v for k, v in os.environ.items() if k not in NOT_THERE}
            command, cwd = ["bash", "-c", code], host.folder.parent
        else:
            # quoted for the login shell there, whichever it is; bash reads the rest
            env, cwd = host.environment(), None
            command = [*host.ssh(), host.name, f"bash -c {shlex.quote(code)}"]
        ended = subprocess.call(command, stdin=subprocess.DEVNULL, cwd=cwd, env=env)
        if ended == 255:
            raise console.Problem(f"{host.name}: the connection broke", "run the same again")
        return ended


if __name__ == "__main__":
    console.run(main)
