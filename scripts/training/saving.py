"""Saves an adapter, and reads it back before the run is called completed.

PEFT 0.21 picks the tensors to save by the names of the model's modules. FSDP's activation
checkpointing puts `_checkpoint_wrapped_module` into those names but not into the state dict's, so
PEFT would save an adapter without a single tensor.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from base_model.locate import ADAPTER_WEIGHTS
from kit import console, paths, publish

WRAPPER = "_checkpoint_wrapped_module"
ADAPTER_PARTS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")


@contextlib.contextmanager
def plain_module_names(model) -> Iterator[None]:
    """Let `model.named_modules()` give the names that its state dict uses."""

    def plain(*arguments, **keywords):
        for name, module in type(model).named_modules(model, *arguments, **keywords):
            yield ".".join(part for part in name.split(".") if part != WRAPPER), module

    model.named_modules = plain
    try:
        yield
    finally:
        del model.named_modules


def plain_saving(trainer_class: type) -> type:
    """A trainer whose checkpoints hold the whole adapter, whatever wraps the layers."""

    class PlainSaving(trainer_class):
        def _save(self, output_dir=None, state_dict=None):
            if state_dict is not None:
                state_dict = {key.replace(f"{WRAPPER}.", ""): value
                              for key, value in state_dict.items()}  # fmt: skip
            with plain_module_names(self.accelerator.unwrap_model(self.model)):
                super()._save(output_dir, state_dict=state_dict)

    return PlainSaving


def saving_together(trainer_class: type) -> type:
    """A trainer that drops old checkpoints once every process has saved the new one.

    Hosts with disks of their own finish at different moments: a run in which one of them dies while
    it saves goes on from the checkpoint before, which all must still have.
    """

    class SavingTogether(trainer_class):
        def _save_checkpoint(self, *arguments, **keywords):
            if self.args.world_size == 1:
                super()._save_checkpoint(*arguments, **keywords)
                return
            from transformers.trainer_utils import rotate_checkpoints

            limit, self.args.save_total_limit = self.args.save_total_limit, None
            try:
                super()._save_checkpoint(*arguments, **keywords)
            finally:
                self.args.save_total_limit = limit
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                best = self.state.best_model_checkpoint
                rotate_checkpoints(self.args.output_dir, limit, best, use_mtime=True)

    return SavingTogether


def checkpoint_check(trainer) -> Any:
    """A callback that reads the names in each checkpoint's adapter; Problem for an empty one."""
    from transformers import TrainerCallback

    class CheckpointCheck(TrainerCallback):
        def on_save(self, args, state, control, **_):
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if state.is_world_process_zero and folder.is_dir():
                model = trainer.accelerator.unwrap_model(trainer.model)
                policy = getattr(model, "policy", model)  # ppo keeps a value model beside it
                check_names(folder, adapted_layers(policy))

    return CheckpointCheck()


def adapted_layers(model, adapter: str = "default") -> int:
    """How many layers of the model carry this LoRA adapter."""
    names = ("lora_A", "lora_embedding_A")
    return sum(
        any(adapter in getattr(module, name, {}) for name in names) for module in model.modules()
    )


def check_names(folder: Path, layers: int) -> list[str]:
    """The tensor names of a saved adapter. Problem unless there are two for each adapted layer."""
    from safetensors import SafetensorError, safe_open

    file = folder / ADAPTER_WEIGHTS
    try:
        with safe_open(file, framework="pt") as tensors:
            names = list(tensors.keys())
    except (OSError, SafetensorError) as error:
        raise _bad(file, f"cannot be read back ({console.first_line(error)})") from None
    parts = [name for name in names if any(part in name for part in ADAPTER_PARTS)]
    if len(parts) != 2 * layers:
        raise _bad(file, f"{len(parts)} LoRA tensors were saved, {2 * layers} were expected")
    return names


def check_adapter(folder: Path, layers: int) -> None:
    """Read a saved adapter back: complete, every number finite, and lora_B not all zero.

    LoRA begins with lora_B at zero, so an adapter that still has only zeros there learned nothing.
    """
    import torch
    from safetensors import safe_open

    names = check_names(folder, layers)
    learned = False
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as tensors:
        for name in names:
            tensor = tensors.get_tensor(name)
            if not torch.isfinite(tensor.float()).all():
                raise _bad(
                    folder / ADAPTER_WEIGHTS, f"{name} holds NaN or Inf",
                    "the training diverged: look at metrics.jsonl, halve learning_rate",
                )  # fmt: skip
            learned = learned or (_is_output(name) and bool(tensor.any()))
    if not learned:
        raise _bad(
            folder / ADAPTER_WEIGHTS, "lora_B is zero in every layer: the training changed nothing",
            "look at metrics.jsonl: the loss, and a learning rate that is not 0",
        )  # fmt: skip


def _is_output(name: str) -> bool:
    return "lora_B" in name or "lora_embedding_B" in name


def _bad(file: Path, what: str, remedy: str = "") -> console.Problem:
    return console.Problem(
        f"{paths.show(file)}: {what}",
        remedy or "the weights are in the newest folder of checkpoints/; report this run's log.txt",
    )


def save_final(trainer, tokenizer, run: Path) -> None:
    """Publish final/: the adapter as a standard PEFT folder, with tokenizer and chat template.

    Every process takes part (FSDP gathers); rank 0 writes. Problem where the saved adapter is
    incomplete, not finite or untrained; then final/ is not published.
    """
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        trainer.save_model(str(run / "checkpoints" / "final"))
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
        (stage / "training_args.bin").unlink(missing_ok=True)  # a pickle that nobody needs
        check_adapter(stage, adapted_layers(trainer.model))


def tidy_checkpoints(run: Path, checkpoint: Path | None) -> None:
    """Remove what a kill left half-written: checkpoints newer than the one that is resumed."""

    def step(folder: Path) -> int:
        return int(folder.name.rpartition("-")[2])

    for folder in (run / "checkpoints").glob("checkpoint-*[0-9]"):
        if checkpoint is None or step(folder) > step(checkpoint):
            shutil.rmtree(folder)
