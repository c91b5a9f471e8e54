"""Memory of a running process and its children, sampled from /proc."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path


class MemoryWatch(threading.Thread):
    """The peak of the anonymous memory of a process, and of it with its children, in bytes.

    Pages that a forked child shares with its parent count once (Pss_Anon).
    """

    def __init__(self, process: subprocess.Popen):
        super().__init__(daemon=True)
        self.process, self.own, self.together = process, 0, 0

    def run(self) -> None:
        while self.process.poll() is None:
            own = anonymous(self.process.pid)
            self.own = max(self.own, own)
            others = sum(map(anonymous, children(self.process.pid)))
            self.together = max(self.together, own + others)
            time.sleep(0.004)


def anonymous(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(status.split("Pss_Anon:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return 0


def children(pid: int) -> list[int]:
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
