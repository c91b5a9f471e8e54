"""Exclusive use of a file, on file systems with and without locks.

    if not lock.try_lock(descriptor, "data/embeddings"):
        raise console.Problem("another sync is running", "wait until it ends")

Network disks without a lock service answer ENOLCK: nobody holds anything then, so the caller goes
on, with one warning.
"""

from __future__ import annotations

import errno
import fcntl

from kit import console

NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_warned: set[str] = set()


def try_lock(descriptor: int, place: str) -> bool:
    """Lock an open file without waiting; False where somebody else holds it.

    True as well where the file system of `place` has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            return False
        if place not in _warned:
            _warned.add(place)
            console.warn(f"{place}: this file system has no locks; do not run two at once here")
    return True
