"""The verbs of scripts/jobs.py, the same for every engine."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
from typing import Any

from jobs import budget, contract, engines, idle, several, submission, table
from jobs import watch as watching
from jobs.contract import Job
from kit import console, paths
from transfer import address
from transfer.host import Host, host_at, open_host

MOST = 10_000  # machines, and GPUs a machine, that a job may name (jobs/contract.py)


def run(args: Any, settings: Any, host_name: str) -> int:
    """Submit a job, once: a second call finds the first one's job."""
    if names := _hosts(args):
        return _run_on_several(args, settings, names)
    request = _request(args)
    if args.engine == "sky":
        return _to_the_cloud(args, request, settings)
    with open_host(host_name) as host:
        job = submission.make(request, host, settings)
        if job.run_id:
            seconds = submission.plan_seconds(host, job)
            budget.refuse_too_long(seconds, job.cap_seconds, job.rate)
            if not args.confirm:
                return _planned(args, host, job, seconds)
            submission.refuse_dry_run(request)
        return _submitted(args, host, *submission.submit(host, job))


def _run_on_several(args: Any, settings: Any, names: list[str]) -> int:
    """One run on several hosts of one's own: the same job on each, submitted once."""
    if args.engine not in ("", "ssh", "folder") or args.words or len(names) < 2:
        raise console.Misuse(
            f"HOSTS={' '.join(names)!r} trains on two or more hosts of your own",
            "leave ENGINE and the command out; HOST names a single one",
        )
    with contextlib.ExitStack() as stack:
        hosts = {name: stack.enter_context(open_host(name)) for name in names}
        facts = {name: several.look(host) for name, host in hosts.items()}
        several.refuse_unlike(facts)
        order = several.in_order(facts)
        first = hosts[order[0]]
        request = dataclasses.replace(_request(args), nodes=len(names), several=True)
        before = submission.existing(first, args.name)
        job = submission.make(request, first, settings)
        if before:
            job = dataclasses.replace(job, run_id=before[0].run_id)
        if not args.confirm:
            return _planned(args, first, job, None)
        submission.refuse_dry_run(request)
        for name, made in zip(order, several.jobs(job, facts, order), strict=True):
            made = dataclasses.replace(made, engine=submission.natural_engine(hosts[name]))
            _submitted(args, hosts[name], *submission.submit(hosts[name], made))
        console.note(f"the run's files are on {order[0]}; a stop on any host stops all")
    return console.GOOD


def _hosts(args: Any) -> list[str]:
    """The names in HOSTS, each once."""
    return list(dict.fromkeys((args.hosts or os.environ.get("HOSTS") or "").split()))


def _with_the_run(args: Any, host_name: str) -> str:
    """Of several hosts the one that has the run's files; HOST where it is named."""
    names = [] if args.host or paths.host_variable() else _hosts(args)
    for name in names:
        with open_host(name) as host:
            before = submission.existing(host, args.name)
        if before and before[0].meeting.startswith(f"{before[0].address}:"):
            return name
    return names[0] if names else host_name


def _request(args: Any) -> submission.JobRequest:
    """What the call asked for; Misuse for a number that is none."""
    _check_numbers(args)
    return submission.JobRequest(
        args.name, args.engine, args.words, args.config, tuple(args.overrides), args.nodes,
        args.gpus, args.budget or 0.0, args.rate or 0.0, args.partition, args.time or 0.0,
    )  # fmt: skip


def _planned(args: Any, host: Host, job: Job, seconds: float | None) -> int:
    """Print what a submission would do, and that nothing was started."""
    money = job.rate * seconds / 3600 if job.rate and seconds else None
    cause = " (RATE=1.90 says what an hour costs)"
    if job.rate:
        cause = f", at most {job.budget:.2f}" if job.budget else f", {job.rate:.2f} an hour"
    facts = {
        "engine": job.engine,
        "time": f"about {console.duration(seconds)}" if seconds else "not estimated there",
        "price": f"about {money:.2f}" if money else f"unknown{cause}",
        "limit": console.duration(job.cap_seconds) if job.cap_seconds else "none (BUDGET=15)",
    }
    if args.json:
        numbers = {"seconds": seconds, "cost": money, "cap_seconds": job.cap_seconds or None}
        print(json.dumps({"job": job.name, "host": host.name, "engine": job.engine} | numbers))
        return console.GOOD
    for name, value in facts.items():
        console.result(f"{name:<8} {value}")
    console.result("Nothing was started; CONFIRM=1 (--confirm) does.")
    return console.GOOD


