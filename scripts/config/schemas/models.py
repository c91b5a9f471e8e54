"""configs/models.yaml: base models whose files are known one by one, and fine-tuned entries."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from config.schemas import Section

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ModelFile(Section):
    path: str
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256 | None = None
    needed: bool = True


class BaseModelFacts(Section):
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    license: str = ""
    gated: bool = False
    exclude: list[str] = []
    files: list[ModelFile]


class Entry(Section):
    description: str = ""
    base_model: str
    checkpoint: str


class Selection(Section):
    prefer_rag_finetuned: bool = True
    base_model: str = "Llama-3.1-8B-Instruct"


class ModelsConfig(Section):
    base_models: dict[str, BaseModelFacts] = {}
    entries: dict[str, Entry] = {}
    selection: Selection = Selection()
