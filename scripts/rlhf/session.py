"""A reward model or an RLHF run from rows to final/: the run folder is the trainer's."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from base_model import loading
from kit import console, paths
from rlhf import algorithms, data, measure, models
from rlhf.algorithms import Job
from training import lora, plan, run_folder
from training.run_folder import RunFolder

DANGERS = (
    "RLHF optimises a reward, not quality: the reward can rise while the answers get worse.",
    "It can undo what fine-tuning taught, break formats and tool calls, and lengthen every answer.",
    "Compare the result with the adapter you started from (eval.py) before you use it.",
)
REMEDIES = (
    "per_device_train_batch_size (and gradient_accumulation_steps the other way)",
    "max_length, max_completion_length or response_length",
    "load_in_4bit: true, gradient_checkpointing: true",
    "algorithm: dpo needs one copy of the base, grpo and rloo two, ppo three",
)


class Stopped(Exception):
    """A signal came, and the checkpoint is written. PPOTrainer has no other way out."""


def prepare(job: Job) -> None:
    """Read and encode the rows. Raises Problem for bad rows, and where none is left."""
    settings = job.settings
    job.tokenizer = models.tokenizer_of(settings, job.start)
    files = {"train": settings.data.train_file, "validation": settings.data.val_file}
    for name, file in files.items():
        path = plan.data_file(file)
        if path is None:
            continue
        limit = settings.data.max_samples if name == "train" else None
        shown = Path(paths.show(path))
        job.rows[name] = data.read(shown, pairs=not job.generates, limit=limit)
        job.coded[name] = _encoded(job, name)
        most = None if job.generates else job.section.max_length
        data.check(job.coded[name], shown, settings.data.max_prompt_length, most)


def _encoded(job: Job, name: str) -> data.Encoded:
    longest, rows = job.settings.data.max_prompt_length, job.rows[name]
    if job.generates:
        return data.encode_prompts(job.tokenizer, rows, longest)
    dpo = job.kind == "dpo"
    coded = data.encode_pairs(job.tokenizer, rows, longest, job.section.max_length, cut=dpo)
    return coded if dpo else data.for_reward(coded)


def run_facts(job: Job, world_size: int) -> dict[str, Any]:
    """run.json: the trainer's facts, and what this run stands on besides."""
    counted = {name: coded.facts for name, coded in job.coded.items()}
    facts = lora.run_facts(job.settings, job.tokenizer, counted, world_size)
    facts |= {"kind": job.kind, "start": None, "reward_model": None}
    if job.start:
        facts["start"] = {"name": job.start.name} | models.identity(job.start.adapter)
    if job.reward_run:
        weights = models.identity(job.reward_run / "final")
        facts["reward_model"] = {"run": job.reward_run.name} | weights
    return facts


def train(job: Job, run: Path | None, checkpoint: Path | None) -> tuple[int, Path]:
    """Train; returns (exit code, run folder). Every rank calls it; rank 0 names the run."""
    loading.quiet()
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list
    from transformers import set_seed

    state = PartialState(cpu=loading.device() == "cpu")
    lora.refuse_other_world(state.num_processes)
    named = [run, checkpoint]
    broadcast_object_list(named)
    run, checkpoint = named
    set_seed(job.settings.training.seed)  # before models and adapters are built
    prepare(job)
    if job.kind == "ppo":
        models.check_same_tokens(job.tokenizer, job.reward_run)
        _check_padding(job.tokenizer)
    before = run_folder.read_status(run).get("objective", {}).get("before") if checkpoint else None
    writer = _writer(job, run, checkpoint, state) if state.is_main_process else None
    prints_aside = contextlib.redirect_stdout(sys.stderr)  # PPOTrainer prints
    with lora.accounted(writer, _out_of_memory), prints_aside:
        return _train(job, run, checkpoint, writer, state.num_processes, before), run


def _out_of_memory() -> console.Problem:
    order = "; ".join(f"{i}. {text}" for i, text in enumerate(REMEDIES, 1))
    return console.Problem("out of GPU memory", f"lower, in this order: {order}")


