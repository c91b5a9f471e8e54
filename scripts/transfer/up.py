"""Up: the kit, its configs and the prepared data, to the host.

Order of events: list both sides at once → plan → rsync into .incoming/ there → compare SHA-256
there and here → move everything into place, manifests last → remember what was verified.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from pathlib import Path

import paths
from kit import console
from transfer import tree
from transfer.host import Host, open_host, quote
from transfer.tree import File

WITHOUT_GIT = (
    "scripts configs docs tests .ci .github Makefile setup_local.sh setup_remote.sh "
    "requirements-local.txt requirements-remote.txt environment-remote.yml pyproject.toml "
    "README.md LICENSE CHANGELOG.md CONTRIBUTING.md .gitignore data models adapters"
)
LAST = ("manifest.json", "card.json")  # they vouch for the files beside them
ROUNDS = 3
MARGIN = 16 << 20  # bytes that must stay free there
SEED = 1 << 20  # above this size rsync gets the old file to build the new one on


class Near:
    """The files here that should be there: `files` by their path there, `place` of each here."""

    def __init__(self, kit_only: bool):
        self.files: dict[str, File] = {}
        self.place: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self.kit_only = kit_only
        self._kit()
        self._folder(paths.ROOT / "configs", "configs")
        if paths.workdir() != paths.ROOT:
            self._folder(paths.workdir() / "configs", "configs")
        if not kit_only:
            self._folder(paths.folder("data_processed"), "data/processed")
            self._folder(paths.folder("data_synthetic"), "data/synthetic")
        for place, why in tree.STAY.items():
            here = paths.workdir() / place
            if here.is_dir() and any(name != ".gitkeep" for name in os.listdir(here)):
                self.skipped[place + "/"] = why

    def _kit(self) -> None:
        root = str(paths.ROOT)
        for path in tracked(self.skipped) or self._everything():
            if reason := tree.stays(path):
                self.skipped[path] = reason
            elif found := tree.look(f"{root}/{path}"):
                self.files[path], self.place[path] = found, f"{root}/{path}"

    def _everything(self) -> list[str]:
        """Without git: the named parts of the kit."""
        named = WITHOUT_GIT.split()
        found = [name for name in named if (paths.ROOT / name).is_file()]
        for name in filter(lambda n: (paths.ROOT / n).is_dir(), named):
            found += [path for path, _ in tree.walk(str(paths.ROOT), self.skipped, name)]
        kept = ("data/", "models/", "adapters/")
        return [p for p in found if not p.startswith(kept) or p.endswith("/.gitkeep")]

    def _folder(self, folder: Path, there: str) -> None:
        here = str(folder.resolve())
        skipped: dict[str, str] = {}
        for path, found in tree.walk(here, skipped):
            self.files[f"{there}/{path}"] = found
            self.place[f"{there}/{path}"] = f"{here}/{path}"
        self.skipped |= {f"{there}/{path}": why for path, why in skipped.items()}

    def covers(self, path: str) -> bool:
        """Whether this run looked at everything that may lie at `path`."""
        return not (self.kit_only and path.startswith("data/"))

    def refresh(self, path: str) -> None:
        """Look at one file again; gone files leave."""
        if found := tree.look(self.place[path]):
            self.files[path] = found
        else:
            del self.files[path], self.place[path]

    def groups(self, names: list[str]) -> dict[tuple[Path, str], list[str]]:
        """`names` by (folder here, folder there) that one rsync can serve, relative to both."""
        grouped: dict[tuple[Path, str], list[str]] = {}
        for name in names:
            here = self.place[name]
            if here.endswith("/" + name):
                key, rest = (Path(here[: -len(name)]), ""), name
            else:
                there = "configs" if name.startswith("configs/") else "/".join(name.split("/")[:2])
                rest = name[len(there) + 1 :]
                key = (Path(here[: -len(rest)]), there)
            grouped.setdefault(key, []).append(rest)
        return grouped


def tracked(skipped: dict[str, str]) -> list[str]:
    """What git tracks in this checkout; nothing where there is no git or no repository.

    New files that git neither tracks nor ignores go to `skipped`.
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    command = ["git", "-C", str(paths.ROOT), "ls-files", "-z", "-t", "-c", "-o"]
    command.append("--exclude-standard")
    try:
        listed = subprocess.run(command, capture_output=True, env=env, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    names = [os.fsdecode(name) for name in listed.split(b"\0") if name]
    known = [name[2:] for name in names if not name.startswith("? ")]
    if known:
        new = [name[2:] for name in names if name.startswith("? ")]
        skipped |= {name: "not in git; git add it" for name in new if name[:8] != "configs/"}
    return known


class Plan:
    """Each file here has one fate. `edited`: changed there since we last sent it."""

    def __init__(self):
        self.new: list[str] = []
        self.changed: list[str] = []
        self.same: list[str] = []
        self.unsure: list[str] = []  # size and time agree, contents not yet compared
        self.edited: list[str] = []
        self.gone: list[str] = []

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
        self.edited = [
            path
            for path in self.changed
            if path in record.files and record.files[path][2] != far[path].sig
        ]
        missing = [p for p in record.files if p not in near.files and near.covers(p)]
        self.gone = [p for p in missing if p in far and far[p].sig == record.files[p][2]]
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
                if path in record.files and record.files[path][2] != far[path].sig:
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
            emit(f"kept      {names}: edited there since; that version goes to .replaced/ there")
        word = "moved to .replaced/ there" if removing else "left there; --delete N moves them"
        if self.gone:
            tree.say_files(
                "gone here", sorted(self.gone), far.files, lambda t: emit(f"{t} ({word})")
            )
        tree.say_skipped(near.skipped, emit)


def listing() -> str:
    """find's arguments for the far side: everything but what never travels up."""
    places = " -o ".join(f"-path './{place}/*'" for place in tree.STAY)
    names = "__pycache__ node_modules .git .envs .cache .rehearsal .incoming .replaced .jobs"
    pruned = " -o ".join(f"-name {name}" for name in [*names.split(), "'.venv*'"])
    return f"-L . \\( \\( {places} \\) ! -name .gitkeep -o {pruned} \\) -prune -o"


def sync(host: Host, args: argparse.Namespace) -> int:
    """The whole way up. Returns the exit code."""
    began = time.monotonic()
    record = tree.Record(host, "up")
    with tree.only_one(record, host):
        probe = host.start(tree.probe_script(host, listing()))
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
        host.run(f"rm -rf {quote(f'{host.root}/.incoming/{host.ident}')}\n")


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
    stage = f".incoming/{host.ident}"
    seeds = [
        path
        for path in plan.changed
        if near.files[path].size > SEED and near.files[path][:2] != far.files[path][:2]
    ]
    digests = _stage(host, near, plan.sent, seeds, stage) if plan.sent else {}
    aside = sorted(set(plan.edited)) + removed
    sent = [path for path in plan.sent if path in digests]
    script = commit_script(host, stage, sent, aside)
    after = tree.Far(b"\n\n" + host.run("exec sh -s\n", script))
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


def _stage(
    host: Host, near: Near, names: list[str], seeds: list[str], stage: str
) -> dict[str, str]:
    """Bring `names` into the far staging folder until SHA-256 agrees; {path: SHA-256}."""
    from transfer import rsync

    digests: dict[str, str] = {}
    doubtful: list[str] = []
    pending = names
    for _ in range(ROUNDS):
        host.run("exec sh -s\n", prepare_script(host, stage, near.groups(pending), seeds, doubtful))
        hashing = tree.Beside(dict, tree.local_hashes({p: near.place[p] for p in pending}))
        for (here, below), rest in near.groups(pending).items():
            size = sum(near.files[f"{below}/{r}" if below else r].size for r in rest)
            target = host.rsync_target(f"{stage}/{below}")
            rsync.copy(host, rest, rsync.local(here), target, size)
        digests |= hashing.result()
        found = "find . -name .rsync-partial -prune -o -type f -print0"
        output = host.run(tree.hash_script(host, f"cd {quote(stage)} && {found}"))
        there = tree.read_hashes(output)
        doubtful = [path for path in names if there.get(path) != digests[path]]
        if not doubtful:
            return digests
        for path in doubtful:
            near.refresh(path)
        names = [path for path in names if path in near.files]
        pending, seeds = [path for path in doubtful if path in near.files], []
        if not pending:
            return {path: digests[path] for path in names}
    shown = ", ".join(map(tree.printable, doubtful[:5]))
    many = "1 file differs" if len(doubtful) == 1 else f"{len(doubtful)} files differ"
    raise console.Problem(
        f"{host.name}: {many} after {ROUNDS} transfers: {shown}",
        "if a program here still writes them, let it end; else check the disks and the memory",
    )


def prepare_script(
    host: Host,
    stage: str,
    groups: dict[tuple[Path, str], list[str]],
    seeds: list[str],
    doubtful: list[str],
) -> bytes:
    """Make the staging folder; old versions of big files in it give rsync something to build on."""
    lines = [f"mkdir -p {quote(f'{host.root}/{stage}')} && cd {quote(host.root)} || exit 1"]
    folders = {f"{stage}/{below}" for _, below in groups if below}
    folders |= {os.path.dirname(f"{stage}/{path}") for path in seeds}
    lines += [f"mkdir -p {quote(folder)} || exit 1" for folder in sorted(folders)]
    lines += [f"rm -f {quote(f'{stage}/{path}')}" for path in doubtful]
    for path in seeds:
        old, new = quote(f"./{path}"), quote(f"{stage}/{path}")
        lines.append(f"[ -e {new} ] || ln {old} {new} 2>/dev/null || cp -p {old} {new}")
    return "\n".join([*lines, "exit 0\n"]).encode("utf-8", "surrogateescape")


def commit_script(host: Host, stage: str, names: list[str], aside: list[str]) -> bytes:
    """Move the staged files into place, `aside` out of the way first; then list what lies there."""
    kept = f".replaced/{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    lines = ["set -e", f"cd {quote(host.root)}"]
    lines += _moves("", f"{kept}/", aside) + _moves(f"{stage}/", "", names)
    lines += [f"rm -rf {quote(stage)}", "rmdir .incoming 2>/dev/null || true"]
    lines += [tree.LISTING, f"far_list {listing()}", ""]
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _moves(source: str, target: str, names: list[str]) -> list[str]:
    """Few mv commands for many files: neighbours in one folder share one. Keeps the order."""
    lines, made = [], set()
    batch: list[str] = []
    for n, name in enumerate(names):
        folder = os.path.dirname(name)
        batch.append(quote(f"./{source}{name}"))
        following = os.path.dirname(names[n + 1]) if n + 1 < len(names) else None
        if following != folder or len(batch) == 200:
            where = quote(f"./{target}{folder}/")
            if folder not in made:
                lines.append(f"mkdir -p {where}")
                made.add(folder)
            lines.append(f"mv -f {' '.join(batch)} {where}")
            batch = []
    return lines


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
