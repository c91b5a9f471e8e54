#!/usr/bin/env python3
"""Jobs that outlive the laptop: on a folder, an ssh host, a Slurm cluster, a cloud.

    python scripts/jobs.py run train --host gpu1             plan: engine, time, price
    python scripts/jobs.py run train --host gpu1 --confirm   train there; twice is one run
    python scripts/jobs.py run train --host login --engine slurm --nodes 2 --gpus 8 …
    python scripts/jobs.py run train --hosts "gpu1 gpu2" --confirm   hosts of your own, one run
    python scripts/jobs.py run train --host gpu1 --budget 15 --rate 1.90      ends in time
    python scripts/jobs.py run prepare --host gpu1 -- make validate           any command
    python scripts/jobs.py watch train --host gpu1           follow and keep its checkpoints;
                                                             Ctrl-C only leaves
    python scripts/jobs.py stop train --host gpu1            with a checkpoint; --now: at once
    python scripts/jobs.py resume train --host gpu1          continue with the same run
    python scripts/jobs.py keep train --host gpu1            fetch finished checkpoints as they come
    python scripts/jobs.py list [--host gpu1]                every job on every known host
    python scripts/jobs.py costs [--host gpu1]               what each took

Hosts, rates, watchdog and commands at the end: configs/jobs.yaml. Guide: docs/JOBS.md.

Exit codes: 0 good, 1 the job or the connection failed, 2 called or configured wrongly, 130 left.
"""

from __future__ import annotations

import sys

from kit import console, paths


def parse(argv: list[str]):
    words = argv[argv.index("--") + 1 :] if "--" in argv else []
    own = argv[: argv.index("--")] if "--" in argv else argv
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("verb", choices=("run", "watch", "stop", "resume", "keep", "list", "costs"))
    parser.add_argument("name", nargs="?", default="train", help="the job's name; default train")
    parser.add_argument("--host", help="an ssh name, or a folder; default HOST")
    parser.add_argument("--hosts", default="", metavar="'A B'",
                        help="one run on these hosts of your own")  # fmt: skip
    parser.add_argument("--engine", default="", help="folder, ssh, slurm or sky")
    parser.add_argument("--nodes", type=int, default=1, help="machines (slurm, sky)")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs a machine; default all of them")
    parser.add_argument("--partition", default="", help="Slurm's partition")
    parser.add_argument("--time", type=float, metavar="HOURS", help="a time limit")
    parser.add_argument("--budget", type=float, help="the most that it may cost")
    parser.add_argument("--rate", type=float, help="what an hour costs")
    parser.add_argument("--config", default="", help="the trainer's configuration")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides",
                        help="one value of it; may be repeated")  # fmt: skip
    parser.add_argument("--confirm", action="store_true", help="run: start it, not only plan")
    parser.add_argument("--now", action="store_true", help="stop: without waiting for a checkpoint")
    parser.add_argument("--no-keep", action="store_true", help="watch: fetch no checkpoints")
    parser.add_argument("--once", action="store_true", help="keep: look once")
    parser.add_argument("--bucket", default="", metavar="REMOTE:PATH",
                        help="keep, watch, resume: a second place; default BUCKET")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_intermixed_args(own)  # the name may stand after options
    args.words = tuple(words)
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(list(sys.argv[1:] if argv is None else argv))
    from config import loader
    from jobs import verbs

    settings = loader.load("jobs.yaml", kind="jobs")
    return verbs.VERBS[args.verb](args, settings, args.host or paths.load()["host"])


if __name__ == "__main__":
    console.run(main)
