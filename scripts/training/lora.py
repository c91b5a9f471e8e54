"""The training itself: base, adapter, TRL's SFTTrainer, and what a run writes while it works."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from base_model import chat_template, description, identity, loading, locate
from base_model import tokenizer as base_tokenizer
from kit import console, paths, publish
from training import memory, plan
from training.run_folder import RunFolder

# sections of training_config.yaml whose keys are SFTConfig's, less those that the kit handles
_OURS = ("early_stopping_patience", "assistant_only_loss", "completion_only_loss")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def sft_config(settings, run: Path) -> Any:
    """The SFTConfig for a run. Rows come encoded, so TRL masks and cuts nothing itself."""
    from trl import SFTConfig

    values = {k: v for k, v in settings.training.model_dump().items() if k not in _OURS}
    if values["fsdp_config"]:
        values["fsdp_config"] = {k: v for k, v in values["fsdp_config"].items() if v is not None}
    if not settings.data.val_file:
        values |= {"eval_strategy": "no", "load_best_model_at_end": False}
    masks = {"completion_only_loss": False, "assistant_only_loss": False}
    return SFTConfig(**trainer_arguments(values, run), **masks)


def trainer_arguments(values: dict[str, Any], run: Path) -> dict[str, Any]:
    """Arguments of any TRL config for `run` on this machine."""
    import torch
    from transformers.utils import is_torch_tf32_available

    values = {k: v for k, v in values.items() if v is not None}
    if loading.device() == "cpu":
        values |= {"bf16": False, "fp16": False, "use_cpu": True, "dataloader_num_workers": 0}
    if not torch.cuda.is_available():
        values["dataloader_pin_memory"] = False
    if not is_torch_tf32_available():
        values.pop("tf32", None)
    values["report_to"] = [] if values["report_to"] == "none" else [values["report_to"]]
    ours = {"output_dir": str(run / "checkpoints"), "disable_tqdm": True}
    return values | ours | {"ddp_find_unused_parameters": False}


def lora_config(settings, model_type: str) -> Any:
    """The PEFT LoraConfig of the `lora` section."""
    from peft import LoraConfig

    description.check_modules(model_type, settings.lora)
    return LoraConfig(task_type="CAUSAL_LM", **settings.lora.model_dump())


def datasets(settings, tokenizer) -> dict[str, Any]:
    """{'train', 'validation'}: the encoded files as datasets.Dataset; 'facts': what was counted."""
    from datasets import Dataset

    coded = plan.encode_all(settings, tokenizer)
    made: dict[str, Any] = {name: Dataset.from_list(e.rows) for name, e in coded.items()}
    made["facts"] = {
        name: {"rows": len(e.rows), "tokens": e.tokens, "supervised_tokens": e.supervised}
        for name, e in coded.items()
    }
    return made


def run_facts(settings, tokenizer, counted: dict[str, Any], world_size: int) -> dict[str, Any]:
    """run.json: what this run stands on, by hashes."""
    base = locate.find(settings.model.model_name_or_path, settings.model.model_revision)
    manifest = plan.data_file(settings.data.train_file).parent / "manifest.json"
    lock = paths.ROOT / "requirements-remote.txt"
    return {
        "base_model": settings.model.model_name_or_path,
        "base_revision": settings.model.model_revision,
        "base_identity": identity.identity(base) if base else {},
        "train_sha256": publish.sha256(plan.data_file(settings.data.train_file)),
        "data_manifest_sha256": publish.sha256(manifest) if manifest.is_file() else None,
        "environment_lock_sha256": publish.sha256(lock) if lock.is_file() else None,
        "chat_template_sha256": chat_template.sha256(tokenizer.chat_template),
        "seed": settings.training.seed,
        "world_size": world_size,
        "device": loading.device(),
        "data": counted,
    }


def train(settings, run: Path | None, checkpoint: Path | None) -> tuple[int, Path]:
    """Train; returns (exit code, run folder). Every rank calls it; rank 0 names the run and writes.

    Raises Problem with what to lower when memory runs out.
    """
    loading.quiet()
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list
    from transformers import set_seed

    state = PartialState(cpu=loading.device() == "cpu")
    refuse_other_world(state.num_processes, settings.training.fsdp)
    named = [run, checkpoint]
    broadcast_object_list(named)
    run, checkpoint = named
    set_seed(settings.training.seed)  # before model and adapter are built: resume is bit-identical
    tokenizer = base_tokenizer.configured(settings.model)
    data = datasets(settings, tokenizer)
    writer = None
    if state.is_main_process:
        writer = RunFolder(run)
        facts = run_facts(settings, tokenizer, data["facts"], state.num_processes)
        writer.start(settings.model_dump(), facts, resumed_from=checkpoint and checkpoint.name)
        tidy_checkpoints(run, checkpoint)
        writer.rewind(int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0)
        writer.log(
            f"{plan.method(settings)} on {facts['device']}, {state.num_processes} process(es)"
        )
    with accounted(writer, lambda: out_of_memory(settings)):
        sharded = settings.training.fsdp
        model = loading.load_base(settings.model, settings.quantization, sharded=sharded)
        trainer = build_trainer(settings, run, model, tokenizer, data, writer)
        stop = stop_on_signals(trainer)
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if stop["signal"]:
            return stopped(writer, trainer, stop["signal"]), run
        save_final(trainer, tokenizer, run)
        if writer:
            writer.log(
                f"completed: {trainer.state.global_step} steps, loss {result.training_loss:.4f}"
            )
            writer.end("completed", step=trainer.state.global_step, final="final")
    return console.GOOD, run


@contextlib.contextmanager
def accounted(
    writer: RunFolder | None, out_of_memory: Callable[[], console.Problem]
) -> Iterator[None]:
    """However the work inside ends badly, status.json says so; full memory, full disk: Problem."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        problem = out_of_memory()
    except (KeyboardInterrupt, SystemExit):
        if writer:
            with contextlib.suppress(OSError):
                writer.end("stopped")
        raise
    except Exception as error:
        if not disk_is_full(error):
            failed(writer, error)
            raise
        problem = console.Problem(
            f"the disk is full ({loading.first_line(error)})",
            "free space there; --resume goes on (not ppo)",
        )
    else:
        return
    failed(writer, problem)
    raise problem