def _check_numbers(args: Any) -> None:
    for name in ("budget", "rate", "time"):
        value = getattr(args, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise console.Misuse(
                f"--{name} {value:g}", f"give a number above 0, or leave {name.upper()} out"
            )
    if not (1 <= args.nodes < MOST and 0 <= args.gpus < MOST):
        raise console.Misuse("--nodes and --gpus count machines and GPUs", "--nodes 2 --gpus 8")


def _to_the_cloud(args: Any, request: submission.JobRequest, settings: Any) -> int:
    """Write the task file; launch it where that is confirmed and `sky` is there."""
    from jobs.engines import sky

    job = submission.make(request, host_at(address.parse("./sky", "tandem")), settings)
    if args.confirm and job.run_id:
        submission.refuse_dry_run(request)
        if not settings.sky.bucket:
            raise console.Misuse(
                "sky.bucket is not set, so the adapter would end with its machine",
                "set it in configs/jobs.yaml (s3://name) or with TANDEM_SKY__BUCKET",
            )
    job = submission.same_run(job, sky.folder(job) / "engine.json")
    base = submission.base_model(request) if job.run_id else ("", "")
    sky.launch(job, sky.write(job, settings.sky, *base), args.confirm)
    return console.GOOD


def _submitted(args: Any, host: Host, job: Job, what: str) -> int:
    if args.json:
        facts = {"job": job.name, "host": host.name, "engine": job.engine, "run": job.run_id}
        print(json.dumps(facts | {"done": what, "cap_seconds": job.cap_seconds or None}))
    else:
        run_id = f", run {job.run_id}" if job.run_id else ""
        words = {"started": "is started", "runs": "runs already", "goes on": "goes on"}[what]
        limit = f"; it ends after {console.duration(job.cap_seconds)}" if job.cap_seconds else ""
        console.result(f"{job.name} {words} on {host.name} ({job.engine}{run_id}){limit}")
    next_commands(host, job.name)
    return console.GOOD


def next_commands(host: Host, name: str) -> None:
    """What can be done with a job now."""
    for verb, why in (
        ("watch", "follow it"), ("stop", "end it with a checkpoint"), ("jobs", "every job there"),
    ):  # fmt: skip
        words = contract.make_command(verb, host.name, "train" if verb == "jobs" else name)
        console.note(f"  {words:<40}  {why}")


def watch(args: Any, settings: Any, host_name: str) -> int:
    """Follow a job to its end and keep its checkpoints; Ctrl-C leaves it alone and says what can
    be done."""
    from jobs import keeper, keeping

    with open_host(_with_the_run(args, host_name)) as host:
        job, _ = submission.required(host, args.name)
        engine = engines.engine_of(job.engine)
        ask = (lambda: engine.state(host, job)) if job.engine == "slurm" else None
        kept = None
        if job.run_id and not args.no_keep:
            keeper.remember(job)
            bucket = _bucket(args, settings)
            kept = keeping.KeepingInBackground(host.name, job, settings.keeper, bucket)
        try:
            return watching.follow(host, args.name, ask)
        except KeyboardInterrupt:
            console.note(f"\n{args.name} goes on on {host.name}")
            next_commands(host, args.name)
            kept = None
            return 130
        finally:
            if kept:
                kept.end()


def stop(args: Any, settings: Any, host_name: str) -> int:
    """Ask a job to stop with a checkpoint; on several hosts one of them asks all."""
    with open_host(_with_the_run(args, host_name)) as host:
        job, _ = submission.required(host, args.name)
        engine = engines.engine_of(job.engine)
        state = engine.state(host, job)
        if state.over:
            console.result(f"{job.name} is over already ({table.row(host, job.name)['state']})")
            return console.GOOD
        engine.cancel(host, job, args.now)
        how = "is ended" if args.now else "stops after its step, with a checkpoint"
        console.result(f"{job.name} {how}")
        words = contract.make_command("resume", host.name, job.name)
        console.note(f"  {words:<40}  goes on with the run")
    return console.GOOD


def resume(args: Any, settings: Any, host_name: str) -> int:
    """Go on with a job's run, on its host or, from what was kept here, on another."""
    names = [] if args.host or paths.host_variable() else _hosts(args)
    return max([_resume_on(args, settings, name, names) for name in names or [host_name]])


def _resume_on(args: Any, settings: Any, host_name: str, names: list[str]) -> int:
    """Go on with a job's run on one host. names: all of HOSTS, [] where the run has one host."""
    from jobs import keeper

    with open_host(host_name) as host:
        before = submission.existing(host, args.name)
        if before and before[0].meeting and not names:
            console.note(f"{args.name} is one run on {before[0].nodes} hosts, and waits for the "
                         'others: HOSTS="gpu1 gpu2" resumes it on all')  # fmt: skip
        job = before[0] if before else keeper.take_to(host, args.name, _bucket(args, settings))
        if not before and job.engine in ("folder", "ssh"):
            job = dataclasses.replace(job, engine=submission.natural_engine(host))
        job = submission.with_limits(job, _request(args), host, settings)
        return _submitted(args, host, *submission.submit(host, job))


def keep(args: Any, settings: Any, host_name: str) -> int:
    """Fetch finished checkpoints and metrics while a job runs, each verified."""
    from jobs import keeper

    with open_host(_with_the_run(args, host_name)) as host:
        bucket = _bucket(args, settings)
        return keeper.keep(host, args.name, settings.keeper, args.once, bucket)


def _bucket(args: Any, settings: Any) -> str:
    """The keeper's second place: the option, BUCKET or the configuration names it; '' for none."""
    named = args.bucket or os.environ.get("BUCKET") or settings.keeper.bucket or ""
    return address.parse_bucket(named).name if named else ""


def list_jobs(args: Any, settings: Any, host_name: str) -> int:
    """A table of every job on every known host."""
    rows, idle_hosts = _rows(settings, host_name)
    if args.json:
        idling = [dataclasses.asdict(host) for host in idle_hosts]
        print(json.dumps({"jobs": rows, "idle": idling}))
        return console.GOOD
    if not rows:
        words = contract.make_command("job-run", host_name or "gpu1")
        console.result(f"no jobs; {words} plans one, with CONFIRM=1 it starts")
    for line in table.lines(rows) if rows else ():
        console.result(line)
    for made in rows:
        if made["state"] == "damaged":
            console.warn(f"{made['job']} on {made['host']}: {made['why']}")
    for host in idle_hosts:
        console.warn(f"{host.line()}; end it at its provider, or give it a job")
    return console.GOOD


def _rows(settings: Any, host_name: str) -> tuple[list[dict[str, Any]], list[idle.IdleHost]]:
    """The jobs on every known host, and the hosts that are paid for and have none."""
    rows: list[dict[str, Any]] = []
    idle_hosts: list[idle.IdleHost] = []
    known = [host_name] if host_name else [*settings.hosts]
    if not known:
        raise console.Misuse("no host is known", "give HOST=gpu1, or hosts in configs/jobs.yaml")
    for name in known:
        try:
            with open_host(name) as host:
                host_rows = [table.row(host, job) for job in table.names(host)]
                rows += host_rows
                if idling := idle.look(host, settings.hosts.get(name), host_rows):
                    idle_hosts.append(idling)
        except console.Problem as problem:
            if len(known) == 1:
                raise
            console.warn(str(problem))
    return rows, idle_hosts


def costs(args: Any, settings: Any, host_name: str) -> int:
    """What each job took, and the sum."""
    rows, _ = _rows(settings, host_name)
    total = sum(made["cost"] or 0.0 for made in rows if made["state"] != "damaged")
    if args.json:
        keys = ("job", "host", "run", "seconds", "rate", "cost")
        print(json.dumps({"jobs": [{k: r.get(k) for k in keys} for r in rows], "total": total}))
        return console.GOOD
    if not rows:
        console.result("no jobs, so no costs")
        return console.GOOD
    for line in table.cost_lines(rows, total):
        console.result(line)
    return console.GOOD


VERBS = {
    "run": run, "watch": watch, "stop": stop, "resume": resume, "keep": keep,
    "list": list_jobs, "costs": costs,
}  # fmt: skip
