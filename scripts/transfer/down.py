"""Down: adapters, runs and reports, from the host.

A version (adapters/NAME/vX.Y.Z) and a run's final/ come complete or not at all: rsync brings their
files into .incoming/, SHA-256 is compared with the host's and with card.json, then one rename
publishes the folder. A version that is already here is never overwritten. The other files of
runs, and reports, may be renewed.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import json
import os
import re
import shutil
import time
from pathlib import Path

from kit import console, paths, publish
from transfer import rsync, tree
from transfer.host import Host, open_host
from transfer.staging import ROUNDS
from transfer.tree import File
from transfer.up import MARGIN, dry_run

VERSION = re.compile(r"v\d+\.\d+\.\d+.*")
LAST = ("status.json", "report.json", "report.html", "manifest.json", "index.json")
LISTING = (
    "-H adapters reports \\( -name .incoming -o -name .replaced -o -name '.*.part' "
    "-o -name __pycache__ -o -name .rsync-partial \\) -prune -o"
)


def unit_of(path: str) -> str:
    """The folder that `path` is published with, '' for a file that stands for itself."""
    parts = path.split("/")
    if parts[0] != "adapters":
        return ""
    if parts[1] == "runs":
        return "/".join(parts[:4]) if parts[3:4] == ["final"] and parts[4:] else ""
    return "/".join(parts[:3]) if parts[3:] and VERSION.fullmatch(parts[2]) else ""


def is_version(unit: str) -> bool:
    """Whether the unit is an immutable version, not a run's final/."""
    return not unit.endswith("/final")


def near_path(path: str) -> Path:
    """Where a file of the host's adapters/ or reports/ lies here."""
    top, _, rest = path.partition("/")
    return folder(top) / rest


folder = functools.lru_cache(paths.folder)  # asked once for each file


def travels(path: str, checkpoints: bool, skipped: dict[str, str]) -> bool:
    """Whether `path` comes down; the reason goes to `skipped` if it does not."""
    parts = path.split("/")
    why = next(filter(None, map(tree.why_not, parts)), "")
    if parts[1] == "runs" and parts[3:4] == ["checkpoints"] and not checkpoints:
        skipped["/".join(parts[:4])] = "checkpoints stay there; --with-checkpoints brings them"
    elif "\n" in path or "\r" in path:
        skipped[path] = tree.LINE_BREAK
    elif why and parts[-1] != ".gitkeep":
        skipped[path] = why
    return not why and path not in skipped and "/".join(parts[:4]) not in skipped


