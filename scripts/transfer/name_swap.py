"""Put new files in the place of old ones so that the old ones stay: two names swap their files.

    python3 -I -S name_swap.py WAITING/ TARGET/ NAME…   each WAITING/NAME and TARGET/NAME swap

Linux and macOS swap two names in one step, so nobody finds a name missing and nothing that lay
there is lost, whatever wrote it last. Elsewhere three renames do it. Used here, and sent as it is
to a host: standard library only, Python 3.6.
"""

import ctypes
import os
import sys

SWAP_LINUX, SWAP_MAC, HERE = 2, 2, -100
RENAMEAT2 = {"x86_64": 316, "aarch64": 276}  # system calls, for a libc without the function


def swap_atomically(first, second):
    """Swap two names of one file system in one step; False where the system cannot."""
    a, b = os.fsencode(first), os.fsencode(second)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            return libc.renamex_np(a, b, SWAP_MAC) == 0
        if hasattr(libc, "renameat2"):
            return libc.renameat2(HERE, a, HERE, b, SWAP_LINUX) == 0
        number = RENAMEAT2.get(os.uname().machine)
        return bool(number) and libc.syscall(number, HERE, a, HERE, b, SWAP_LINUX) == 0
    except (OSError, AttributeError):
        return False


def exchange(waiting, target):
    """`waiting` gets the name `target`; what lay there gets the name `waiting`.

    Where nothing lay there, `waiting` is moved.
    """
    if swap_atomically(waiting, target):
        return
    if not os.path.lexists(target):
        os.rename(waiting, target)
        return
    old = str(waiting) + ".old"
    os.rename(target, old)
    os.rename(waiting, target)
    os.rename(old, waiting)


if __name__ == "__main__":
    for name in sys.argv[3:]:
        exchange(sys.argv[1] + name, sys.argv[2] + name)
