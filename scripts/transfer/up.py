"""Up: the kit, its configs and the prepared data, to the host.

Order of events: list both sides at once → plan → rsync into .incoming/ there → compare SHA-256
there and here → move everything into place, manifests last → remember what was verified.
"""

from __future__ import annotations

import argparse
import os
import time

from kit import console
from transfer import tree
from transfer.host import Host, open_host, quote
from transfer.near import Near
from transfer.staging import SEED, Stage
from transfer.tree import File

LAST = ("manifest.json", "card.json")  # they vouch for the files beside them
MARGIN = 16 << 20  # bytes that must stay free there


class Plan:
    """Each file here has one fate. `edited`: there is a version that we did not send."""

    def __init__(self):
        self.new: list[str] = []
        self.changed: list[str] = []
        self.same: list[str] = []
        self.unsure: list[str] = []  # size and time agree, contents not yet compared
        self.edited: list[str] = []
        self.gone: list[str] = []
        self.blocking: list[str] = []  # a file there and a folder here, or the reverse

    def compare(self, near: Near, far: dict[str, File], record: tree.Record, verify: bool) -> None:
        """Give every file its fate, by size, time and signature."""
        for path, here in near.files.items():
            there = far.get(path)
            if there is None:
                self.new.append(path)
            elif record.holds(path, here, there) and not verify:
                self.same.append(path)
            elif here[:3] != there[:3]:
                self.changed.append(path)
            else:
                self.unsure.append(path)
        self.edited = [path for path in self.changed if not record.sent(path, far[path])]
        self.blocking = _blocking(self.new, far)
        moved = set(self.blocking)
        missing = [p for p in record.files if p not in near.files and near.covers(p)]
        self.gone = [
            p
            for p in missing
            if p in far and record.sent(p, far[p]) and moved.isdisjoint([p, *_above(p)])
        ]
        for path in missing:
            if path not in far:
                record.drop(path)

    def settle(self, host: Host, near: Near, far: dict[str, File], record: tree.Record) -> None:
        """Compare the contents of what `unsure` holds."""
        there = tree.far_hashes(host, self.unsure)
        for path, digest in tree.local_hashes({p: near.place[p] for p in self.unsure}):
            if digest == there.get(path):
                self.same.append(path)
                record.put(path, digest, near.files[path], far[path])
            else:
                self.changed.append(path)
                if not record.sent(path, far[path]):
                    self.edited.append(path)
        self.unsure = []

    @property
    def sent(self) -> list[str]:
        """What has to travel, the files that vouch for others last."""
        return sorted(self.new + self.changed, key=lambda p: (p.endswith(LAST), p))

    def show(self, host: Host, near: Near, far: tree.Far, removing: bool, emit) -> None:
        """Print it."""
        emit(f"plan      up: this checkout -> {host.place}")
        tree.say_files("new", sorted(self.new), near.files, emit)
        tree.say_files("changed", sorted(self.changed), near.files, emit)
        if self.same:
            emit(f"same      {tree.amount(near.files[p] for p in self.same)}")
        if self.edited:
            names = ", ".join(map(tree.printable, sorted(self.edited)[:5]))
            emit(f"kept      {names}: not as we sent it; that version goes to .replaced/ there")
        if self.blocking:
            names = ", ".join(map(tree.printable, self.blocking[:5]))
            emit(f"kept      {names}: a file there, a folder here, or the reverse; to .replaced/")
        word = "moved to .replaced/ there" if removing else "left there; --delete N moves them"
        if self.gone:
            tree.say_files(
                "gone here", sorted(self.gone), far.files, lambda t: emit(f"{t} ({word})")
            )
        tree.say_skipped(near.skipped, emit)


def _blocking(new: list[str], far: dict[str, File]) -> list[str]:
    """What stands there as a file where `new` needs a folder, or the reverse."""
    wanted = {folder for path in new for folder in _above(path)}
    there = {folder for path in far for folder in _above(path)} if new else set()
    return sorted((wanted & far.keys()) | (there & set(new)))


def _above(path: str) -> list[str]:
    """The folders that `path` lies in."""
    return [path[:n] for n, letter in enumerate(path) if letter == "/"]


def listing() -> str:
    """find's arguments for the far side: everything but what never travels up."""
    places = " -o ".join(f"-path './{place}/*'" for place in tree.STAY)
    names = "__pycache__ node_modules .git .envs .cache .rehearsal .incoming .replaced .jobs"
    pruned = " -o ".join(f"-name {name}" for name in [*names.split(), "'.venv*'"])
    return f"-L . \\( \\( {places} \\) ! -name .gitkeep -o {pruned} \\) -prune -o"