def disk_is_full(error: Exception) -> bool:
    """Whether an error says that there was no room for a file, in the words of any library."""
    text = str(error)
    named = any(f"(os error {number})" in text for number in _FULL)  # safetensors has no errno
    torch_says = "PytorchStreamWriter failed" in text or "inline_container.cc" in text
    return getattr(error, "errno", None) in _FULL or named or torch_says


def refuse_other_world(processes: int, fsdp: bool = False) -> None:
    """Problem where a launcher promised more processes than there are, or FSDP has no GPUs."""
    promised = int(os.environ.get("WORLD_SIZE", "1"))
    if processes != promised:
        raise console.Problem(
            f"{promised} processes were promised (WORLD_SIZE) and {processes} are connected",
            f"start with torchrun --nproc_per_node N scripts/{console.program()}",
        )
    if fsdp and (processes == 1 or loading.device() != "cuda"):
        raise console.Misuse(
            f"fsdp shards over GPUs, and this is {processes} process(es) on {loading.device()}",
            "start with torchrun on a host with several GPUs, or use training_config.yaml",
        )


def build_trainer(settings, run, model, tokenizer, data, writer) -> Any:
    """TRL's SFTTrainer with the kit's callbacks."""
    from transformers import EarlyStoppingCallback
    from trl import SFTTrainer

    callbacks = [recorder(writer)] if writer else []
    if settings.training.early_stopping_patience and data.get("validation"):
        callbacks.append(EarlyStoppingCallback(settings.training.early_stopping_patience))
    trainer = resumable(SFTTrainer)(
        model,
        args=sft_config(settings, run),
        train_dataset=data["train"],
        eval_dataset=data.get("validation"),
        processing_class=tokenizer,
        peft_config=lora_config(settings, model.config.model_type),
        callbacks=callbacks,
    )
    if settings.training.fp16:  # TRL casts QLoRA adapters to bfloat16; fp16's scaler refuses that
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer


def resumable(trainer_class: type) -> type:
    """A trainer whose resumed run is bit for bit the unbroken one.

    TRL trains QLoRA adapters in bfloat16, but PEFT reads them back from a checkpoint as float32.
    """

    class Resumable(trainer_class):
        def _as_before(self, load, *arguments, **keywords):
            before = {n: p.dtype for n, p in self.model.named_parameters() if p.requires_grad}
            load(*arguments, **keywords)
            for name, parameter in self.model.named_parameters():
                if name in before and parameter.dtype != before[name]:
                    parameter.data = parameter.data.to(before[name])

        def _load_from_checkpoint(self, *arguments, **keywords):
            self._as_before(super()._load_from_checkpoint, *arguments, **keywords)

        def _load_best_model(self):
            self._as_before(super()._load_best_model)

    return Resumable


