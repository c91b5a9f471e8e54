#!/usr/bin/env python3
"""Write down size and SHA-256 of each shard, on the cluster, when the shards are finished.

    python3 write_manifest.py                          in the folder of the shards
    python3 write_manifest.py DIR --pattern 'cluster*_gpu*.pkl'
    ssh tensor01 'cd mapper_embeddings/embeddings && python3 -' < scripts/write_manifest.py

Makes shards.manifest.json beside them. sync_and_merge_embeddings.py compares every byte with it:
it is what tells a damaged shard from a good one. Needs Python 3.6 and nothing else; run it again
after new shards are finished: unchanged ones are not read again. A shard that changes while it is
read, or whose end is missing, is still being written: nothing is listed, exit 1.

Exit codes: 0 good, 1 a shard is not finished or there are none, 2 called wrongly.
"""

import argparse
import fnmatch
import hashlib
import json
import os
import re
import socket
import sys
import time

NAME = "shards.manifest.json"


class Unfinished(Exception):
    """A shard that cannot be listed, with the reason."""


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def stamp(path):
    """What changes when somebody writes to the file."""
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns]


def known_files(path):
    """The entries of an earlier manifest; none if there is no readable one."""
    try:
        with open(path, "rb") as f:
            files = json.loads(f.read().decode("utf-8"))["files"]
        return {n: e for n, e in files.items() if re.match("[0-9a-f]{64}$", e["sha256"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def entry(path, before):
    """Size, time and SHA-256 of one shard; `before`: its earlier entry, used if still true."""
    now = stamp(path)
    if before and [before.get("size"), before.get("mtime_ns")] == now:
        return before
    with open(path, "rb") as f:
        f.seek(max(0, now[0] - 1))
        if f.read(1) != b".":  # every pickle ends with STOP
            raise Unfinished(f"{path}: its end is missing, still being written")
    listed = {"size": now[0], "mtime_ns": now[1], "sha256": sha256(path)}
    if stamp(path) != now:
        raise Unfinished(f"{path}: it changed while it was read, still being written")
    return listed


def write(folder, pattern):
    """Publish the manifest of `folder`; how many shards it lists."""
    target = os.path.join(folder, NAME)
    before = known_files(target)
    names = sorted(n for n in os.listdir(folder) if fnmatch.fnmatch(n, pattern))
    if not names:
        raise Unfinished(f"{folder}: no file matches {pattern}")
    files = {n: entry(os.path.join(folder, n), before.get(n)) for n in names}
    made = {
        "format": "tandem-shards/1",
        "host": socket.gethostname(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "files": files,
    }
    part = f"{target}.{os.getpid()}.part"
    with open(part, "w") as f:
        json.dump(made, f, indent=1, sort_keys=True)
        f.write("\n")
        f.flush()
        os.fsync(f.fileno())
    os.replace(part, target)
    return len(names)


def say(text):
    """Print a line on stderr, control characters as their escapes: no name moves the cursor."""
    shown = (c if c.isprintable() else ascii(c)[1:-1] for c in text)
    print("".join(shown).encode("utf-8", "backslashreplace").decode(), file=sys.stderr)


class Parser(argparse.ArgumentParser):
    """Wrong calls are one line, as everywhere in the kit."""

    def error(self, message):
        say(f"{self.prog}: {message}; see {self.prog} --help")
        self.exit(2)


def main(argv=None):
    form = argparse.RawDescriptionHelpFormatter
    parser = Parser(description=__doc__, formatter_class=form)
    parser.add_argument("folder", nargs="?", default=".", help="where the shards are (here)")
    parser.add_argument("--pattern", default="cluster*_gpu*.pkl", help="their names (%(default)s)")
    args = parser.parse_args(argv)
    program = os.path.basename(sys.argv[0])
    if not os.path.isdir(args.folder):
        say(f"{program}: {args.folder} is not a folder; name one")
        return 2
    try:
        count = write(args.folder, args.pattern)
    except Unfinished as reason:
        say(f"{program}: {reason}; run it again later")
        return 1
    except OSError as error:
        say(f"{program}: {error}; fix that")
        return 1
    say(f"{os.path.join(args.folder, NAME)} lists {count} shards")
    return 0


if __name__ == "__main__":
    sys.exit(main())
