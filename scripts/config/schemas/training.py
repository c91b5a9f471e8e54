"""configs/training_config.yaml. Key names are those of TRL, PEFT, transformers and bitsandbytes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from config.schemas import Positive, Section, Share

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Dtype = Literal["bfloat16", "float16", "float32"]
Switch = Literal["auto", "on", "off"]
# transformers' optimizers that need torch and bitsandbytes alone
Optimizer = Literal[
    "adamw_torch", "adamw_torch_fused", "adafactor", "adagrad", "rmsprop", "sgd",
    "adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw_32bit",
    "ademamix", "ademamix_8bit", "paged_ademamix_8bit", "paged_ademamix_32bit",
    "lion_8bit", "lion_32bit", "paged_lion_8bit", "paged_lion_32bit",
    "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit",
]  # fmt: skip

LLAMA_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class ModelSection(Section):
    model_name_or_path: str = "models/Llama-3.1-8B-Instruct"
    model_revision: str | None = None
    dtype: Dtype = "bfloat16"
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    chat_template: str | None = None


class LoraSection(Section):
    r: Positive = 16
    lora_alpha: Positive = 32
    lora_dropout: Share = 0.05
    target_modules: Annotated[list[str], Field(min_length=1)] | Literal["all-linear"] = (
        LLAMA_MODULES
    )
    modules_to_save: list[str] | None = None
    bias: Literal["none", "all", "lora_only"] = "none"
    use_rslora: bool = False
    use_dora: bool = False


class QuantizationSection(Section):
    load_in_4bit: bool = True
    load_in_8bit: bool = False
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    bnb_4bit_use_double_quant: bool = True
    bnb_4bit_compute_dtype: Dtype = "bfloat16"
    bnb_4bit_quant_storage: Dtype | Literal["uint8"] = "uint8"

    @model_validator(mode="after")
    def _one_width(self):
        if self.load_in_4bit and self.load_in_8bit:
            raise ValueError(
                "load_in_4bit and load_in_8bit are both true; set one of them to false"
            )
        return self


class FsdpConfig(Section):
    """transformers' fsdp_config for FSDP2; unset keys keep its defaults."""

    version: Literal[2] = 2
    auto_wrap_policy: Literal["TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP"] | None = None
    transformer_layer_cls_to_wrap: list[str] | None = None
    reshard_after_forward: bool | None = None
    cpu_offload: bool | None = None
    cpu_ram_efficient_loading: bool | None = None
    activation_checkpointing: bool | None = None
    state_dict_type: Literal["FULL_STATE_DICT", "SHARDED_STATE_DICT"] | None = None


class TrainingSection(Section):
    num_train_epochs: Annotated[float, Field(gt=0)] = 3.0
    max_steps: Annotated[int, Field(ge=-1)] = -1
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-4
    per_device_train_batch_size: Positive = 4
    per_device_eval_batch_size: Positive = 4
    gradient_accumulation_steps: Positive = 4
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    warmup_steps: Annotated[float, Field(ge=0)] = 0.03
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    optim: Optimizer = "paged_adamw_8bit"
    bf16: bool = True
    fp16: bool = False
    tf32: bool | None = None
    gradient_checkpointing: bool = True
    max_length: Annotated[int, Field(ge=8)] = 2048
    packing: bool = False
    completion_only_loss: bool | None = None
    assistant_only_loss: bool = True
    neftune_noise_alpha: Annotated[float, Field(ge=0)] | None = None
    logging_steps: Positive = 10
    eval_strategy: Literal["no", "steps", "epoch"] = "steps"
    eval_steps: Positive = 100
    save_strategy: Literal["steps", "epoch"] = "steps"
    save_steps: Positive = 100
    save_total_limit: Positive = 3
    load_best_model_at_end: bool = True
    early_stopping_patience: Positive | None = 3
    dataloader_num_workers: Annotated[int, Field(ge=0)] = 0
    seed: Seed = 42
    full_determinism: bool = False
    report_to: Literal["none", "tensorboard", "trackio", "wandb"] = "none"
    fsdp: bool = False
    fsdp_config: FsdpConfig | None = None

    @model_validator(mode="after")
    def _consistent(self):
        if self.bf16 and self.fp16:
            raise ValueError(
                "bf16 and fp16 are both true; fp16 is for GPUs without bf16 (T4, V100)"
            )
        if self.fsdp_config and not self.fsdp:
            raise ValueError("fsdp_config is set and fsdp is false; set fsdp: true or delete it")
        if self.fsdp and self.gradient_checkpointing:
            raise ValueError(
                "fsdp with gradient_checkpointing gathers the weights twice; "
                "set gradient_checkpointing: false and fsdp_config.activation_checkpointing: true"
            )
        steps = self.eval_strategy == self.save_strategy == "steps"
        if self.load_best_model_at_end:
            if self.eval_strategy != self.save_strategy:
                raise ValueError(
                    "load_best_model_at_end needs eval_strategy equal to save_strategy; without "
                    "evaluation set load_best_model_at_end: false, early_stopping_patience: null"
                )
            if steps and self.save_steps % self.eval_steps:
                raise ValueError(
                    f"load_best_model_at_end needs save_steps ({self.save_steps}) to be "
                    f"a multiple of eval_steps ({self.eval_steps})"
                )
        elif self.early_stopping_patience:
            raise ValueError(
                "early_stopping_patience needs load_best_model_at_end: true; else set it to null"
            )
        return self


class SpeedSection(Section):
    """Switches of scripts/training/speed.py."""

    flash_attention: Switch = "auto"
    padding_free: Switch = "auto"
    group_by_length: Switch = "auto"
    liger_kernel: Switch = "auto"
    fused_optimizer: Switch = "auto"


class DataSection(Section):
    train_file: str = "data/processed/train_sft.jsonl"
    val_file: str | None = "data/processed/val_sft.jsonl"
    max_samples: Positive | None = None


class SafetySection(Section):
    dry_run: bool = True
    min_free_disk_gb: Annotated[float, Field(ge=0)] = 10.0


class TrainingConfig(Section):
    model: ModelSection = ModelSection()
    lora: LoraSection = LoraSection()
    quantization: QuantizationSection = QuantizationSection()
    training: TrainingSection = TrainingSection()
    speed: SpeedSection = SpeedSection()
    data: DataSection = DataSection()
    safety: SafetySection = SafetySection()