def sync(host: Host, args: argparse.Namespace) -> int:
    """The whole way up. Returns the exit code."""
    began = time.monotonic()
    probe = host.start(tree.probe_script(host, listing()))  # what follows fills the waiting
    record = tree.Record(host, "up")
    with tree.only_one(record, host):
        near = Near(args.kit_only)
        far = tree.Far(host.finish(probe))
        plan = Plan()
        if not args.verify and record.all_hold(near.files, near.covers, far.digest):
            plan.same = list(near.files)
        else:
            plan.compare(near, far.files, record, args.verify)
        if plan.unsure:
            plan.settle(host, near, far.files, record)
        removed = _allowed_to_remove(plan, near, args.delete)
        if args.dry_run:
            plan.show(host, near, far, bool(removed), print)
            print(f"dry run: {tree.amount(near.files[p] for p in plan.sent)} would be sent")
            return console.GOOD
        if plan.sent or removed:
            plan.show(host, near, far, bool(removed), console.note)
            _send(host, near, far, plan, removed, record)
        else:
            _tidy(host, far)
            if plan.same and "files" in vars(far):  # compared one by one
                record.save(far.files, far.digest)
    _sum_up(host, near, plan, removed, time.monotonic() - began)
    return console.GOOD


def _allowed_to_remove(plan: Plan, near: Near, most: int | None) -> list[str]:
    if most is None or not plan.gone:
        return []
    if len(plan.gone) > most:
        raise console.Problem(
            f"{len(plan.gone)} files are gone here and --delete allows {most}",
            f"look at them with --dry-run, then --delete {len(plan.gone)}",
        )
    for root in sorted({"/".join(p.split("/")[:-1]) for p in plan.gone}):
        if root and not any(p.startswith(root + "/") for p in near.files):
            raise console.Problem(
                f"{root} is empty here, so nothing is removed there",
                "bring its files back, or remove the folder on the host by hand",
            )
    return sorted(plan.gone)


def _tidy(host: Host, far: tree.Far) -> None:
    """Drop what an earlier, abandoned transfer left in .incoming/."""
    if far.facts.get("staged"):
        host.run(f"rm -rf {quote(host.root)}/{quote(host.stage)}\n")


def _send(
    host: Host,
    near: Near,
    far: tree.Far,
    plan: Plan,
    removed: list[str],
    record: tree.Record,
) -> None:
    """Stage, compare, move into place, remember."""
    far.must_have_rsync(host)
    _must_fit(host, far, sum(near.files[p].size for p in plan.sent))
    seeds = [
        path
        for path in plan.changed
        if near.files[path].size > SEED and near.files[path][:2] != far.files[path][:2]
    ]
    stage = Stage(host, near)
    digests = stage.fill(plan.sent, seeds) if plan.sent else {}
    sent = [path for path in plan.sent if path in digests]
    after = stage.commit(sent, sorted(set(plan.edited)) + removed, listing())
    for path in sent:
        record.put(path, digests[path], near.files[path], after.files.get(path))
    for path in removed:
        record.drop(path)
    record.save(after.files, after.digest)


def _must_fit(host: Host, far: tree.Far, size: int) -> None:
    if not far.facts["writable"]:
        raise console.Problem(f"{host.place} cannot be written", "check its owner and permissions")
    free = int(far.facts["free"] or 0) * 1024 if far.facts["free"] else None
    if free is not None and size + MARGIN > free:
        raise console.Problem(
            f"{host.name}: {console.size(size)} to send and {console.size(free)} free there",
            f"free {console.size(size + MARGIN - free)} on that disk, then run it again",
        )


def _sum_up(host: Host, near: Near, plan: Plan, removed: list[str], seconds: float) -> None:
    size = sum(near.files[p].size for p in plan.sent if p in near.files)
    parts = []
    if plan.sent:
        rate = f"{console.size(size / max(seconds, 0.001))}/s"
        amount = tree.amount(near.files[p] for p in plan.sent if p in near.files)
        parts.append(f"sent {amount} in {console.duration(seconds)} ({rate})")
        parts.append(f"SHA-256 verified on {host.name}")
    if removed:
        parts.append(f"{len(removed)} moved to .replaced/ there")
    same = f"{tree.amount(near.files[p] for p in plan.same)} unchanged"
    if plan.same:
        parts.append(same if parts else f"nothing to send: {same}")
    print(f"{host.place}: {'; '.join(parts)}")


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser("Send the kit and the prepared data to the host.")
    parser.add_argument("host", nargs="?")
    parser.add_argument("--kit-only", action="store_true")
    parser.add_argument("--dry-run", action="store_true", default=dry_run())
    parser.add_argument("--verify", "--checksum", action="store_true")
    parser.add_argument("--delete", type=_positive, metavar="N")
    parser.add_argument("--accept-new-host-key", action="store_true")
    args = parser.parse_args(argv)
    with open_host(args.host, args.accept_new_host_key) as host:
        return sync(host, args)


def dry_run() -> bool:
    """Whether DRY_RUN asks for a plan alone."""
    return os.environ.get("DRY_RUN", "0") not in ("", "0")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give the most files it may move, 1 or more")
    return int(text)
