"""configs/data_config.yaml: how documents and tables become training rows."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from config.schemas import Positive, Section, Share

FIELD = re.compile(r"\{(\w[\w .-]*)\}")  # a column in a recipe's template
Language = Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]{2})?$")]


class SplitSection(Section):
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05


class CleaningSection(Section):
    mojibake: bool = True
    html_entities: bool = True
    control_characters: bool = True
    min_chars: Positive = 4
    max_chars: Positive = 100_000


class LanguageFilterSection(Section):
    keep: list[Language] = ["en"]
    min_chars: Positive = 200
    min_probability: Share = 0.9


class DeduplicationSection(Section):
    exact: bool = True
    near: bool = True
    jaccard: Annotated[float, Field(gt=0, le=1)] = 0.7
    shingle_chars: Positive = 5
    num_perm: Positive = 128
    bands: Positive = 32

    @model_validator(mode="after")
    def _bands_divide(self):
        if self.num_perm % self.bands:
            raise ValueError(
                f"bands ({self.bands}) must divide num_perm ({self.num_perm}); 32 divides 128"
            )
        return self


class LengthSection(Section):
    tokenizer: str | None = None
    max_length: Annotated[int, Field(ge=8)] | None = None
    too_long: Literal["report", "drop"] = "report"


class PreferenceSection(Section):
    also_sft: bool = True


class DocumentsSection(Section):
    collection: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]$")] = (
        "pdf_docs"
    )
    embedder: str = "hashing"
    dimensions: Annotated[int, Field(ge=32, le=8192)] = 1024
    chunk_chars: Annotated[int, Field(ge=200)] = 1200
    chunk_overlap: Annotated[int, Field(ge=0)] = 150
    top_k: Positive = 3

    @model_validator(mode="after")
    def _overlap_is_less(self):
        if self.chunk_overlap > self.chunk_chars // 2:
            raise ValueError(
                f"chunk_overlap ({self.chunk_overlap}) is more than half of chunk_chars "
                f"({self.chunk_chars}); 150 suits 1200"
            )
        return self


class RecipeSection(Section):
    """How one kind of file becomes rows. Which keys matter depends on `kind`."""

    kind: Literal["csv", "jsonl", "text", "html", "pdf", "chroma", "generated"]
    glob: str | list[str] = "*"
    columns: list[str] = []
    encoding: str | None = None
    system: str | None = None
    user: str | None = None
    assistant: str | None = None
    values: dict[str, dict[str, str]] = {}
    topic: str | None = None
    styles: list[Literal["qa", "rag", "instruction", "continuation"]] = ["continuation"]
    passage_chars: Annotated[int, Field(ge=100)] = 1200
    size: Positive = 1000

    @model_validator(mode="after")
    def _fits_kind(self):
        if (self.user is None) != (self.assistant is None):
            raise ValueError("user and assistant belong together; give both or neither")
        if self.kind == "csv" and self.user and not self.columns:
            raise ValueError("a csv recipe with templates needs columns: the names they use")
        return self

    @field_validator("system", "user", "assistant", "topic")
    @classmethod
    def _braces_hold_names(cls, template: str | None):
        """Refuse braces without a {name}: they would go into every row unchanged."""
        rest = FIELD.sub("", template or "")
        if "{" in rest or "}" in rest:
            raise ValueError(f"a brace outside of {{column}} in {template!r}; write {{column}}")
        return template

    @property
    def globs(self) -> list[str]:
        return [self.glob] if isinstance(self.glob, str) else self.glob


class DataConfig(Section):
    seed: int = 13
    max_samples: Positive | None = None
    bad_rows: Literal["fail", "drop"] = "fail"
    split: SplitSection = SplitSection()
    cleaning: CleaningSection = CleaningSection()
    language: LanguageFilterSection = LanguageFilterSection()
    deduplication: DeduplicationSection = DeduplicationSection()
    length: LengthSection = LengthSection()
    preference: PreferenceSection = PreferenceSection()
    documents: DocumentsSection = DocumentsSection()
    recipes: dict[str, RecipeSection] = {}
