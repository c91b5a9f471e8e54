"""A job as files, the same for every engine: what engine.json holds, how a job ends, what it took.

.jobs/NAME/   engine.json  what is run, by which engine, under which id, for how long at most
              run.sh       what the engine starts: the supervisor on this folder
              pid, job.id  the process or the scheduler's number
              log.txt      everything that the command and the supervisor print
              stop         somebody asked the run to stop with a checkpoint
              life.json    the life that runs now: begin, last seen
              lives.jsonl  each time that it ran: begin, end, exit code, why it ended
              exit         the exit code, written whole and last: the truth about the end

The run's id is fixed when the job is submitted, so that a job which is started again, by hand, by
Slurm's requeue or after a reboot, goes on with its run and never begins a second one.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

from kit import console, publish
from transfer.adapter_units import RUN_ID

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
SEVERAL = ("meeting", "address", "interface")
WARNING_SECONDS = 300.0  # Slurm may deliver its signal up to 60 s early
ENGINES = ("folder", "ssh", "slurm", "sky")
# A run that has begun is resumed: its folder has a status from the first second on.
GO_ON = ("--resume", "--run-id")


def check_name(name: str) -> None:
    """Misuse for what is no name of a job: it becomes a path and a word of scripts."""
    if not NAME.fullmatch(name):
        raise console.Misuse(f"NAME={name!r}", "use letters, digits, _ and -")


def make_command(verb: str, host: str, name: str = "train") -> str:
    """What to type for a verb: 'make watch HOST=gpu1', with NAME where it is not the default."""
    chosen = f" NAME={name}" if name != "train" else ""
    return f"make {verb} HOST={shlex.quote(host)}{chosen}"


@dataclasses.dataclass(frozen=True)
class Job:
    """What engine.json says. `words`: the command less its run id; `run_id` '' for any command."""

    name: str
    engine: str
    words: tuple[str, ...]
    run_id: str = ""
    nodes: int = 1
    gpus: int = 0
    cap_seconds: float = 0.0  # 0: no limit
    rate: float = 0.0  # money an hour; 0: unknown
    budget: float = 0.0
    max_restarts: int = 2
    hung_factor: float = 10.0
    hung_seconds: float = 300.0
    notify: str = ""
    stop_command: str = ""
    grace_seconds: float = 60.0
    submitted: float = 0.0
    manifest_sha256: str = ""  # of the data that was there when it was submitted
    extra: tuple[str, ...] = ()  # for the scheduler
    meeting: str = ""  # of several hosts of one's own: where their torchruns meet, ADDRESS:PORT
    address: str = ""  # this host's own, and its network interface
    interface: str = ""

    @property
    def stops_by_file(self) -> bool:
        """Whether the run looks for the file `stop` itself: torchrun dies of a USR2."""
        return self.nodes > 1

    def warning_seconds(self, site_seconds: float = 0.0) -> int:
        """How long before its end Slurm tells a job: enough to save, and never most of its time.

        site_seconds: a limit of one life that the site's options name; 0 for none.
        """
        limits = [limit for limit in (self.cap_seconds, site_seconds) if limit]
        return int(min(WARNING_SECONDS, max(30.0, min(limits, default=3600.0) // 4)))

    def command(self) -> list[str]:
        """What the supervisor starts: the command with the run that it begins or goes on with."""
        words = list(self.words)
        if self.run_id:
            begun = (Path("adapters/runs") / self.run_id / "status.json").exists()
            words += [GO_ON[0] if begun else GO_ON[1], self.run_id]
        if self.nodes > 1:
            words = ["sh", f".jobs/{self.name}/launch.sh", *words[1:]]
        return words

    def environment(self, folder: Path) -> dict[str, str]:
        """The variables that the command gets besides the host's own."""
        by_file = {"TANDEM_STOP_FILE": "stop", "TANDEM_LAUNCH_NOTES": "notes"}
        names = by_file if self.stops_by_file else {}
        names = {name: str(folder / file) for name, file in names.items()}
        if self.meeting:
            names["TANDEM_OWN_DISKS"] = "1"
        if self.interface:
            names |= {"GLOO_SOCKET_IFNAME": self.interface, "NCCL_SOCKET_IFNAME": self.interface}
        return names | {"HF_HUB_OFFLINE": "1"}

    def to_json(self) -> bytes:
        """engine.json; what only several hosts need is left out elsewhere (kits of before)."""
        values = dataclasses.asdict(self)
        values = {k: v for k, v in values.items() if v or k not in SEVERAL}
        return (json.dumps(values, indent=2) + "\n").encode()


def parse(text: str, where: str) -> Job:
    """The Job of an engine.json. Problem for one that somebody edited or that is half there."""
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("not an object")
        kinds = {field.name: field.type for field in dataclasses.fields(Job)}
        for key, value in values.items():
            _check_value(key, value, kinds)
        job = Job(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
        if not NAME.fullmatch(job.name) or job.engine not in ENGINES or not job.words:
            raise ValueError("name, engine or words are none")
        if job.nodes < 1:
            raise ValueError("nodes is none")
        if job.run_id and not RUN_ID.fullmatch(job.run_id):
            raise ValueError("run_id is none")
    except (ValueError, TypeError, RecursionError) as error:
        raise console.Problem(
            f"{where}: damaged ({error})", "submit the job again under another NAME"
        ) from None
    return job


def _check_value(key: str, value: Any, kinds: dict[str, str]) -> None:
    kind = kinds.get(key)
    good = {
        "str": isinstance(value, str),
        "int": isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10_000,
        "float": isinstance(value, int | float) and math.isfinite(value) and value >= 0,
        "tuple[str, ...]": isinstance(value, list) and all(isinstance(v, str) for v in value),
    }
    if kind is None:
        raise ValueError(f"unknown key {key!r}")
    if not good[kind]:
        raise ValueError(f"{key} is no {kind}")


def read(folder: Path) -> Job:
    """The Job in a folder of this machine."""
    file = folder / "engine.json"
    try:
        return parse(file.read_text(encoding="utf-8"), str(file))
    except OSError as error:
        raise console.Problem(f"{file}: {error.strerror}", "submit the job again") from None


def write_exit(folder: Path, code: int) -> None:
    """Publish the exit code: from now on the job has ended."""
    with publish.file(folder / "exit") as f:
        f.write(f"{code}\n")


def add_life(
    folder: Path, began: float, ended: float, code: int, hung: bool, why: str = ""
) -> None:
    """Append one life of the job to lives.jsonl (unix seconds). why: hung, budget, lost or ''."""
    life = {"began": began, "ended": ended, "code": code, "hung": hung, "why": why}
    with (folder / "lives.jsonl").open("a", encoding="utf-8") as f:
        f.write(json.dumps(life) + "\n")


def lives(text: str) -> list[dict[str, Any]]:
    """The whole, finite lines of a lives.jsonl."""
    lives_read = []
    for line in text.splitlines():
        try:
            life = json.loads(line)
            if math.isfinite(life["began"]) and math.isfinite(life["ended"]):
                lives_read.append(life)
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return lives_read


def spent_seconds(folder: Path) -> float:
    """How long the job ran in its earlier lives: a budget holds over all of them."""
    try:
        text = (folder / "lives.jsonl").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    return seconds(lives(text))


def seconds(ended: list[dict[str, Any]]) -> float:
    """How long a job ran in its ended lives."""
    return sum(max(0.0, life["ended"] - life["began"]) for life in ended)
