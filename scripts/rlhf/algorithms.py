"""One builder for each trainer of TRL: reward, dpo, grpo, rloo, ppo.

The policy is the start adapter, trained on, and the reference is a frozen copy of it; or a new
adapter, and the reference is the base. Rows come encoded by rlhf.data.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from kit import console
from rlhf import models, rewards
from rlhf.data import Encoded
from training import lora, plan

KINDS = ("reward", "dpo", "grpo", "rloo", "ppo")
SHOWN = (
    "loss", "learning_rate", "eval_loss",
    "accuracy", "margin", "eval_accuracy", "eval_margin",
    "rewards/accuracies", "rewards/margins", "eval_rewards/margins",
    "reward", "kl", "objective/scores", "objective/kl",
)  # fmt: skip


@dataclasses.dataclass
class Job:
    """One training: what is trained, from what, with which data, into which run."""

    kind: str
    settings: Any  # RlhfConfig, with the base model named
    start: Any = None  # evaluation.targets.Target of the start adapter
    reward_run: Path | None = None
    tokenizer: Any = None
    rows: dict[str, list] = dataclasses.field(default_factory=dict)  # 'train', 'validation'
    coded: dict[str, Encoded] = dataclasses.field(default_factory=dict)
    rewards: list = dataclasses.field(default_factory=list)  # functions, for grpo and rloo

    @property
    def section(self) -> Any:
        """The kind's own section of the configuration."""
        return getattr(self.settings, self.kind)

    @property
    def generates(self) -> bool:
        return self.kind in ("grpo", "rloo", "ppo")

    @property
    def longest_answer(self) -> int:
        """Tokens that an answer may have."""
        section = self.section
        return section.response_length if self.kind == "ppo" else section.max_completion_length


def prompts_a_step(job: Job, world_size: int) -> int:
    """Different prompts (pairs) that one optimizer step takes."""
    batch = job.settings.batch * world_size
    return batch // job.section.num_generations if job.kind in ("grpo", "rloo") else batch


