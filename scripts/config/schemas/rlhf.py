"""configs/rlhf.yaml. Key names are those of TRL's RewardConfig, DPOConfig, GRPOConfig, …"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from config.schemas import Positive, Section, Share
from config.schemas import training as sft
from config.schemas.training import Optimizer, QuantizationSection, Seed

LearningRate = Annotated[float, Field(gt=0, lt=1)]
Above = Annotated[float, Field(gt=0)]
NotBelow = Annotated[float, Field(ge=0)]
Algorithm = Literal["dpo", "grpo", "rloo", "ppo"]
RewardFunction = Literal["reward_model", "f1", "exact_match", "ended", "json"]


class RlhfModelSection(sft.ModelSection):
    model_name_or_path: str | None = None


class RlhfLoraSection(sft.LoraSection):
    lora_dropout: Share = 0.0


class RlhfSafetySection(Section):
    min_free_disk_gb: NotBelow = 10.0


class RlhfDataSection(Section):
    train_file: str = "data/processed/train_preference.jsonl"
    val_file: str | None = "data/processed/val_preference.jsonl"
    max_samples: Positive | None = None
    max_prompt_length: Annotated[int, Field(ge=8)] = 512
    val_prompts: Positive = 64


class RlhfTrainingSection(Section):
    num_train_epochs: Above = 1.0
    max_steps: Annotated[int, Field(ge=-1)] = -1
    per_device_train_batch_size: Positive = 4
    per_device_eval_batch_size: Positive = 4
    gradient_accumulation_steps: Positive = 4
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "linear"
    warmup_steps: NotBelow = 0.1
    max_grad_norm: Above = 1.0
    optim: Optimizer = "paged_adamw_8bit"
    bf16: bool = True
    fp16: bool = False
    gradient_checkpointing: bool = True
    logging_steps: Positive = 5
    eval_steps: Positive = 50
    save_steps: Positive = 50
    save_total_limit: Positive = 3
    seed: Seed = 42
    report_to: Literal["none", "tensorboard", "trackio", "wandb"] = "none"


class RewardSection(Section):
    learning_rate: LearningRate = 1e-4
    max_length: Positive = 1024
    center_rewards_coefficient: NotBelow | None = 0.01


class DpoSection(Section):
    learning_rate: LearningRate = 5e-6
    max_length: Positive = 1024
    beta: Above = 0.1
    loss_type: list[Literal["sigmoid", "ipo", "hinge", "robust", "sft"]] = ["sigmoid"]
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0


class GrpoSection(Section):
    learning_rate: LearningRate = 1e-5
    beta: NotBelow = 0.04
    num_generations: Annotated[int, Field(ge=2)] = 8
    max_completion_length: Positive = 256
    temperature: Above = 1.0
    num_iterations: Positive = 1
    epsilon: Above = 0.2
    scale_rewards: Literal["group", "batch", "none"] = "group"
    mask_truncated_completions: bool = False


class RlooSection(Section):
    learning_rate: LearningRate = 1e-5
    beta: NotBelow = 0.05
    num_generations: Annotated[int, Field(ge=2)] = 4
    max_completion_length: Positive = 256
    temperature: Above = 1.0
    num_iterations: Positive = 1
    epsilon: Above = 0.2
    normalize_advantages: bool = False
    mask_truncated_completions: bool = False


class PpoSection(Section):
    learning_rate: LearningRate = 1e-5
    kl_coef: NotBelow = 0.05
    kl_estimator: Literal["k1", "k3"] = "k1"
    response_length: Positive = 256
    temperature: Above = 0.7
    missing_eos_penalty: Above | None = 1.0
    num_ppo_epochs: Positive = 4
    num_mini_batches: Positive = 1
    local_rollout_forward_batch_size: Positive = 16
    cliprange: Above = 0.2
    vf_coef: NotBelow = 0.1
    cliprange_value: Above = 0.2
    gamma: Share = 1.0
    lam: Share = 0.95
    whiten_rewards: bool = False


class RlhfConfig(Section):
    enabled: bool = False
    algorithm: Algorithm = "dpo"
    sft_model_path: str | None = None
    reward_model_path: str = "latest"
    reward_funcs: Annotated[list[RewardFunction], Field(min_length=1)] = ["reward_model"]
    reward_weights: list[float] | None = None
    model: RlhfModelSection = RlhfModelSection()
    lora: RlhfLoraSection = RlhfLoraSection()
    quantization: QuantizationSection = QuantizationSection()
    data: RlhfDataSection = RlhfDataSection()
    training: RlhfTrainingSection = RlhfTrainingSection()
    reward: RewardSection = RewardSection()
    dpo: DpoSection = DpoSection()
    grpo: GrpoSection = GrpoSection()
    rloo: RlooSection = RlooSection()
    ppo: PpoSection = PpoSection()
    safety: RlhfSafetySection = RlhfSafetySection()

    @property
    def chosen(self) -> Section:
        """The section of the algorithm that was chosen."""
        return getattr(self, self.algorithm)

    @property
    def batch(self) -> int:
        """Completions or pairs that one process gives to one optimizer step."""
        return self.training.per_device_train_batch_size * self.training.gradient_accumulation_steps

    @model_validator(mode="after")
    def _rewards_fit(self):
        if self.algorithm == "ppo" and self.reward_funcs != ["reward_model"]:
            raise ValueError("ppo takes [reward_model] alone; reward functions are for grpo, rloo")
        if self.reward_weights and len(self.reward_weights) != len(self.reward_funcs):
            raise ValueError(
                f"{len(self.reward_weights)} reward_weights for {len(self.reward_funcs)} "
                f"reward_funcs; give one for each, or null"
            )
        return self

    @model_validator(mode="after")
    def _batches_fit(self):
        product = "per_device_train_batch_size x gradient_accumulation_steps"
        if self.algorithm in ("grpo", "rloo") and self.batch % self.chosen.num_generations:
            raise ValueError(
                f"{product} is {self.batch}: no multiple of {self.algorithm}.num_generations "
                f"({self.chosen.num_generations})"
            )
        if self.algorithm == "ppo" and self.batch % self.ppo.num_mini_batches:
            raise ValueError(
                f"{product} is {self.batch}: no multiple of ppo.num_mini_batches "
                f"({self.ppo.num_mini_batches})"
            )
        shortest = min(self.dpo.max_length, self.reward.max_length)
        if self.data.max_prompt_length >= shortest:
            raise ValueError(
                f"data.max_prompt_length ({self.data.max_prompt_length}) leaves no room for an "
                f"answer within max_length ({shortest})"
            )
        return self
