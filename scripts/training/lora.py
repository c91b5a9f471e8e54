"""Supervised LoRA and QLoRA: the configurations of TRL and PEFT, the datasets, the trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from base_model import loading, lora_modules, readiness
from base_model import tokenizer as base_tokenizer
from training import plan, session, speed, speed_choices, step_sampler
from training.memory import plain_loss_is_cheaper
from training.memory_advice import MemoryCase

# Keys of the training section that the kit handles itself; the others are SFTConfig's.
OWN_KEYS = ("early_stopping_patience", "assistant_only_loss", "completion_only_loss")


def sft_config(
    settings, run: Path, validated: bool = True, hidden: int = 0, tied: bool = False,
    chosen: frozenset[str] = frozenset(),
) -> Any:  # fmt: skip
    """The SFTConfig for a run. Rows come encoded, so TRL masks and cuts nothing itself.

    validated: whether there are validation rows; hidden: the model's width, 0 where not known;
    tied: whether embeddings and head are one matrix; chosen: options of training/speed.py.
    """
    from trl import SFTConfig

    values = {k: v for k, v in settings.training.model_dump().items() if k not in OWN_KEYS}
    if values["fsdp_config"]:
        values["fsdp_config"] = {k: v for k, v in values["fsdp_config"].items() if v is not None}
    if not settings.data.val_file or not validated:
        values |= {"eval_strategy": "no", "load_best_model_at_end": False}
    t = settings.training
    tokens = max(t.per_device_train_batch_size, t.per_device_eval_batch_size) * t.max_length
    if hidden and plain_loss_is_cheaper(hidden, tokens):
        values["loss_type"] = "nll"
    if t.fsdp and tied:
        # TRL's chunked loss does not call the head. FSDP has it in one group with the embeddings,
        # waits for its forward pass, and leaves both sharded in the step after an evaluation.
        values["loss_type"] = "nll"
    values |= speed.arguments(chosen)
    if "liger_kernel" in chosen:
        values.pop("loss_type", None)  # its own
    masks = {"completion_only_loss": False, "assistant_only_loss": False}
    return SFTConfig(**trainer_arguments(values, run), **masks)


def trainer_arguments(values: dict[str, Any], run: Path) -> dict[str, Any]:
    """Arguments of any TRL config for `run` on this machine."""
    import torch
    from transformers.utils import is_torch_tf32_available

    values = {k: v for k, v in values.items() if v is not None}
    if loading.device() == "cpu":
        values |= {"bf16": False, "fp16": False, "use_cpu": True}
    if not torch.cuda.is_available():
        values["dataloader_pin_memory"] = False
    if not is_torch_tf32_available():
        values.pop("tf32", None)
    values["report_to"] = [] if values["report_to"] == "none" else [values["report_to"]]
    # Rows are token ids already: workers would save nothing, and a signal to the process group
    # kills them, which ends the run without a checkpoint.
    fixed = {"dataloader_num_workers": 0, "disable_tqdm": True, "ddp_find_unused_parameters": False}
    return values | fixed | {"output_dir": str(run / "checkpoints")}


def lora_config(settings) -> Any:
    """The PEFT LoraConfig of the `lora` section, without the vision and audio part of the base."""
    from peft import LoraConfig

    excluded = lora_modules.exclude_modules(readiness.describe(settings), settings.lora)
    return LoraConfig(task_type="CAUSAL_LM", exclude_modules=excluded, **settings.lora.model_dump())


def datasets(settings, tokenizer) -> dict[str, Any]:
    """{'train', 'validation'}: the encoded files as datasets.Dataset; 'facts': what was counted."""
    from datasets import Dataset

    base, coded = readiness.describe(settings), plan.encode_all(settings, tokenizer)
    readiness.refuse(readiness.of_tokenizer(tokenizer, base))
    readiness.refuse(plan.against_base(coded, tokenizer, base))
    made: dict[str, Any] = {name: Dataset.from_list(e.rows) for name, e in coded.items()}
    made["facts"] = {
        name: {"rows": len(e.rows), "tokens": e.tokens, "supervised_tokens": e.supervised}
        for name, e in coded.items()
    }
    return made


def build_trainer(
    settings, run: Path, model, tokenizer, data, recorders: list,
    chosen: frozenset[str] = frozenset(),
) -> Any:  # fmt: skip
    """TRL's SFTTrainer as a session needs it. chosen: options of training/speed.py."""
    from transformers import EarlyStoppingCallback
    from trl import SFTTrainer

    callbacks = list(recorders)
    if settings.training.early_stopping_patience and data.get("validation"):
        callbacks.append(EarlyStoppingCallback(settings.training.early_stopping_patience))
    text = model.config.get_text_config()
    hidden, tied = getattr(text, "hidden_size", 0), bool(getattr(text, "tie_word_embeddings", 0))
    made = session.session_trainer(SFTTrainer)
    if "group_by_length" in chosen:
        made = step_sampler.sorting(made)
    trainer = made(
        model,
        args=sft_config(settings, run, data.get("validation") is not None, hidden, tied, chosen),
        train_dataset=data["train"],
        eval_dataset=data.get("validation"),
        processing_class=tokenizer,
        peft_config=lora_config(settings),
        callbacks=callbacks,
    )
    if settings.training.fp16:  # TRL casts QLoRA adapters to bfloat16; fp16's scaler refuses that
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return trainer


class SupervisedRecipe(session.TrainingRecipe):
    """A LoRA adapter on rows of conversations, by TRL's SFTTrainer."""

    def __init__(self, settings: Any):
        super().__init__(settings)
        self.fsdp = settings.training.fsdp
        self.data: dict[str, Any] = {}
        self.choices: list[speed.SpeedChoice] = []

    def prepare(self) -> None:
        self.tokenizer = base_tokenizer.configured(self.settings.model)
        self.data = datasets(self.settings, self.tokenizer)
        lengths = list(map(len, self.data["train"]["input_ids"]))
        kind = readiness.describe(self.settings).model_type
        self.choices = speed.choose(
            speed_choices.here(), speed_choices.job(kind, self.settings, lengths)
        )
        readiness.refuse(speed_choices.checks(self.choices, self.settings))

    def keep(self, began: dict[str, Any]) -> None:
        self.choices = speed_choices.keep_order(self.choices, began.get("speed") or {})

    def inputs(self) -> dict[str, Any]:
        return {"speed": {choice.option: bool(choice.on) for choice in self.choices}}

    def notes(self) -> list[str]:
        return [f"speed: {choice.line}" for choice in self.choices if choice.on]

    def counts(self) -> dict[str, Any]:
        return self.data["facts"]

    def title(self) -> str:
        return plan.method(self.settings)

    def build(self, run: Path, recorders: list, world_size: int) -> Any:
        s = self.settings
        chosen = frozenset(choice.option for choice in self.choices if choice.on)
        base = s.model
        if "flash_attention" in chosen:
            base = base.model_copy(update={"attn_implementation": "flash_attention_2"})
        model = loading.load_base(base, s.quantization, sharded=self.fsdp)
        return build_trainer(s, run, model, self.tokenizer, self.data, recorders, chosen)

    def summary(self, trainer, before: dict, after: dict) -> str:
        losses = [row["train_loss"] for row in trainer.state.log_history if "train_loss" in row]
        return f", loss {losses[-1]:.4f}" if losses else ""

    def memory_case(self) -> MemoryCase:
        """What the memory of this training depends on."""
        return plan.supervised_case(readiness.describe(self.settings), self.settings)
