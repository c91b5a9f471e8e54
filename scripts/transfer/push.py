"""Push: the kit, its configs and the prepared data, to the host.

Order of events: list both sides at once → plan → carry into .incoming/ there → compare SHA-256
there and here → put everything in place under a lock there, manifests last → remember what was
verified. A connection that is lost while files are put in place begins this anew.
"""

from __future__ import annotations

import argparse
import os
import time

from kit import console
from transfer import carriers, host_shell, sync_lines
from transfer.exclusions import STAY
from transfer.frame import AnswerLimits
from transfer.host import Host, ScriptFailed, quote
from transfer.listing import LISTING_BYTES, HostState
from transfer.local_files import Background, LocalFiles
from transfer.push_plan import PushPlan
from transfer.push_stage import PushStage, stage_name, stage_name_if_any
from transfer.record import TransferRecord, only_one
from transfer.retries import TRIES, ConnectionLost, wait_to_retry

MARGIN = 16 << 20  # bytes that must stay free there
SEED = 1 << 20  # above this size rsync gets the old file to build the new one on
PRUNED = "__pycache__ node_modules .git .envs .cache .rehearsal .incoming .replaced .jobs"


def find_arguments() -> str:
    """find's arguments for the kit there: everything but what never travels up."""
    places = " -o ".join(f"-path './{place}/*'" for place in STAY)
    pruned = " -o ".join(f"-name {name}" for name in [*PRUNED.split(), "'.venv*'"])
    return f"-L . \\( \\( {places} \\) ! -name .gitkeep -o {pruned} \\) -prune -o"


