"""configs/eval.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from config.schemas import Positive, Section
from config.schemas.training import Dtype, QuantizationSection


class EvalDataSection(Section):
    max_samples: Positive | None = None
    max_length: Annotated[int, Field(ge=8)] = 2048
    allow_placeholders: bool = False


class GenerationSection(Section):
    batch_size: Positive = 8
    max_new_tokens: Positive = 256


class EvalMetricsSection(Section):
    loss: bool = True
    bleu_tokenize: Literal["13a", "intl", "zh", "char", "none"] | None = None
    bootstrap_samples: Annotated[int, Field(ge=100)] = 1000
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    seed: Annotated[int, Field(ge=0)] = 42


class EvalReportSection(Section):
    regressions: Annotated[int, Field(ge=0)] = 10
    samples: Annotated[int, Field(ge=0)] = 5


class RagSection(Section):
    collection: str | None = None
    top_k: Positive = 3


class EvalModelSection(Section):
    model_revision: str | None = None
    dtype: Dtype = "bfloat16"
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    chat_template: str | None = None


class EvalConfig(Section):
    data: EvalDataSection = EvalDataSection()
    generation: GenerationSection = GenerationSection()
    metrics: EvalMetricsSection = EvalMetricsSection()
    report: EvalReportSection = EvalReportSection()
    rag: RagSection = RagSection()
    model: EvalModelSection = EvalModelSection()
    quantization: QuantizationSection = QuantizationSection(load_in_4bit=False)
