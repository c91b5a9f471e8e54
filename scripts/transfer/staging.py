"""The far staging folder: files wait in it until their SHA-256 is the one here."""

from __future__ import annotations

import os
import time

from kit import console
from transfer import tree
from transfer.host import Host, quote
from transfer.near import Near

ROUNDS = 3
SEED = 1 << 20  # above this size rsync gets the old file to build the new one on

# put FOLDER/ FILE…: rename into FOLDER; onto another disk by way of a folder on that disk. A file
# where a folder has to be, or a folder where a file has to be, goes to $kept first.
PUT = """
away() {
  rmdir "$1" 2>/dev/null || { mkdir -p "$kept${1%/*}" && mv "$1" "$kept${1%/*}/"; }
}
put() {
  to=$1; shift
  above=${to%/}
  while [ "$above" != . ] && [ ! -d "$above" ]; do
    if [ -e "$above" ] || [ -L "$above" ]; then away "$above"; fi
    above=${above%/*}
  done
  for file; do
    if [ -d "$to${file##*/}" ]; then away "$to${file##*/}"; fi
  done
  mkdir -p "$to"
  if ln "$1" "$to.tandem-link" 2>/dev/null; then rm -f "$to.tandem-link"; mv -f "$@" "$to"
  else
    mkdir -p "$to.incoming"; mv -f "$@" "$to.incoming/"
    find "$to.incoming" -type f -exec mv -f {} "$to" \\;
    rmdir "$to.incoming"
  fi
}
"""


class Stage:
    """`.incoming/ID/` in the kit's folder there; ID is this laptop's."""

    def __init__(self, host: Host, near: Near):
        self.host, self.near = host, near
        self.folder = host.stage

    def fill(self, names: list[str], seeds: list[str]) -> dict[str, str]:
        """Bring `names` there until SHA-256 agrees; {path: SHA-256} of those that exist.

        `seeds` are big files whose old version there gives rsync something to build on.
        """
        digests: dict[str, str] = {}
        pending, doubtful = names, []
        for _ in range(ROUNDS):
            self._prepare(pending, seeds, doubtful)
            digests |= self._copy(pending)
            there = self._hashes()
            doubtful = [path for path in names if there.get(path) != digests[path]]
            if not doubtful:
                return {path: digests[path] for path in names}
            for path in doubtful:
                self.near.refresh(path)
            names = [path for path in names if path in self.near.files]
            pending, seeds = [path for path in doubtful if path in self.near.files], []
        raise self._problem(doubtful)

    def _prepare(self, names: list[str], seeds: list[str], doubtful: list[str]) -> None:
        root = quote(self.host.root)
        lines = [f"mkdir -p {root}/{quote(self.folder)} && cd {root} || exit 1"]
        folders = {f"{self.folder}/{below}" for _, below in self.near.groups(names) if below}
        folders |= {os.path.dirname(f"{self.folder}/{path}") for path in seeds}
        lines += [f"mkdir -p {quote(folder)} || exit 1" for folder in sorted(folders)]
        lines += [f"rm -f {quote(f'{self.folder}/{path}')}" for path in doubtful]
        for path in seeds:
            old, new = quote(f"./{path}"), quote(f"{self.folder}/{path}")
            lines.append(f"[ -e {new} ] || ln {old} {new} 2>/dev/null || cp -p {old} {new}")
        self.host.run_long([*lines, "exit 0"])

    def _copy(self, names: list[str]) -> dict[str, str]:
        """rsync, and beside it the hashes of what is here."""
        from transfer import rsync

        hashing = tree.Beside(dict, tree.local_hashes({p: self.near.place[p] for p in names}))
        for (here, below), rest in self.near.groups(names).items():
            size = sum(self.near.files[f"{below}/{r}" if below else r].size for r in rest)
            target = self.host.rsync_target(f"{self.folder}/{below}")
            rsync.copy(self.host, rest, rsync.local(here), target, size)
        return hashing.result()

    def _hashes(self) -> dict[str, str]:
        found = "find . -name .rsync-partial -prune -o -type f -print0"
        names = f"cd {quote(self.folder)} && {found}"
        return tree.read_hashes(self.host.run(tree.hash_script(self.host, names)))

    def _problem(self, doubtful: list[str]) -> console.Problem:
        shown = ", ".join(map(tree.printable, doubtful[:5]))
        many = "1 file differs" if len(doubtful) == 1 else f"{len(doubtful)} files differ"
        return console.Problem(
            f"{self.host.name}: {many} after {ROUNDS} transfers: {shown}",
            "if a program here still writes them, let it end; else check the disks and the memory",
        )

    def commit(self, names: list[str], aside: list[str], listing: str) -> tree.Far:
        """Move `names` into place, `aside` out of the way first; what lies there afterwards."""
        kept = f".replaced/{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}/"
        lines = ["set -e", f"cd {quote(self.host.root)}", f"kept={quote(f'./{kept}')}", PUT]
        lines += moves("", kept, aside) + moves(f"{self.folder}/", "", names)
        lines += [f"rm -rf {quote(self.folder)}", "rmdir .incoming 2>/dev/null || true"]
        # find fails on a loop of links or a closed folder, too: what it could list is all the same
        lines += [tree.LISTING, f"far_list {listing} || true"]
        return tree.Far(b"\n\n" + self.host.run_long(lines))


def moves(source: str, target: str, names: list[str]) -> list[str]:
    """Few commands for many files: neighbours in one folder share one. Keeps the order."""
    lines = []
    batch: list[str] = []
    for n, name in enumerate(names):
        folder = os.path.dirname(name)
        batch.append(quote(f"./{source}{name}"))
        following = os.path.dirname(names[n + 1]) if n + 1 < len(names) else None
        if following != folder or len(batch) == 200:
            where = quote(f"./{target}{folder}/" if folder else f"./{target}")
            lines.append(f"put {where} {' '.join(batch)}")
            batch = []
    return lines
