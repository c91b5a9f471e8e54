"""Drop what a sync replaced, unless it changed since or a process still writes to it.

    python3 -I -S -c SOURCE <LINES     `mode inode size mtime ctime path`, one file a line

A program that has a replaced file open, or mapped into its memory, goes on writing to it, not to
the new one: what it writes is found in .replaced/. Linux tells by /proc which files are open or
mapped, other systems by lsof which are open; of processes of other users only root is told. Prints
`held-N path` for each file that stays.
Used here, and sent as it is to a host: standard library only, Python 3.6.
"""

import os
import subprocess
import sys

WRITING = os.O_WRONLY | os.O_RDWR


def written_inodes():
    """The inode numbers of the files that processes of this user have open for writing."""
    if os.path.isdir("/proc/self/fdinfo"):
        return _from_proc()
    command = ["lsof", "-w", "-u", str(os.getuid()), "-F", "ai"]
    try:
        path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin"
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30,
            env=dict(os.environ, PATH=path),
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return set()
    inodes, writes = set(), False
    for line in done.stdout.decode("ascii", "replace").split("\n"):
        if line[:1] in ("p", "f"):
            writes = False
        elif line[:1] == "a":
            writes = line[1:] in ("w", "u")
        elif line[:1] == "i" and writes and line[1:].isdigit():
            inodes.add(int(line[1:]))
    return inodes


def _from_proc():
    inodes = set()
    for process in os.listdir("/proc"):
        if not process.isdigit():
            continue
        folder = "/proc/" + process
        try:
            for number in os.listdir(folder + "/fd"):
                _add_if_written(folder, number, inodes)
            _add_if_mapped(folder, inodes)
        except OSError:  # it ended, or it is another user's
            continue
    return inodes


def _add_if_mapped(folder, inodes):
    """The files that a process writes to through its memory; it may have closed them."""
    with open(folder + "/maps", "rb") as f:
        text = f.read()
    if b"w-s " not in text and b"wxs " not in text:
        return
    for line in text.split(b"\n"):  # addresses, rights, offset, device, inode, path
        fields = line.split(None, 5)
        shared = len(fields) == 6 and fields[1][1:2] + fields[1][3:] == b"ws"
        if shared and not fields[5].startswith((b"/dev/", b"/memfd:", b"[", b"anon_")):
            inodes.add(int(fields[4]))


def _add_if_written(folder, number, inodes):
    try:
        target = os.readlink(folder + "/fd/" + number)
        if not target.startswith("/") or target.startswith("/dev/"):
            return
        with open(folder + "/fdinfo/" + number) as f:
            flags = next(line.split()[1] for line in f if line.startswith("flags:"))
        if int(flags, 8) & WRITING:
            inodes.add(os.stat(folder + "/fd/" + number).st_ino)
    except (OSError, ValueError, StopIteration):
        return


def is_as_listed(path, line):
    """Whether inode, size and time are those of `line`: `mode inode size mtime …`."""
    try:
        facts = os.lstat(path)
        _, inode, size, mtime = line.split(" ", 4)[:4]
        seconds, _, fraction = mtime.partition(".")
        exact = int(seconds) * 10**9 + int((fraction + "0" * 9)[:9])
        time = facts.st_mtime_ns if fraction else facts.st_mtime_ns // 10**9 * 10**9
        return (facts.st_ino, facts.st_size, time) == (int(inode), int(size), exact)
    except (OSError, ValueError):
        return False


def main():
    lines = sys.stdin.buffer.read().split(b"\n")
    held = written_inodes()
    number = 0
    for line in filter(None, lines):
        path = line.split(b" ", 5)[5]
        if not os.path.lexists(path):
            continue
        if (
            is_as_listed(path, line.decode("utf-8", "replace"))
            and os.lstat(path).st_ino not in held
        ):
            os.unlink(path)
        else:
            number += 1
            sys.stdout.buffer.write(b"held-%d %s\n" % (number, path))


if __name__ == "__main__":
    main()