def steps(job: Job, world_size: int) -> int:
    """Optimizer steps of the whole training (ppo: rollouts), as each trainer counts them."""
    training, rows = job.settings.training, len(job.coded["train"].rows)
    if not job.generates:
        return plan.steps(rows, training, world_size)[0]
    least = prompts_a_step(job, world_size)
    if rows < least:
        raise console.Problem(
            f"{rows} prompts are too few: one step takes {least}",
            "give more rows, or lower per_device_train_batch_size or gradient_accumulation_steps",
        )
    if training.max_steps > 0:
        return training.max_steps
    if job.kind == "ppo":
        return math.ceil(int(training.num_train_epochs * rows) / least)
    return math.ceil(rows // least * job.section.num_iterations * training.num_train_epochs)


def build(job: Job, run: Path, writer, world_size: int) -> Any:
    """The trainer, with models loaded and the run's recorder; nothing is trained yet."""
    from transformers.trainer_callback import PrinterCallback

    callbacks = [lora.recorder(writer, SHOWN)] if writer else []
    trainer = globals()[f"_{job.kind}"](job, run, steps(job, world_size), world_size, callbacks)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(job: Job, run: Path, left_out: tuple[str, ...] = ()) -> dict[str, Any]:
    values = job.settings.training.model_dump() | job.section.model_dump()
    return {k: v for k, v in lora.trainer_arguments(values, run).items()
            if k not in left_out}  # fmt: skip


def _dataset(encoded: Encoded | None, *columns: str) -> Any:
    from datasets import Dataset

    if encoded is None:
        return None
    return Dataset.from_list([{c: row[c] for c in columns} for row in encoded.rows])


def _evaluated(job: Job) -> dict[str, str]:
    return {"eval_strategy": "steps" if "validation" in job.coded else "no"}


def _new_adapter(job: Job, model, task_type: str = "CAUSAL_LM") -> Any:
    """The LoraConfig of a new adapter; None where the policy has the start adapter already."""
    if job.start is not None and task_type == "CAUSAL_LM":
        return None
    config = lora.lora_config(job.settings, model.config.model_type)
    if task_type == "SEQ_CLS":
        config.task_type = "SEQ_CLS"
        config.modules_to_save = [*(config.modules_to_save or []), "score"]
    return config


def _reward(job: Job, run: Path, total: int, world_size: int, callbacks: list) -> Any:
    from trl import RewardConfig, RewardTrainer

    model = models.load_scoring_base(job.settings)
    columns = ("chosen_ids", "rejected_ids")
    return lora.resumable(RewardTrainer)(
        model,
        args=RewardConfig(**_arguments(job, run), **_evaluated(job)),
        train_dataset=_dataset(job.coded["train"], *columns),
        eval_dataset=_dataset(job.coded.get("validation"), *columns),
        processing_class=job.tokenizer,
        peft_config=_new_adapter(job, model, "SEQ_CLS"),
        callbacks=callbacks,
    )


def _dpo(job: Job, run: Path, total: int, world_size: int, callbacks: list) -> Any:
    from trl import DPOConfig, DPOTrainer

    class Encoded(lora.resumable(DPOTrainer)):
        def _prepare_dataset(self, dataset, *_):
            return dataset  # the rows are token ids already

    model = models.load_policy(job.settings, job.start)
    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    return Encoded(
        model,
        args=DPOConfig(**_arguments(job, run), **_evaluated(job)),
        train_dataset=_dataset(job.coded["train"], *columns),
        eval_dataset=_dataset(job.coded.get("validation"), *columns),
        processing_class=job.tokenizer,
        peft_config=_new_adapter(job, model),
        callbacks=callbacks,
    )


def _grpo(job: Job, run: Path, total: int, world_size: int, callbacks: list) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    return _generating(GRPOTrainer, GRPOConfig, job, run, total, callbacks)


def _rloo(job: Job, run: Path, total: int, world_size: int, callbacks: list) -> Any:
    from trl import RLOOConfig, RLOOTrainer

    return _generating(RLOOTrainer, RLOOConfig, job, run, total, callbacks)


def _generating(trainer_class, config_class, job: Job, run: Path, total: int, callbacks) -> Any:
    settings = job.settings
    model = models.load_policy(settings, job.start)
    job.rewards = reward_functions(job, "train")
    return lora.resumable(trainer_class)(
        model,
        reward_funcs=list(job.rewards),
        args=config_class(
            reward_weights=settings.reward_weights,
            eval_strategy="no",
            **_arguments(job, run, ("eval_steps", "per_device_eval_batch_size")),
        ),
        train_dataset=_dataset(job.coded["train"], "prompt", "row"),
        processing_class=job.tokenizer,
        peft_config=_new_adapter(job, model),
        callbacks=callbacks,
    )


def reward_functions(job: Job, part: str) -> list:
    """What scores answers to the prompts of job.rows[part]. Loads the reward model once."""
    settings, model = job.settings, None
    size = settings.training.per_device_eval_batch_size
    if models.needs_reward_model(settings):
        loaded = next((r for r in job.rewards if isinstance(r, rewards.RewardModel)), None)
        pair = (loaded.model, loaded.tokenizer) if loaded else _loaded(job)
        model = rewards.RewardModel(*pair, job.rows[part], size)
    return rewards.functions(
        settings.reward_funcs, job.rows[part], job.tokenizer, job.longest_answer, model
    )


def _loaded(job: Job) -> tuple[Any, Any]:
    return models.load_reward_model(job.reward_run)


def _ppo(job: Job, run: Path, total: int, world_size: int, callbacks: list) -> Any:
    """TRL's experimental PPO. The policy's reference is the adapter `ref`, or the bare base."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    policy = models.load_policy(job.settings, job.start)
    names = _add_reference(policy) if job.start is not None else {}
    scorer, tokenizer = models.load_reward_model(job.reward_run)
    value, _ = models.load_reward_model(job.reward_run, trainable=True)
    job.rewards = [rewards.RewardModel(scorer, tokenizer, job.rows["train"], 1)]
    rest = ("max_steps", "num_train_epochs", "eval_steps", "gradient_checkpointing")
    arguments = _arguments(job, run, rest)
    if job.settings.training.gradient_checkpointing:
        _checkpoint(policy, value)
    dataset = _dataset(job.coded["train"], "input_ids")
    return PPOTrainer(
        args=PPOConfig(
            total_episodes=total * job.settings.batch * world_size,
            num_sample_generations=0,
            stop_token="eos",
            eval_strategy="no",
            gradient_checkpointing=False,
            **arguments,
            **names,
        ),
        processing_class=job.tokenizer,
        model=policy,
        ref_model=None,
        reward_model=scorer.base_model.model,
        value_model=value.base_model.model,
        train_dataset=dataset,
        eval_dataset=dataset.select([0]),
        peft_config=_new_adapter(job, policy),
        callbacks=callbacks,
    )


def _add_reference(policy) -> dict[str, str]:
    """A frozen copy of the adapter, as TRL's other trainers make it for themselves."""
    policy.add_adapter("ref", policy.peft_config["default"])
    for name, parameter in policy.named_parameters():
        if ".default." in name:
            copy = policy.get_parameter(name.replace(".default.", ".ref."))
            copy.data.copy_(parameter.data)
            copy.requires_grad_(False)
    return {"model_adapter_name": "default", "ref_adapter_name": "ref"}


def _checkpoint(*loaded) -> None:
    """Gradient checkpointing, which PPOTrainer does not switch on by itself."""
    for model in loaded:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()


def policy_of(trainer) -> Any:
    """The trained model: ppo keeps it beside the value model."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return getattr(model, "policy", model)