class Plan:
    """What to fetch. `fetch` maps each path to 'new' or 'changed'; `units` come whole."""

    def __init__(
        self, host: Host, far: dict[str, File], record: tree.Record, args: argparse.Namespace
    ):
        self.skipped: dict[str, str] = {}
        self.record = record
        self.far = {
            path: file
            for path, file in far.items()
            if not path.endswith("/.gitkeep") and travels(path, args.with_checkpoints, self.skipped)
        }
        self.near = {path: tree.look(near_path(path)) for path in self.far}
        self.fetch: dict[str, str] = {}
        self.same: list[str] = []
        self.conflicts: list[str] = []
        unsure = [path for path in self.far if not self._decide(path, args.verify)]
        self._settle(host, unsure)
        self._whole_units()

    def _decide(self, path: str, verify: bool) -> bool:
        """Put `path` where it belongs; False where only the contents can tell."""
        here, there = self.near[path], self.far[path]
        if here and not verify and self.record.holds(path, here, there):
            self.same.append(path)
        elif here and (here.size, here.seconds) == (there.size, there.seconds):
            return False
        elif here and here.size == there.size and is_version(unit_of(path) or "/final"):
            return False  # a version copied by other means: its times say nothing
        else:
            self.fetch[path] = "changed" if here else "new"
        return True

    def _settle(self, host: Host, unsure: list[str]) -> None:
        there = tree.far_hashes(host, unsure)
        for path, digest in tree.local_hashes({p: near_path(p) for p in unsure}):
            if digest == there.get(path):
                self.same.append(path)
                self.record.put(path, digest, self.near[path], self.far[path])
            else:
                self.fetch[path] = "changed"

    def _whole_units(self) -> None:
        """One file of a unit to fetch means all of it; of a version that is here, a conflict."""
        touched = sorted({unit_of(path) for path in self.fetch} - {""})
        self.conflicts = [u for u in touched if is_version(u) and near_path(u).exists()]
        self.units = [u for u in touched if u not in self.conflicts]
        for path in self.far:
            unit = unit_of(path)
            if unit in self.conflicts:
                self.fetch.pop(path, None)
            elif unit in self.units:
                self.fetch.setdefault(path, "changed")
        self.same = [path for path in self.same if path not in self.fetch]

    def edited(self, path: str) -> bool:
        """Whether the file here is not the one that an earlier sync brought."""
        near, known = self.near.get(path), self.record.files.get(path)
        return bool(near) and (not known or known[1] != near.sig)

    def show(self, host: Host, emit) -> None:
        """Print it."""
        emit(f"plan      down: {host.place} -> this checkout")
        for kind in ("new", "changed"):
            names = sorted(path for path, what in self.fetch.items() if what == kind)
            tree.say_files(kind, names, self.far, emit)
        if self.same:
            emit(f"same      {tree.amount(self.far[p] for p in self.same)}")
        tree.say_skipped(self.skipped, emit)


def sync(host: Host, args: argparse.Namespace) -> int:
    """The whole way down. Returns the exit code."""
    began = time.monotonic()
    record = tree.Record(host, "down")
    with tree.only_one(record, host):
        far = tree.Far(host.run(tree.probe_script(host, LISTING)))
        if not far.facts["there"]:
            raise console.Problem(
                f"{host.place} does not exist", "send the kit there first: make sync-up HOST=…"
            )
        for top in ("adapters", "reports"):
            if top in far.files:
                raise console.Problem(f"{host.place}/{top} is a file", "move it away there")
        plan = Plan(host, far.files, record, args)
        if args.dry_run:
            plan.show(host, print)
            files = [plan.far[p] for p in plan.fetch]
            print(f"dry run: {tree.amount(files)} would be fetched")
            return _conflicts(host, plan)
        if plan.fetch:
            plan.show(host, console.note)
            far.must_have_rsync(host)
            unsettled = Fetch(host, plan).run()
        record.save()
    if plan.fetch:
        files = [plan.far[p] for p in plan.fetch]
        seconds = time.monotonic() - began
        rate = console.size(sum(f.size for f in files) / max(seconds, 0.001))
        text = f"fetched {tree.amount(files)} in {console.duration(seconds)} ({rate}/s)"
        text += f"; SHA-256 verified against {host.name}"
        if unsettled:
            console.warn(f"still being written on {host.name}: {', '.join(unsettled[:5])}")
        if plan.same:
            text += f"; {tree.amount(plan.far[p] for p in plan.same)} unchanged"
    else:
        text = f"nothing to fetch: {tree.amount(plan.far[p] for p in plan.same)} unchanged"
    print(f"{host.place}: {text}")
    return _conflicts(host, plan)


def _conflicts(host: Host, plan: Plan) -> int:
    if not plan.conflicts:
        return console.GOOD
    unit = plan.conflicts[0]
    _, name, version = unit.split("/")
    more = f" (and {len(plan.conflicts) - 1} more)" if plan.conflicts[1:] else ""
    raise console.Problem(
        f"{name}@{version} differs: {paths.show(near_path(unit))} here and "
        f"{host.place}/{unit}{more}",
        "a version is never overwritten: register one of them under a new version",
    )