def _check_padding(tokenizer) -> None:
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise console.Misuse(
            "ppo needs a pad token that is not the end token, and this tokenizer has none",
            "use rloo or grpo, or give the tokenizer a pad token",
        )


def _writer(job: Job, run: Path, checkpoint: Path | None, state) -> RunFolder:
    writer = RunFolder(run)
    facts = run_facts(job, state.num_processes)
    writer.start(
        job.settings.model_dump(mode="json"),
        facts,
        kind=job.kind,
        resumed_from=checkpoint and checkpoint.name,
    )
    lora.tidy_checkpoints(run, checkpoint)
    writer.rewind(int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0)
    source = job.start.name if job.start else job.settings.model.model_name_or_path
    writer.log(f"{job.kind} from {source} on {facts['device']}, {state.num_processes} process(es)")
    return writer


def _train(job: Job, run: Path, checkpoint, writer, world_size: int, before) -> int:
    trainer = algorithms.build(job, run, writer, world_size)
    stop = lora.stop_on_signals(trainer)
    before = before or measure.objective(job, trainer)
    if writer:
        writer.update(objective={"before": before})
    with contextlib.suppress(Stopped):
        _run_trainer(job, trainer, checkpoint, stop)
    if stop["signal"]:
        return _stopped(job, writer, trainer, stop["signal"])
    after = measure.objective(job, trainer)
    _save(job, trainer, run)
    if writer:
        said = _said(job, before, after)
        writer.log(f"completed: {trainer.state.global_step} steps{said}")
        changes = {"objective": {"before": before, "after": after}, "final": "final"}
        writer.end("completed", step=trainer.state.global_step, **changes)
    return console.GOOD


def _run_trainer(job: Job, trainer, checkpoint: Path | None, stop: dict[str, int]) -> None:
    if job.kind != "ppo":
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        return
    from transformers import TrainerCallback

    class Leave(TrainerCallback):
        def on_save(self, args, state, control, **_):
            if stop["signal"]:
                raise Stopped

    trainer.add_callback(Leave())
    trainer.train()


def _stopped(job: Job, writer, trainer, signum: int) -> int:
    if job.kind != "ppo":
        return lora.stopped(writer, trainer, signum)
    if writer:
        step = trainer.state.global_step
        writer.log(f"stopped at step {step}; ppo cannot resume: start from that checkpoint anew")
        writer.end("stopped", step=step)
    return 128 + signum


def _save(job: Job, trainer, run: Path) -> None:
    """final/, as the trainer publishes it: the trained adapter alone, without its reference."""
    trainer.model = policy = algorithms.policy_of(trainer)
    if "ref" in policy.peft_config:
        policy.delete_adapter("ref")
    job.tokenizer.padding_side = "right"
    lora.save_final(trainer, job.tokenizer, run)


def _said(job: Job, before: dict[str, float], after: dict[str, float]) -> str:
    name = measure.NAMES[job.kind]
    if name not in after:
        return "; the objective was not measured (no val_file)"
    return f"; {name} {before[name]:.3f} -> {after[name]:.3f} on the validation rows"


def keep_what_began(settings, run: Path):
    """The settings with the models that a resumed run began with, where they are left open."""
    began = run_folder.read_config(run)
    changes = {}
    if settings.sft_model_path is None:
        changes["sft_model_path"] = began.get("sft_model_path")
    if settings.reward_model_path == "latest":
        changes["reward_model_path"] = began.get("reward_model_path")
    if settings.model.model_name_or_path is None:
        name = (began.get("model") or {}).get("model_name_or_path")
        changes["model"] = settings.model.model_copy(update={"model_name_or_path": name})
    return settings.model_copy(update=changes)


def result(run: Path) -> dict[str, Any]:
    """What a completed run's command prints with --json."""
    status = json.loads((run / "status.json").read_text(encoding="utf-8"))
    return {
        "run": str(run),
        "state": status["state"],
        "kind": status["kind"],
        "steps": status["step"],
        "objective": status["objective"],
    }


def calm() -> None:
    """Variables that keep the libraries quiet and off the network."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded by itself
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # says at length that PPO may change
