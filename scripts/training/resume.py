"""Which run a training command starts or resumes, and what must not have changed since it began."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kit import console, paths
from training import run_folder, run_lock
from transfer.adapter_units import RUN_ID

# Keys that may differ on resume: opt-ins, and settings that do not change what is computed.
FREE_KEYS = ("safety.", "enabled", "training.dataloader_num_workers", "training.report_to")
# Key of run.json -> how a message names what it identifies.
INPUTS = {
    "train_sha256": "the rows of data.train_file",
    "val_sha256": "the rows of data.val_file",
    "chat_template_sha256": "the chat template",
    "tokenizer_sha256": "the tokenizer",
    "special_tokens_sha256": "the special tokens of tokenizer_config.json",
    "base_identity": "the base model",
    "start": "the start adapter",
    "reward_model": "the reward model",
}


def choose_run(
    resume: str | None, run_id: str | None, settings, kinds: Sequence[str] = ("lora",)
) -> tuple[Path, Path | None]:
    """(run folder, checkpoint to resume from) of a new run, or of one to resume.

    resume: None for a new run, 'latest', or a run's id; kinds: what the command can resume.
    """
    if not resume:
        return new(run_id or run_folder.new_id()), None
    run = run_folder.unfinished(kinds=tuple(kinds)) if resume == "latest" else folder(resume)
    status = run_folder.read_status(run)
    if run_folder.alive(run, status):
        raise console.Problem(
            f"the run {run.name} is still running (process {status['pid']})",
            "wait, or stop it first",
        )
    run_lock.hold(run)
    status = run_folder.read_status(run)  # what its last process wrote before it released the lock
    kind = status.get("kind") or "lora"
    if kind not in kinds:
        raise console.Misuse(
            f"the run {run.name} is of the kind {kind}, not {' or '.join(kinds)}",
            "resume it with the command that began it",
        )
    if status["state"] == "completed":
        raise console.Misuse(f"the run {run.name} is completed", "start a new one without --resume")
    refuse_other_config(run, settings)
    return run, run_folder.last_checkpoint(run)


def newest_on_all(run: Path, rank: int) -> Path | None:
    """The newest checkpoint that every process has whole, each on its own disk; None for none.

    Every process calls it. A host that died while it saved lacks what the others have finished.
    Raises Problem where there are checkpoints and none of them is whole for every process.
    """
    from accelerate.utils import gather_object

    whole = run_folder.whole_checkpoints(run)
    exact = [folder.name for folder in whole if (folder / f"rng_state_{rank}.pth").exists()]
    answers = gather_object([([folder.name for folder in whole], exact)])
    chosen = newest_common(run, answers)
    if chosen and rank == 0:
        warn_of_random_state(chosen.name, [exact for _, exact in answers])
    return chosen


def warn_of_random_state(checkpoint: str, exact: Sequence[list[str]]) -> None:
    """Name the processes that lack their random state of a checkpoint, as on a replaced host."""
    lacking = [str(rank) for rank, names in enumerate(exact) if checkpoint not in names]
    if lacking:
        console.warn(
            f"{checkpoint}: process {', '.join(lacking)} has no random state of its own there, so "
            "dropout differs from that of an undisturbed run"
        )


def newest_common(run: Path, answers: Sequence[tuple[list[str], list[str]]]) -> Path | None:
    """The same from what each process has: (whole checkpoints, those with its random state).

    One with the random state of each process comes first: without it the steps would differ.
    """
    for lists in ([exact for _, exact in answers], [whole for whole, _ in answers]):
        if common := set(lists[0]).intersection(*lists[1:]):
            return run / "checkpoints" / max(common, key=lambda n: int(n.rpartition("-")[2]))
    lacking = [str(rank) for rank, (whole, _) in enumerate(answers) if not whole]
    if len(lacking) == len(answers):
        return None
    raise console.Problem(
        f"{run.name}: no checkpoint is whole on every host"
        + (f"; process {', '.join(lacking)} has none" if lacking else ""),
        "copy the newest folder of its checkpoints/ from the first host to the others, or start a "
        "new run",
    )


def folder(run_id: str) -> Path:
    """The folder of the run with this id. Misuse for an id that is not a plain name."""
    if not RUN_ID.fullmatch(run_id):
        raise console.Misuse(
            f"{run_id!r} is no run id",
            "use letters, digits, '.', '_' and '-', a letter or a digit first, 128 at most",
        )
    return paths.folder("runs") / run_id


def new(run_id: str) -> Path:
    """The folder of a new run, locked by this process. Misuse where a run of that id has begun."""
    run = folder(run_id)
    refuse_begun(run)
    run.mkdir(parents=True, exist_ok=True)
    run_lock.hold(run)
    refuse_begun(run)  # by a process that has held it since
    return run


def refuse_begun(run: Path) -> None:
    """Misuse where a run has begun in this folder."""
    if any((run / name).exists() for name in ("status.json", "config.yaml")):
        raise console.Misuse(
            f"there is a run {run.name} already, and no run is ever written over",
            f"--resume {run.name} goes on with an unfinished one, or give another --run-id",
        )


def refuse_other_config(run: Path, settings) -> None:
    """Misuse where a resumed run would have another configuration than it began with."""
    began = _flat(run_folder.read_config(run))
    now = _flat(settings.model_dump(mode="json"))
    changed = [k for k in now if began.get(k) != now[k] and not k.startswith(FREE_KEYS)]
    # A key that an older Tandem did not know had the schema's default then.
    unknown = {k for k in changed if k not in began}
    defaults = _flat(type(settings)().model_dump(mode="json")) if unknown else {}
    changed = [k for k in changed if k not in unknown or defaults.get(k) != now[k]]
    if changed:
        what = ", ".join(f"{k} was {began.get(k)!r}, is {now[k]!r}" for k in changed)
        raise console.Misuse(
            f"{run.name} began with another configuration: {what}",
            f"use --config {paths.show(run / 'config.yaml')}, or start a new run",
        )


def refuse_other_inputs(run: Path, now: dict[str, Any]) -> None:
    """Misuse where rows, base, template, start adapter or reward model are not those it began with.

    now: the facts of run.json as they would be written today. Only what both record is compared,
    so a run of an older Tandem can be resumed.
    """
    began = run_folder.read_facts(run)
    changed = [name for key, name in INPUTS.items() if _differ(began.get(key), now.get(key))]
    processes = began.get("world_size"), now.get("world_size")
    if None not in processes and processes[0] != processes[1]:
        raise console.Misuse(
            f"{run.name} began with {processes[0]} process(es), this is {processes[1]}: "
            "batches and steps would be others",
            f"resume with {processes[0]} (--gpus {processes[0]}, or torchrun), or start a new run",
        )
    if changed:
        raise console.Misuse(
            f"{run.name} began with other inputs: {', '.join(changed)} changed since",
            "restore them, or start a new run without --resume",
        )


def _differ(began: Any, now: Any) -> bool:
    if isinstance(began, dict) and isinstance(now, dict):
        return any(key in now and began[key] != now[key] for key in began if key != "name")
    return began is not None and began != now


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for n, inner in value.items() for k, v in _flat(inner, f"{key}.{n}").items()}
    return {key[1:]: value}