class Fetch:
    """Stage, compare, publish."""

    def __init__(self, host: Host, plan: Plan):
        self.host, self.plan = host, plan
        self.digests: dict[str, str] = {}
        self.cause = ""  # what rsync said of files that it could not copy
        self.stages = {
            top: folder(top) / ".incoming" / host.ident for top in ("adapters", "reports")
        }

    def staged(self, path: str) -> Path:
        """Where `path` waits until it is verified."""
        top, _, rest = path.partition("/")
        return self.stages[top] / rest

    def run(self) -> list[str]:
        """Fetch the plan; returns the files that are still being written there."""
        self._must_fit()
        self._forget_others()
        bad = list(self.plan.fetch)
        moved: set[str] = set()
        for attempt in range(ROUNDS):
            if attempt:
                moved = self._look_again(bad)
                bad = [path for path in bad if path in self.plan.fetch]
            bad = self._round(bad)
            if not bad:
                break
        live = [p for p in bad if p in moved and not unit_of(p) and self.digests.get(p)]
        broken = {unit_of(p) or p: "differs from the host's" for p in bad if p not in live}
        broken |= self._against_cards(broken)
        self._publish([p for p in self.plan.fetch if (unit_of(p) or p) not in broken], set(live))
        if broken:
            raise self._problem(broken)
        return live

    def _round(self, pending: list[str]) -> list[str]:
        """One transfer and comparison; the paths that do not agree."""
        hashing = tree.Beside(tree.far_hashes, self.host, pending)
        for top, stage in self.stages.items():
            names = [p.partition("/")[2] for p in pending if p.startswith(top + "/")]
            if names:
                self._copy(top, names, stage)
        there = hashing.result()
        here = dict(tree.local_hashes({p: self.staged(p) for p in pending}))
        self.digests |= here
        return [p for p in pending if not here[p] or here[p] != there.get(p)]

    def _copy(self, top: str, names: list[str], stage: Path) -> None:
        stage.mkdir(parents=True, exist_ok=True)
        size = sum(self.plan.far[f"{top}/{name}"].size for name in names)
        try:
            rsync.copy(self.host, names, self.host.rsync_target(top), rsync.local(stage), size)
        except rsync.Failed as error:
            if error.rc not in rsync.SOME_FILES:  # those show up in the comparison
                raise
            self.cause = f" ({error})"

    def _look_again(self, bad: list[str]) -> set[str]:
        """List the host anew; returns those of `bad` that changed there since, forgets the gone."""
        listed = tree.Far(self.host.run(tree.probe_script(self.host, LISTING))).files
        moved = set()
        for path in bad:
            self.staged(path).unlink(missing_ok=True)
            if path not in listed:
                self.plan.fetch.pop(path)
            elif listed[path].sig != self.plan.far[path].sig:
                moved.add(path)
                self.plan.far[path] = listed[path]
        return moved

    def _against_cards(self, broken: dict[str, str]) -> dict[str, str]:
        """{unit: what is wrong} for versions that do not hold what their card.json lists."""
        wrong = {}
        for unit in self.plan.units:
            card = self.staged(f"{unit}/card.json")
            if unit in broken or not is_version(unit):
                continue
            if not card.exists():
                console.warn(f"{unit} has no card.json; compared with the host's SHA-256 alone")
                continue
            try:
                files = json.loads(card.read_text(encoding="utf-8"))["files"]
                listed = {f"{unit}/{n}": f.get("sha256") for n, f in files.items()}
            except (OSError, ValueError, KeyError, AttributeError, TypeError):
                wrong[unit] = "has a card.json that does not list its files"
                continue
            bad = sorted(p for p in listed if self.digests.get(p) != listed[p])
            if bad:
                wrong[unit] = f"is not what its card.json says ({bad[0]})"
        return wrong

    def _publish(self, names: list[str], live: set[str]) -> None:
        """Rename what was verified into place: units first, what vouches for others last."""
        for unit in [u for u in self.plan.units if any(unit_of(p) == u for p in names)]:
            self._publish_unit(unit)
        loose = [path for path in names if not unit_of(path)]
        for path in sorted(loose, key=lambda p: (p.endswith(LAST), p)):
            self._keep_edited(path)
            final = near_path(path)
            final.parent.mkdir(parents=True, exist_ok=True)
            _fsync(self.staged(path))
            _rename(self.staged(path), final)
        for path in names:
            if path not in live:
                near, far = tree.look(near_path(path)), self.plan.far[path]
                self.plan.record.put(path, self.digests[path], near, far)
        self.plan.record.save()
        for stage in self.stages.values():
            shutil.rmtree(stage, ignore_errors=True)
            with contextlib.suppress(OSError):
                stage.parent.rmdir()

    def _publish_unit(self, unit: str) -> None:
        """One rename for a new folder; an older final/ steps aside first."""
        staged, final = self.staged(unit), near_path(unit)
        for folder, _, names in os.walk(staged):
            for name in names:
                _fsync(Path(folder, name))
            publish.fsync_folder(folder)
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists() and any(self.plan.edited(p) for p in self.plan.far if unit_of(p) == unit):
            self._aside(unit)
        elif final.exists():
            _rename(final, staged.with_name("final.before"))
        _rename(staged, final)
        publish.fsync_folder(final.parent)

    def _keep_edited(self, path: str) -> None:
        if self.plan.edited(path) and near_path(path).exists():
            self._aside(path)

    def _aside(self, path: str) -> None:
        """Move what lies here to .replaced/, where nothing looks for it."""
        top, _, rest = path.partition("/")
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        kept = folder(top) / ".replaced" / stamp / rest
        kept.parent.mkdir(parents=True, exist_ok=True)
        _rename(near_path(path), kept)
        console.note(f"kept      {paths.show(kept)}: what was here before")

    def _must_fit(self) -> None:
        for top in self.stages:
            size = sum(self.plan.far[p].size for p in self.plan.fetch if p.startswith(top + "/"))
            folder(top).mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder(top)).free
            if size + MARGIN > free:
                raise console.Problem(
                    f"{console.size(size)} to fetch and {console.size(free)} free here",
                    f"free {console.size(size + MARGIN - free)} on that disk, then run it again",
                )

    def _forget_others(self) -> None:
        """Remove staged files that this plan does not fetch, and rsync's own leftovers."""
        wanted = {str(self.staged(path)) for path in self.plan.fetch}
        for stage in self.stages.values():
            for folder, _, names in os.walk(stage):
                for name in names:
                    if ".rsync-partial" not in folder and f"{folder}/{name}" not in wanted:
                        Path(folder, name).unlink()

    def _problem(self, broken: dict[str, str]) -> console.Problem:
        first, what = sorted(broken.items())[0]
        more = f", and {len(broken) - 1} more" if len(broken) > 1 else ""
        return console.Problem(
            f"{self.host.place}/{first} {what}{self.cause}{more}; it was not taken",
            "if it is still being written there, run this again later; "
            "else verify it there (checkpoint_manager.py)",
        )


def _rename(source: Path, target: Path) -> None:
    """A rename; onto another disk by way of a copy there, so that `target` is never half."""
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        part = target.with_name(f".{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, part)
        os.replace(part, target)
        shutil.rmtree(source) if source.is_dir() else source.unlink()


def _fsync(path: Path) -> None:
    with open(path, "rb") as f:
        os.fsync(f.fileno())


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser("Fetch adapters, runs and reports from the host.")
    parser.add_argument("host", nargs="?")
    parser.add_argument("--with-checkpoints", action="store_true")
    parser.add_argument("--dry-run", action="store_true", default=dry_run())
    parser.add_argument("--verify", "--checksum", action="store_true")
    parser.add_argument("--accept-new-host-key", action="store_true")
    args = parser.parse_args(argv)
    with open_host(args.host, args.accept_new_host_key) as host:
        return sync(host, args)
