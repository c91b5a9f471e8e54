"""The staging folder on the host: files wait in it until their SHA-256 is the one here.

Then they are put in place under a lock there. What they replace is kept unless it is what the last
sync left, by its signature at that moment: an edit while a sync runs is never lost.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

from kit import console
from transfer import commit_shell, host_shell, local_files, record, sync_lines
from transfer.carriers import Carrier
from transfer.frame import AnswerLimits
from transfer.host import Host, ScriptFailed, quote
from transfer.listing import (
    LISTING_BYTES,
    HostState,
    ListedFile,
    hash_limits,
    read_hashes,
    read_listing,
)
from transfer.local_files import LocalFiles

ROUNDS = 3


def stage_name_if_any() -> str:
    """This laptop's staging folder in the kit there, '' if this laptop has none yet."""
    with contextlib.suppress(OSError):
        known = (record.folder() / "laptop").read_text(encoding="utf-8").strip()
        if known.isalnum():
            return f".incoming/{known}"
    return ""


def stage_name() -> str:
    """The same; made on the first call, so that two laptops never share one."""
    if known := stage_name_if_any():
        return known
    kept = record.folder() / "laptop"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(f"{os.urandom(6).hex()}\n", encoding="utf-8")
    return stage_name()


class PushStage:
    """`.incoming/ID/` in the kit's folder there; ID is this laptop's."""

    def __init__(
        self,
        host: Host,
        local: LocalFiles,
        carrier: Carrier,
        name: str,
    ):
        self.host, self.local, self.carrier, self.folder = host, local, carrier, name
        self.staged: dict[str, ListedFile] = {}  # just before the commit
        self.python = ""  # the interpreter there, where the commit needed one
        self.records: dict[bytes, tuple[str, ListedFile]] = {}  # of the listing before
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self.kept = f".replaced/{stamp}-{os.urandom(2).hex()}/"  # no two commits share it

    def fill(self, names: list[str], seeds: list[str]) -> dict[str, str]:
        """Bring `names` there until SHA-256 agrees; {path: SHA-256} of those that exist.

        `seeds` are big files whose old version there gives rsync something to build on.
        """
        digests: dict[str, str] = {}
        pending, doubtful = names, []
        for _ in range(ROUNDS):
            self._prepare(pending, seeds, doubtful)
            digests |= self._copy(pending)
            remote_hashes = self._hashes(names)
            doubtful = [path for path in names if remote_hashes.get(path) != digests[path]]
            if not doubtful:
                return {path: digests[path] for path in names}
            for path in doubtful:
                self.local.refresh(path)
            names = [path for path in names if path in self.local.files]
            pending, seeds = [path for path in doubtful if path in self.local.files], []
        raise self._problem(doubtful)

    def _prepare(self, names: list[str], seeds: list[str], doubtful: list[str]) -> None:
        root = quote(self.host.root)
        lines = [f"mkdir -p {root}/{quote(self.folder)} && cd {root} || exit 1"]
        folders = {f"{self.folder}/{below}" for _, below in self.local.groups(names) if below}
        folders |= {os.path.dirname(f"{self.folder}/{path}") for path in seeds}
        lines += [f"mkdir -p {quote(folder)} || exit 1" for folder in sorted(folders)]
        lines += [f"rm -rf {quote(f'{self.folder}/{path}')}" for path in doubtful]
        for path in seeds:
            old, new = quote(f"./{path}"), quote(f"{self.folder}/{path}")
            lines.append(f"[ -e {new} ] || cp -p {old} {new} || rm -f {new}")
        self.host.run_in_shell(
            "\n".join([host_shell.HEAD, *lines, "exit 0"]), "making folders", repeatable=True
        )

    def _copy(self, names: list[str]) -> dict[str, str]:
        """Carry them there, and at the same time hash what is here."""
        return self._carry(names, local_files.hash_all)

    def _carry(self, names: list[str], hash_here: Callable[[dict[str, str]], dict]) -> dict:
        """Carry `names` there; what `hash_here` says of them, which reads them meanwhile."""
        place = {path: self.local.place[path] for path in names}
        hashing = local_files.Background(hash_here, place)
        for (here, below), rest in self.local.groups(names).items():
            size = sum(self.local.files[f"{below}/{r}" if below else r].size for r in rest)
            self.carrier.send(rest, here, f"{self.folder}/{below}".rstrip("/"), size)
        return hashing.result("hashing what was sent, here")

    def _hashes(self, names: list[str]) -> dict[str, str]:
        find = "find . -name .rsync-partial -prune -o -type f -print0"
        script = host_shell.hash_script(self.host, f"cd {quote(self.folder)} && {find}")
        sizes = [self.local.files[path].size for path in names]
        limits = hash_limits(sizes, 2 * sum(len(os.fsencode(name)) for name in names))
        doing = f"hashing {len(names):,} files, {console.size(sum(sizes))}"
        output = self.host.run_in_shell(script, doing, limits=limits, repeatable=True)
        return read_hashes(output, names)

    def _problem(self, doubtful: list[str]) -> console.Problem:
        many = "1 file differs" if len(doubtful) == 1 else f"{len(doubtful)} files differ"
        return console.Problem(
            f"{self.host.name}: {many} after {ROUNDS} transfers: {sync_lines.names(doubtful)}",
            "if a program here still writes them, let it end; else check the disks and the memory",
        )

    def commit(
        self,
        names: list[str],
        known: dict[str, str],
        over: set[str],
        aside: list[str],
        strays: list[str],
        listing: str,
    ) -> HostState:
        """Put `names` in place and move `aside` away; the state there afterwards.

        `known`: {path: signature there} of what an earlier sync left; `over`: paths that exist.
        """
        lines = [host_shell.HEAD, host_shell.LISTING]
        lines += commit_shell.prologue(self.host.root, self.kept, f"./{self.folder}")
        lines += commit_shell.moving_aside(aside)
        lines += commit_shell.placing(names, over)
        limits = AnswerLimits(stdout=LISTING_BYTES)
        try:
            doing = f"putting {len(names):,} files in place"
            output = self.host.run_in_shell("\n".join(lines), doing, limits=limits)
        except ScriptFailed as failed:
            if failed.exit_code == commit_shell.BUSY:
                raise console.Problem(
                    f"another sync puts files in place at {self.host.place}", "wait for it to end"
                ) from None
            raise
        listed, _, placed = output.partition(commit_shell.STAGED.encode())
        if listed:
            self.staged = read_listing(self.host, listed).files
        dropped, kept = self._judge(placed, known)
        return self._finish(dropped, kept, strays, listing)

    def is_ours(self, path: str, remote: ListedFile | None) -> bool:
        """Whether what lies there after the commit is the staged file: nobody wrote to it since."""
        staged = self.staged.get(path)
        if not staged or not remote:
            return False
        mode, _, *size_and_time = staged.sig.split()[:4]
        return [mode, *size_and_time] == [remote.sig.split()[0], *remote.sig.split()[2:4]]

    def _judge(self, output: bytes, known: dict[str, str]) -> tuple[dict[str, str], list[str]]:
        """(what may be dropped: {path: its signature in the kept folder}, what must stay)."""
        before: dict[str, str] = {}
        after: dict[str, str] = {}
        for line in output.decode(errors="surrogateescape").split("\n"):
            kind, _, rest = line.partition(" ")
            fields = rest.split(" ", 5)
            if kind == "python":
                self.python = rest
            if kind in ("before", "after") and len(fields) == 6:
                path = fields[5].removeprefix("./")
                path = path.removeprefix(self.kept).removeprefix("./")
                {"before": before, "after": after}[kind][path] = " ".join(fields[:5])
        dropped, kept = {}, []
        for path, sig in after.items():
            same = before.get(path) == known.get(path) is not None
            if same and sig.split()[:4] == before[path].split()[:4]:
                dropped[path] = sig
            else:
                kept.append(path)
        return dropped, kept

    def _finish(
        self, dropped: dict[str, str], kept: list[str], strays: list[str], listing: str
    ) -> HostState:
        """Remove what is not needed any more and list what is there."""
        lines = [host_shell.HEAD, f"cd {quote(self.host.root)} || exit 1", host_shell.LISTING]
        lines += commit_shell.dropping(
            [f"{s} ./{self.kept}{p}" for p, s in dropped.items()], self.python
        )
        for n in range(0, len(strays), commit_shell.BATCH):
            lines.append(f"rm -f {' '.join(map(quote, strays[n : n + commit_shell.BATCH]))}")
        here = quote(f"./{self.kept.rstrip('/')}")
        lines.append(f"find {here} -depth -type d -exec rmdir {{}} + 2>/dev/null")
        stage = quote(self.folder)
        lines.append(f"rm -rf {stage} {stage}.*; rmdir .incoming .replaced 2>/dev/null")
        # find fails on a loop of links or a closed folder, too: what it lists is all the same
        lines += ["echo done yes; echo", f"list_files {listing} || true"]
        limits = AnswerLimits(stdout=LISTING_BYTES)
        output = self.host.run_in_shell(
            "\n".join(lines), "listing its files again", limits=limits, repeatable=True
        )
        state = HostState(self.host, output, known=self.records)
        held = [path for fact, path in state.facts.items() if fact.startswith("held-")]
        kept += [path.removeprefix(f"./{self.kept}") for path in held]
        if kept:
            names = sync_lines.names(sorted(kept))
            console.note(f"kept      {names}: what was there is in {self.host.place}/{self.kept}")
        return state
