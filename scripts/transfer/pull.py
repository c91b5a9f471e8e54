"""Pull: adapters, runs and reports, from the host.

A version (adapters/NAME/vX.Y.Z), a run's final/ and its checkpoints come complete or not at all:
their files are carried into .incoming/, SHA-256 is compared with the host's and with card.json,
then one rename publishes the folder. A version that is already here is never overwritten. The
other files of runs, and reports, may be renewed; what is replaced and not as we brought it is
kept in .replaced/.
"""

from __future__ import annotations

import argparse
import time

from kit import console, paths
from transfer import carriers, sync_lines
from transfer.host import Host
from transfer.pull_plan import PullPlan, local_path
from transfer.pull_stage import PullStage, listing_of
from transfer.record import TransferRecord, only_one


def sync(host: Host, args: argparse.Namespace) -> int:
    """Fetch what is new or changed and put it in place; returns the exit code."""
    began = time.monotonic()
    record = TransferRecord(host, "down")
    unsettled: list[str] = []
    with only_one(record, host):
        state = listing_of(host)
        _must_be_there(host, state)
        plan = PullPlan(host, state, record, args)
        if args.dry_run:
            sync_lines.emit(plan.lines(), console.result)
            console.result(f"dry run: {plan.amount(list(plan.fetch))} would be fetched")
            return _outcome(host, plan)
        if plan.fetch:
            sync_lines.emit(plan.lines(), console.note)
            known_before = dict(plan.unfinished)
            unsettled = PullStage(host, plan, carriers.carrier_for(host, state)).run()
            new = {u: why for u, why in plan.unfinished.items() if u not in known_before}
            sync_lines.emit(sync_lines.skipped_lines(new), console.note)
        else:
            sync_lines.emit(sync_lines.skipped_lines(plan.unfinished), console.note)
        record.save()
    _sum_up(host, plan, unsettled, time.monotonic() - began)
    return _outcome(host, plan)


def _must_be_there(host: Host, state) -> None:
    if state.facts.get("there") == "closed":
        raise console.Problem(f"{host.place} cannot be entered", "check its permissions")
    if not state.facts.get("there"):
        raise console.Problem(
            f"{host.place} " + ("is empty" if host.is_bucket else "does not exist"),
            f"send the kit there first: make sync-up {'BUCKET' if host.is_bucket else 'HOST'}=…",
        )
    for top in ("adapters", "reports"):
        if top in state.listing().files:
            raise console.Problem(f"{host.place}/{top} is a file", "move it away there")


def _sum_up(host: Host, plan: PullPlan, unsettled: list[str], seconds: float) -> None:
    fetched = [path for path in plan.fetch if path in plan.record.files and not _is_out(plan, path)]
    same = f"{plan.amount(plan.same)} unchanged"
    if not plan.fetch:
        console.result(f"{host.place}: nothing to fetch: {same}")
        return
    size = sum(plan.remote_files[path].size for path in fetched)
    text = f"fetched {plan.amount(fetched)} in {console.duration(seconds)}"
    text += f" ({sync_lines.rate(size, seconds)}); SHA-256 verified against {host.name}"
    if unsettled:
        console.warn(f"still being written on {host.name}: {sync_lines.names(unsettled)}")
    console.result(f"{host.place}: {text}" + (f"; {same}" if plan.same else ""))


def _is_out(plan: PullPlan, path: str) -> bool:
    return path in plan.refused or any(path.startswith(unit + "/") for unit in plan.refused)


def _outcome(host: Host, plan: PullPlan) -> int:
    """GOOD, or a Problem for the first thing that was not taken; the others are warned about."""
    problems = [*_refusals(host, plan), *_lacking(host, plan), *_conflicts(host, plan)]
    for problem in problems[:-1]:
        console.warn(str(problem))
    if problems:
        raise problems[-1]
    return console.GOOD


def _refusals(host: Host, plan: PullPlan) -> list[console.Problem]:
    """One Problem for each reason, with the first names."""
    by_reason: dict[str, list[str]] = {}
    for path, why in sorted(plan.refused.items()):
        by_reason.setdefault(why, []).append(path)
    return [
        console.Problem(f"{host.place}/{sync_lines.names(names)} {why}; not taken", _remedy(why))
        for why, names in by_reason.items()
    ]


def _remedy(why: str) -> str:
    """The way out for a path that was refused for this reason."""
    if "permission denied" in why.lower():
        return "give this account the right to read it there (chmod, chown), then run this again"
    if "is the same name as" in why:
        return "rename one of the two"
    if "a folder there and a file here" in why or "a file there and a folder here" in why:
        return "move one of the two away, then run this again"
    return (
        "if it is still being written there, run this again later; else repair it there "
        "(checkpoint_manager.py verify), or rename it"
    )


def _lacking(host: Host, plan: PullPlan) -> list[console.Problem]:
    return [
        console.Problem(
            f"{host.place}/{unit} lacks what is here: {sync_lines.names(names)}; neither was "
            "changed",
            f"to take the host's, move {paths.show(local_path(unit))} away first",
        )
        for unit, names in sorted(plan.lacking.items())
    ]


def _conflicts(host: Host, plan: PullPlan) -> list[console.Problem]:
    if not plan.conflicts:
        return []
    unit = plan.conflicts[0]
    _, name, version = unit.split("/")
    more = f" (and {len(plan.conflicts) - 1} more)" if plan.conflicts[1:] else ""
    return [
        console.Problem(
            f"{name}@{version} differs: {paths.show(local_path(unit))} here and "
            f"{host.place}/{unit}{more}",
            "a version is never overwritten: register one of them under a new version",
        )
    ]
