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
from rlhf import policies, rewards
from rlhf.preference_rows import EncodedPreferences
from training import lora, plan, session

SHOWN = (
    "loss", "learning_rate", "eval_loss",
    "accuracy", "margin", "eval_accuracy", "eval_margin",
    "rewards/accuracies", "rewards/margins", "eval_rewards/margins",
    "reward", "kl", "objective/scores", "objective/kl",
)  # fmt: skip


@dataclasses.dataclass
class PreferenceTask:
    """What one preference training is made of: kind, start adapter, reward model, rows."""

    kind: str
    settings: Any  # RlhfConfig, with the base model named
    start: Any = None  # evaluation.targets.Target of the start adapter
    reward_run: Path | None = None
    tokenizer: Any = None
    rows: dict[str, list] = dataclasses.field(default_factory=dict)  # 'train', 'validation'
    coded: dict[str, EncodedPreferences] = dataclasses.field(default_factory=dict)
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


def prompts_a_step(task: PreferenceTask, world_size: int) -> int:
    """Different prompts (pairs) that one optimizer step takes."""
    batch = task.settings.batch * world_size
    return batch // task.section.num_generations if task.kind in ("grpo", "rloo") else batch


def steps(task: PreferenceTask, world_size: int) -> int:
    """Optimizer steps of the whole training (ppo: rollouts), as each trainer counts them."""
    training, rows = task.settings.training, len(task.coded["train"].rows)
    if not task.generates:
        return plan.steps(rows, training, world_size)[0]
    least = prompts_a_step(task, world_size)
    if rows < least:
        raise console.Problem(
            f"{rows} prompts are too few: one step takes {least}",
            "give more rows, or lower per_device_train_batch_size or gradient_accumulation_steps",
        )
    if training.max_steps > 0:
        return training.max_steps
    if task.kind == "ppo":
        return math.ceil(int(training.num_train_epochs * rows) / least)
    return math.ceil(rows // least * task.section.num_iterations * training.num_train_epochs)


def build(task: PreferenceTask, run: Path, recorders: list, world_size: int) -> Any:
    """The trainer with its models loaded; nothing is trained yet."""
    make = BUILDERS[task.kind]
    return make(task, run, steps(task, world_size), world_size, recorders)


def _arguments(task: PreferenceTask, run: Path, left_out: tuple[str, ...] = ()) -> dict[str, Any]:
    values = task.settings.training.model_dump() | task.section.model_dump()
    return {k: v for k, v in lora.trainer_arguments(values, run).items()
            if k not in left_out}  # fmt: skip


def _dataset(encoded: EncodedPreferences | None, *columns: str) -> Any:
    from datasets import Dataset

    if encoded is None:
        return None
    return Dataset.from_list([{c: row[c] for c in columns} for row in encoded.rows])


def _evaluated(task: PreferenceTask) -> dict[str, str]:
    return {"eval_strategy": "steps" if "validation" in task.coded else "no"}


def _new_adapter(task: PreferenceTask, model, task_type: str = "CAUSAL_LM") -> Any:
    """The LoraConfig of a new adapter; None where the policy has the start adapter already."""
    if task.start is not None and task_type == "CAUSAL_LM":
        return None
    config = lora.lora_config(task.settings)
    if task_type == "SEQ_CLS":
        config.task_type = "SEQ_CLS"
        config.modules_to_save = [*(config.modules_to_save or []), "score"]
    return config


def _reward(task: PreferenceTask, run: Path, total: int, world_size: int, callbacks: list) -> Any:
    from trl import RewardConfig, RewardTrainer

    model = policies.load_scoring_base(task.settings)
    columns = ("chosen_ids", "rejected_ids")
    return session.session_trainer(RewardTrainer)(
        model,
        args=RewardConfig(**_arguments(task, run), **_evaluated(task)),
        train_dataset=_dataset(task.coded["train"], *columns),
        eval_dataset=_dataset(task.coded.get("validation"), *columns),
        processing_class=task.tokenizer,
        peft_config=_new_adapter(task, model, "SEQ_CLS"),
        callbacks=callbacks,
    )


def _dpo(task: PreferenceTask, run: Path, total: int, world_size: int, callbacks: list) -> Any:
    from trl import DPOConfig, DPOTrainer

    class EncodedDpoTrainer(session.session_trainer(DPOTrainer)):
        def _prepare_dataset(self, dataset, *_):
            return dataset  # the rows are token ids already

    model = policies.load_policy(task.settings, task.start)
    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    return EncodedDpoTrainer(
        model,
        args=DPOConfig(**_arguments(task, run), **_evaluated(task)),
        train_dataset=_dataset(task.coded["train"], *columns),
        eval_dataset=_dataset(task.coded.get("validation"), *columns),
        processing_class=task.tokenizer,
        peft_config=_new_adapter(task, model),
        callbacks=callbacks,
    )


def _grpo(task: PreferenceTask, run: Path, total: int, world_size: int, callbacks: list) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    return _generating(GRPOTrainer, GRPOConfig, task, run, total, callbacks)


def _rloo(task: PreferenceTask, run: Path, total: int, world_size: int, callbacks: list) -> Any:
    from trl import RLOOConfig, RLOOTrainer

    return _generating(RLOOTrainer, RLOOConfig, task, run, total, callbacks)


def _generating(
    trainer_class, config_class, task: PreferenceTask, run: Path, total: int, callbacks
) -> Any:
    settings = task.settings
    model = policies.load_policy(settings, task.start)
    task.rewards = reward_functions(task, "train")
    return session.session_trainer(trainer_class)(
        model,
        reward_funcs=list(task.rewards),
        args=config_class(
            reward_weights=settings.reward_weights,
            eval_strategy="no",
            **_arguments(task, run, ("eval_steps", "per_device_eval_batch_size")),
        ),
        train_dataset=_dataset(task.coded["train"], "prompt", "row"),
        processing_class=task.tokenizer,
        peft_config=_new_adapter(task, model),
        callbacks=callbacks,
    )


def reward_functions(task: PreferenceTask, part: str) -> list:
    """What scores answers to the prompts of task.rows[part]. Loads the reward model once."""
    settings, model = task.settings, None
    size = settings.training.per_device_eval_batch_size
    if policies.needs_reward_model(settings):
        loaded = next((r for r in task.rewards if isinstance(r, rewards.RewardModel)), None)
        pair = (loaded.model, loaded.tokenizer) if loaded else _loaded(task)
        model = rewards.RewardModel(*pair, task.rows[part], size)
    return rewards.functions(
        settings.reward_funcs, task.rows[part], task.tokenizer, task.longest_answer, model
    )


def _loaded(task: PreferenceTask) -> tuple[Any, Any]:
    return policies.load_reward_model(task.reward_run)


def _ppo(task: PreferenceTask, run: Path, total: int, world_size: int, callbacks: list) -> Any:
    """TRL's experimental PPO. The policy's reference is the adapter `ref`, or the bare base."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    policy = policies.load_policy(task.settings, task.start)
    names = {}
    if task.start is not None:
        names = _add_reference(policy)
    else:  # PPOTrainer's own way makes norms float32 beside a bfloat16 head, which CUDA refuses
        policy = _with_new_adapter(task, policy)
    scorer, tokenizer = policies.load_reward_model(task.reward_run)
    value, _ = policies.load_reward_model(task.reward_run, trainable=True)
    task.rewards = [rewards.RewardModel(scorer, tokenizer, task.rows["train"], 1)]
    rest = ("max_steps", "num_train_epochs", "eval_steps", "gradient_checkpointing")
    arguments = _arguments(task, run, rest)
    if task.settings.training.gradient_checkpointing:
        _checkpoint(policy, value)
    dataset = _dataset(task.coded["train"], "input_ids")
    return PPOTrainer(
        args=PPOConfig(
            total_episodes=total * task.settings.batch * world_size,
            num_sample_generations=0,
            stop_token="eos",
            eval_strategy="no",
            gradient_checkpointing=False,
            **arguments,
            **names,
        ),
        processing_class=task.tokenizer,
        model=policy,
        ref_model=None,
        reward_model=scorer.base_model.model,
        value_model=value.base_model.model,
        train_dataset=dataset,
        eval_dataset=dataset.select([0]),
        callbacks=callbacks,
    )


def _with_new_adapter(task: PreferenceTask, model) -> Any:
    """The base with a new adapter to train; its reference is the bare base."""
    from peft import get_peft_model

    return get_peft_model(model, _new_adapter(task, model))


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


BUILDERS = {"reward": _reward, "dpo": _dpo, "grpo": _grpo, "rloo": _rloo, "ppo": _ppo}
