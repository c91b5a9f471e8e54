"""What the sync_*.sh and host_*.sh commands run: `python scripts/transfer COMMAND …`."""

import contextlib
import gc
import importlib
import os
import signal
import sys

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from kit import console  # noqa: E402

COMMANDS = {
    "up": ("sync_to_remote.sh", "transfer.sync_commands", "up"),
    "down": ("sync_from_remote.sh", "transfer.sync_commands", "down"),
    "probe": ("host_probe.sh", "transfer.host_probe", "main"),
    "run": ("host_run.sh", "jobs.detached", "main"),
    "watch": ("host_watch.sh", "jobs.watch", "main"),
}


def main() -> int:
    gc.disable()  # tens of thousands of short strings and no cycles: only time would be lost
    command = sys.argv.pop(1)
    sys.argv[0], module, function = COMMANDS[command]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell ignored it
    try:
        return getattr(importlib.import_module(module), function)(sys.argv[1:])
    except (KeyboardInterrupt, SystemExit) as stop:
        code = getattr(stop, "code", 130)
        if code in (130, 143) and command in ("up", "down"):
            again = "nothing is lost: run the same command again and it goes on where it stopped"
            console.note(f"{console.program()}: interrupted; {again}")
        raise


if __name__ == "__main__":
    try:
        console.run(main)
    except SystemExit as ended:
        with contextlib.suppress(BrokenPipeError):
            if sys.stdout and isinstance(ended.code, int):
                sys.stdout.flush()
                os._exit(ended.code)  # to take the interpreter apart would take 5 ms
        raise