class Push:
    """One sync up: what is here, what is there, and what follows from both."""

    direction = "up"  # the record's name
    stay = tuple(STAY)  # folders of the kit that a push does not look at there

    def __init__(self, host: Host, args: argparse.Namespace):
        self.host, self.args = host, args
        self.record = TransferRecord(host, self.direction)
        self.plan, self.removed = PushPlan(), []
        self.local = self.state = None

    def run(self) -> int:
        """Send what is new or changed and put it in place; returns the exit code."""
        began, tries = time.monotonic(), 0
        with only_one(self.record, self.host):
            while True:
                try:
                    self._once()
                    if self.host.is_bucket and not self.args.dry_run:
                        laptop = stage_name().rpartition("/")[2]
                        self.host.write_manifest(laptop, self.direction, self.record.files)
                    break
                except (ConnectionLost, ScriptFailed) as lost:
                    # after a lost connection the script there may go on and cross this one
                    again = tries or isinstance(lost, ConnectionLost)
                    tries += 1
                    if tries > TRIES or not again or not self.host.reached:
                        raise
                    wait_to_retry(self.host.name, lost, tries)
        self._sum_up(time.monotonic() - began)
        return console.GOOD

    def _once(self) -> None:
        self.plan, self.removed = PushPlan(), []
        self._look()
        if self.args.dry_run:
            for line in self._lines():
                console.result(line)
        elif self.plan.sent or self.removed:
            sync_lines.emit(self._lines(), console.note)
            self._send()
        else:
            self._tidy()
            if self.plan.same and self.state.was_read:  # compared one by one
                self.record.save(self.state.listing().files, self.state.digest)

    def _look(self) -> None:
        """List both sides and decide."""
        answer = Background(self._listed)
        self.local = self._files_here()  # while the host answers
        known = None if self.host.is_folder else self.record.records_there()
        self.state = answer.result()
        self.state.known = known
        if self.state.facts.get("there") == "closed":
            raise console.Problem(f"{self.host.place} cannot be entered", "check its permissions")
        plan, local, verify = self.plan, self.local, self.args.verify
        if not verify and self.record.all_hold(local.files, local.covers, self.state.digest):
            plan.same = list(local.files)
        else:
            plan.compare(local, self.state.listing().files, self.record, verify)
        if plan.unsure:
            plan.settle(self.host, local, self.state.listing().files, self.record)
        self.removed = plan.to_remove(local, self.args.delete)

    def _listed(self) -> HostState:
        if self.host.is_bucket:
            return self.host.listing(skipped=self.stay)
        probe = host_shell.probe_script(self.host, find_arguments(), stage_name_if_any())
        limits = AnswerLimits(stdout=LISTING_BYTES)
        output = self.host.run_in_shell(probe, "listing its files", limits=limits, repeatable=True)
        return HostState(self.host, output)

    def _files_here(self) -> LocalFiles:
        return LocalFiles(self.args.kit_only)

    def _lines(self) -> list[str]:
        return self.plan.lines(self.host, self.local, self.state, bool(self.removed))

    def _send(self) -> None:
        """Stage, compare, put in place, remember."""
        host, local, plan, state = self.host, self.local, self.plan, self.state
        carrier = carriers.carrier_for(host, state)
        self._must_fit()
        remote_files = state.listing().files
        seeds = [
            path
            for path in plan.changed
            if carrier.resumes_inside_files
            and local.files[path].size > SEED
            and local.files[path][:2] != remote_files[path][:2]
        ]
        stage = self._stage(carrier)
        digests = stage.fill(plan.sent, seeds) if plan.sent else {}
        sent = [path for path in plan.sent if path in digests]
        known = {
            path: remote_files[path].sig
            for path in plan.changed
            if self.record.is_ours_there(path, remote_files[path].sig)
        }
        strays = [path for path in remote_files if path.rpartition("/")[2] == ".tandem-link"]
        after = stage.commit(sent, known, set(plan.changed), self.removed, strays, find_arguments())
        for path in sent:
            now = after.listing().files.get(path)
            if stage.is_ours(path, now):
                self.record.put(path, digests[path], local.files[path], now)
        for path in self.removed:
            self.record.drop(path)
        self.record.save(after.listing().files, after.digest)

    def _stage(self, carrier) -> PushStage:
        if not self.host.is_bucket:
            stage = PushStage(self.host, self.local, carrier, stage_name())
            stage.records = self.state.listing().records
            return stage
        from transfer.bucket_stage import BucketStage

        self.host.check_names(self.local.files)
        return BucketStage(self.host, self.local, carrier, stage_name(), self._listed)

    def _must_fit(self) -> None:
        host, facts = self.host, self.state.facts
        if not facts.get("writable"):
            raise console.Problem(f"{host.place} cannot be written", "check its owner and rights")
        size = sum(self.local.files[p].size for p in self.plan.sent)
        if facts.get("free") and size + MARGIN > (free := int(facts["free"]) * 1024):
            raise console.Problem(
                f"{host.name}: {console.size(size)} to send and {console.size(free)} free there",
                f"free {console.size(size + MARGIN - free)} on that disk, then run it again",
            )
        wanted = len(self.plan.sent) + len({os.path.dirname(p) for p in self.plan.new}) + 10
        if facts.get("inodes") and wanted > (inodes := int(facts["inodes"])):
            raise console.Problem(
                f"{host.name}: {len(self.plan.sent)} files to send, and its disk has inodes for "
                f"{inodes} more (df -i), though bytes are free",
                "delete many small files there: caches, old environments, checkpoints",
            )

    def _tidy(self) -> None:
        """Drop what earlier, abandoned transfers left there."""
        lines = []
        if self.host.is_bucket:
            if self.state.facts.get("staged"):
                self.host.drop_stage(stage_name())
        elif self.state.facts.get("staged"):
            stage = f"{quote(self.host.root)}/{quote(stage_name())}"
            lines += [f"rm -rf {stage} {stage}.*", f"rmdir {stage.rpartition('/')[0]} || true"]
        if self.state.was_read:
            strays = [p for p in self.state.listing().files if p.endswith("/.tandem-link")]
            lines += [f"rm -f {quote(self.host.root)}/{quote(path)}" for path in strays]
        if lines:
            self.host.run_in_shell("\n".join([host_shell.HEAD, *lines]), "tidying", repeatable=True)

    def _sum_up(self, seconds: float) -> None:
        local, plan = self.local, self.plan
        files = [local.files[p] for p in plan.sent if p in local.files]
        if self.args.dry_run:
            console.result(f"dry run: {sync_lines.amount(files)} would be sent")
            return
        parts = []
        if plan.sent:
            rate = sync_lines.rate(sum(f.size for f in files), seconds)
            amount = sync_lines.amount(files)
            parts.append(f"sent {amount} in {console.duration(seconds)} ({rate})")
            parts.append(f"{self.host.proof} verified on {self.host.name}")
        if self.removed:
            parts.append(f"{len(self.removed)} moved to .replaced/ there")
        if plan.same:
            same = f"{sync_lines.amount(local.files[p] for p in plan.same)} unchanged"
            parts.append(same if parts else f"nothing to send: {same}")
        console.result(f"{self.host.place}: {'; '.join(parts)}")