SHOWN = ("loss", "eval_loss", "learning_rate")  # of what a trainer logs: in status.json, log.txt


def recorder(writer: RunFolder, shown_keys: tuple[str, ...] = SHOWN) -> Any:
    """A callback that writes status.json, metrics.jsonl and log.txt, and says the progress."""
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):
        began, first = time.time(), 0  # an evaluation may come before the training

        def on_train_begin(self, args, state, control, **_):
            self.began, self.first = time.time(), state.global_step
            writer.update(step=state.global_step, max_steps=state.max_steps)

        def on_log(self, args, state, control, logs=None, **_):
            logs = {k: v for k, v in (logs or {}).items() if isinstance(v, int | float)}
            writer.metrics({"step": state.global_step, "time": time.time()} | logs)
            done = state.global_step - self.first
            rate = (time.time() - self.began) / done if done else None
            left = rate and rate * (state.max_steps - state.global_step)
            shown = {k: logs[k] for k in shown_keys if k in logs}
            writer.update(step=state.global_step, epoch=state.epoch, eta_seconds=left, **shown)
            if shown:
                words = "  ".join(f"{k} {v:.4g}" for k, v in shown.items())
                writer.log(f"step {state.global_step}/{state.max_steps}  {words}")

        def on_save(self, args, state, control, **_):
            writer.update(checkpoint=f"checkpoint-{state.global_step}")

    return Recorder()


def stop_on_signals(trainer) -> dict[str, int]:
    """INT and TERM end the run after the current step, with a checkpoint. Returns {'signal': n}."""
    from transformers import TrainerCallback

    stop = {"signal": 0}

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if stop["signal"]:
                control.should_save = control.should_training_stop = True

    def remember(signum, frame):
        if stop["signal"] == signum:
            raise SystemExit(128 + signum)  # a second one does not wait
        if stop["signal"]:
            return  # Ctrl-C reaches this process from the terminal, then TERM from its manager
        stop["signal"] = signum
        with contextlib.suppress(OSError):
            console.note("stopping after this step, with a checkpoint; again to stop at once")

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, remember)
    trainer.add_callback(Stop())
    return stop


def tidy_checkpoints(run: Path, checkpoint: Path | None) -> None:
    """Remove what a kill left half-written: checkpoints newer than the one that is resumed."""

    def step(folder: Path) -> int:
        return int(folder.name.rpartition("-")[2])

    for folder in (run / "checkpoints").glob("checkpoint-*[0-9]"):
        if checkpoint is None or step(folder) > step(checkpoint):
            shutil.rmtree(folder)


def save_final(trainer, tokenizer, run: Path) -> None:
    """Publish final/: the adapter as a standard PEFT folder, with tokenizer and chat template."""
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        trainer.save_model(str(run / "checkpoints" / "final"))  # every rank takes part
    if not trainer.is_world_process_zero():
        return
    if (run / "final").exists():
        shutil.rmtree(run / "final")
    with publish.folder(run / "final") as stage:
        if trainer.is_fsdp_enabled:
            shutil.copytree(run / "checkpoints" / "final", stage, dirs_exist_ok=True)
        else:
            trainer.model.save_pretrained(stage)
        tokenizer.save_pretrained(stage)
        (stage / "training_args.bin").unlink(missing_ok=True)  # a pickle nobody needs


def out_of_memory(settings) -> console.Problem:
    """The Problem for a GPU that is full: what was estimated, and what to lower, in order."""
    config = description.config(settings.model.model_name_or_path)
    needed = console.size(memory.estimate(config, settings).total)
    order = "; ".join(f"{i}. {text}" for i, text in enumerate(memory.remedies(settings), 1))
    return console.Problem(
        f"out of GPU memory (estimated need {needed})", f"lower, in this order: {order}"
    )


def stopped(writer: RunFolder | None, trainer, signum: int) -> int:
    if writer:
        writer.log(f"stopped at step {trainer.state.global_step}; --resume goes on")
        writer.end("stopped", step=trainer.state.global_step)
    return 128 + signum


def failed(writer: RunFolder | None, error: Exception) -> None:
    """Write down that the run failed, as far as the disk has room for it."""
    if writer:
        why = loading.first_line(error)
        with contextlib.suppress(OSError):
            writer.end("failed", error=why)
        with contextlib.suppress(OSError):
            writer.log(f"failed: {why}")
