"""What --gpus N starts: torchrun, which does not print a traceback of its own for a process's end.

A process of ours notes why it failed (processes.note_end). Of one that could not, because a signal
ended it or it failed in a way that nobody foresaw, the note is written here.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from training import processes  # noqa: E402


def main() -> int:
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run.main()
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if not (Path(os.environ[processes.NOTES]) / str(rank)).exists():
            os.environ["RANK"] = str(rank)
            processes.note_end(1, f"process {rank + 1} {ended(failure.exitcode)}")
        return 1
    return 0


def ended(code: int) -> str:
    """How a process ended, by its exit code; a negative one is the number of a signal."""
    if code >= 0:
        return f"ended with exit code {code}; its lines are above"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    more = "; SIGKILL is often the system's, for want of memory" if name == "SIGKILL" else ""
    return f"was ended by {name}{more}; its lines are above"


if __name__ == "__main__":
    sys.exit(main())
