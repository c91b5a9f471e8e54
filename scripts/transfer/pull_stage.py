"""The staging folders here: fetched files wait in .incoming/ until they are verified, then appear.

A unit (a version, final/, a checkpoint) appears with one rename. The signature of what a file
replaces is compared at that moment, under a lock.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from base_model import safetensors_header
from kit import console, json_files, paths, publish
from kit.moving_line import MovingLine
from transfer import adapter_units, card_files, host_shell, local_files, open_files, record
from transfer.adapter_units import is_checkpoint, is_version, unit_of
from transfer.carriers import Carrier
from transfer.frame import AnswerLimits
from transfer.host import Host
from transfer.listing import LISTING_BYTES, HostState, ListedFile, hashes_on
from transfer.placing import Keeper, flush
from transfer.pull_plan import PullPlan, folder, local_path
from transfer.push_plan import LAST as VOUCHING
from transfer.push_stage import ROUNDS
from transfer.received_files import GROWTH

TOPS = ("adapters", "reports")
LAST = ("status.json", "report.json", "report.html", "index.json", *VOUCHING)
MARGIN = 16 << 20  # bytes that must stay free here
FIND = (
    "-H adapters reports \\( -name .incoming -o -name .replaced -o -name '.*.part' "
    "-o -name __pycache__ -o -name .rsync-partial \\) -prune -o"
)


def listing_of(host: Host) -> HostState:
    """The files that the host offers."""
    if host.is_bucket:
        return host.listing(TOPS)
    probe, limits = host_shell.probe_script(host, FIND), AnswerLimits(stdout=LISTING_BYTES)
    output = host.run_in_shell(probe, "listing its files", limits=limits, repeatable=True)
    return HostState(host, output, TOPS)


class PullStage:
    """Fetches a plan into .incoming/, compares it, and puts it in place."""

    def __init__(self, host: Host, plan: PullPlan, carrier: Carrier):
        self.host, self.plan, self.carrier = host, plan, carrier
        self.digests: dict[str, str] = {}
        self.larger: set[str] = set()  # than listed, in the last round
        self.stages = {top: folder(top) / ".incoming" / host.ident for top in TOPS}
        self.keepers = {top: Keeper(folder(top)) for top in TOPS}
        self.kept: list[Path] = []
        self.replaced: list[tuple[str, Path]] = []  # what may be dropped, and where it lies now

    def staged(self, path: str) -> Path:
        """Where `path` waits until it is verified."""
        top, _, rest = path.partition("/")
        return self.stages[top] / rest

    def run(self) -> list[str]:
        """Fetch the plan; returns the files that are still being written there.

        What stays out for another reason is added to plan.refused.
        """
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
        broken = {unit_of(p) or p: self._difference(p) for p in bad if p not in live}
        broken |= self._against_cards(broken)
        self._forget_others()
        with record.publishing(), MovingLine("putting files in place"):
            self._publish([p for p in self.plan.fetch if (unit_of(p) or p) not in broken], live)
        self.plan.refused |= broken
        return live

    def _round(self, pending: list[str]) -> list[str]:
        """One transfer and comparison; the paths that do not agree."""
        sizes = {p: self.plan.remote_files[p].size for p in pending}
        hashing = local_files.Background(hashes_on, self.host, sizes, False)
        self.larger.clear()
        for top, stage in self.stages.items():
            names = {p.partition("/")[2]: sizes[p] for p in pending if p.startswith(top + "/")}
            if names:
                growth = 0 if all(unit_of(f"{top}/{name}") for name in names) else GROWTH
                larger = self.carrier.fetch(names, top, stage, growth)
                self.larger |= {f"{top}/{name}" for name in larger}
        remote_hashes = hashing.result(f"{self.host.name}: hashing what was fetched")
        with MovingLine("hashing what was fetched, here"):
            here = local_files.hash_all({p: self.staged(p) for p in pending})
        self.digests |= here
        unequal = {p for p in pending if not here[p] or here[p] != remote_hashes.get(p)}
        return [p for p in pending if p in unequal | self.larger]

    def _difference(self, path: str) -> str:
        """Why a file that was fetched is not taken."""
        if path not in self.larger:
            return f"differs from the host's{self.carrier.cause}"
        name = path.removeprefix(unit_of(path) + "/")
        return f"is larger there than it was listed{f' ({name})' if unit_of(path) else ''}"

    def _look_again(self, bad: list[str]) -> set[str]:
        """List the host anew; returns those of `bad` that changed there since, forgets the gone."""
        listed = listing_of(self.host).listing().files
        moved = set()
        for path in bad:
            _remove(self.staged(path))
            if path not in listed:
                self.plan.fetch.pop(path, None)
                if unit := unit_of(path):  # never a part of it
                    self._leave_out(unit)
            elif listed[path].sig != self.plan.remote_files[path].sig:
                moved.add(path)
                self.plan.remote_files[path] = listed[path]
        return moved

    def _leave_out(self, unit: str) -> None:
        """Fetch nothing of a unit from which files vanish there."""
        self.plan.unfinished[unit] = "changed there while it was fetched; run this again"
        self.plan.units = [u for u in self.plan.units if u != unit]
        for path in [p for p in self.plan.fetch if unit_of(p) == unit]:
            del self.plan.fetch[path]

    def _against_cards(self, broken: dict[str, str]) -> dict[str, str]:
        """{unit: what is wrong} for units that are not whole by what was fetched of them."""
        wrong = {}
        for unit in self.plan.units:
            names = [p[len(unit) + 1 :] for p in self.plan.fetch if p.startswith(unit + "/")]
            if unit in broken or not names:
                continue
            if missing := adapter_units.missing_part(unit, names):
                wrong[unit] = f"is not whole ({missing} is missing)"
            elif is_checkpoint(unit) and (reason := self._cut_off(unit, names)):
                wrong[unit] = f"is not whole ({reason})"
            elif is_version(unit) and (reason := self._against_card(unit, names)):
                wrong[unit] = reason
        return wrong

    def _cut_off(self, unit: str, names: list[str]) -> str:
        """What is wrong with the first file of a checkpoint that ends too early by its own form."""
        for name in sorted(names):
            file = self.staged(f"{unit}/{name}")
            if name == adapter_units.TRAINER_STATE:
                if not _end_of(file).rstrip().endswith(b"}"):
                    return f"{name} is cut off"
            elif name.endswith(".safetensors"):
                try:
                    safetensors_header.read(file)
                except safetensors_header.Broken as broken:
                    return f"{name}: {broken}"
            elif name.endswith((".pt", ".pth", ".bin")) and not file.stat().st_size:
                return f"{name} is empty"
        return ""

    def _against_card(self, unit: str, names: list[str]) -> str:
        card = self.staged(f"{unit}/{card_files.CARD}")
        if not card.exists() and self.host.is_bucket:  # there a folder does not appear as one
            return f"is not whole ({card_files.CARD} is missing)"
        if not card.exists():
            console.warn(f"{unit} has no card.json; compared with the host's SHA-256 alone")
            return ""
        try:
            listed = card_files.listed_files(json_files.read(card))
        except (OSError, ValueError):
            listed = None
        if listed is None:
            return "has a card.json that does not list its files"

        def size_of(name: str) -> int | None:
            file = local_files.look(self.staged(f"{unit}/{name}"))
            return file.size if file and name in names else None

        wrong = card_files.first_difference(
            listed, names, size_of, lambda name: self.digests.get(f"{unit}/{name}")
        )
        return f"is not what its card.json says ({unit}/{wrong[0]}: {wrong[1]})" if wrong else ""

    def _publish(self, names: list[str], live: list[str]) -> None:
        """Put what was verified in place: units first, what vouches for others last."""
        chosen, failed = set(names), set()
        staged = {path: local_files.look(self.staged(path)) for path in names}
        for unit in self.plan.units:
            if any(unit_of(p) == unit for p in chosen) and not self._publish_unit(unit):
                failed.add(unit)
        loose = [path for path in names if not unit_of(path)]
        for path in sorted(loose, key=lambda p: (p.endswith(LAST), p)):
            self._publish_file(path)
        self._drop_replaced()
        for path in names:
            if path not in live and unit_of(path) not in failed:
                here, remote = local_files.look(local_path(path)), self.plan.remote_files[path]
                if here and _is_untouched(staged[path], here):  # else edited here since
                    self.plan.record.put(path, self.digests[path], here, remote)
        self.plan.record.save()
        for stage in self.stages.values():
            shutil.rmtree(stage, ignore_errors=True)
            with contextlib.suppress(OSError):
                stage.parent.rmdir()
        for path in self.kept:
            console.note(f"kept      {paths.show(path)}: what was here before")

    def _publish_unit(self, unit: str) -> bool:
        """One rename for a new folder; an older one of a run swaps its place with it."""
        staged, final = self.staged(unit), local_path(unit)
        keeper = self.keepers[unit.partition("/")[0]]
        flush(staged)
        if not keeper.place_new(staged, final):
            if is_version(unit):
                self.plan.conflicts.append(unit)
                return False
            _, kept = keeper.replace(staged, final)
            if adapter_units.is_checkpoint(unit):
                self.replaced.append((unit, kept))
            elif os.path.lexists(kept):
                self.kept.append(kept)
        publish.fsync_folder(final.parent)
        return True

    def _publish_file(self, path: str) -> None:
        staged, final = self.staged(path), local_path(path)
        keeper = self.keepers[path.partition("/")[0]]
        flush(staged)
        if not keeper.place_new(staged, final):
            before, kept = keeper.replace(staged, final)
            if before and self.plan.record.is_ours_here(path, before.sig):
                self.replaced.append((path, kept))
            elif os.path.lexists(kept):
                self.kept.append(kept)

    def _drop_replaced(self) -> None:
        """Remove what an earlier sync brought, if it is still that and nobody writes to it."""
        written = open_files.written_inodes() if self.replaced else set()
        for path, kept in self.replaced:
            keeper = self.keepers[path.partition("/")[0]]
            if not self._is_ours(path, kept, written):
                if os.path.lexists(kept):
                    self.kept.append(kept)
            elif kept.is_dir():
                shutil.rmtree(kept)
                keeper.drop(kept / "x")
            else:
                keeper.drop(kept)

    def _is_ours(self, path: str, kept: Path, written: set[int]) -> bool:
        """Whether all that was replaced is as an earlier sync brought it, and is not open."""
        folder = kept.is_dir() and not kept.is_symlink()
        for file in kept.rglob("*") if folder else [kept]:
            if folder and file.is_dir() and not file.is_symlink():
                continue
            name = f"{path}/{file.relative_to(kept).as_posix()}" if folder else path
            here = local_files.look(file)
            if not here or not self.plan.record.is_ours_here(name, here.sig, moved=True):
                return False
            if int(here.sig.split()[1]) in written:
                return False
        return True

    def _must_fit(self) -> None:
        for top in self.stages:
            names = [p for p in self.plan.fetch if p.startswith(top + "/")]
            size = sum(self.plan.remote_files[p].size for p in names)
            folder(top).mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder(top)).free
            if size + MARGIN > free:
                raise console.Problem(
                    f"{console.size(size)} to fetch and {console.size(free)} free here",
                    f"free {console.size(size + MARGIN - free)} on that disk, then run it again",
                )
            inodes = os.statvfs(folder(top))
            if inodes.f_files and len(names) + 10 > inodes.f_favail:
                raise console.Problem(
                    f"{len(names)} files to fetch, and the disk of {paths.show(folder(top))} has "
                    f"inodes for {inodes.f_favail} more (df -i)", "delete many small files on it",
                )  # fmt: skip

    def _forget_others(self) -> None:
        """Remove staged files that this plan does not fetch, and rsync's own leftovers."""
        wanted = {str(self.staged(path)) for path in self.plan.fetch}
        for stage in self.stages.values():
            for inner, folders, names in os.walk(stage):
                partial = ".rsync-partial" in inner and not self.digests
                for name in [*names, *(f for f in folders if os.path.islink(f"{inner}/{f}"))]:
                    if not partial and f"{inner}/{name}" not in wanted:
                        Path(inner, name).unlink()
            for inner, _, _ in os.walk(stage, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(inner)


def _is_untouched(staged: ListedFile | None, here: ListedFile) -> bool:
    """Whether a file here is the staged one: executable bit, size and time (not the inode, which
    is another on another disk)."""
    if not staged:
        return False
    (x, _, *rest), (other_x, _, *other) = staged.sig.split()[:4], here.sig.split()[:4]
    return [x, *rest] == [other_x, *other]


def _end_of(file: Path, most: int = 1 << 16) -> bytes:
    """The last bytes of a file, however large it is."""
    with open(file, "rb") as f:
        f.seek(max(0, f.seek(0, os.SEEK_END) - most))
        return f.read(most)


def _remove(path: Path) -> None:
    """Remove a staged file, whatever it is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
