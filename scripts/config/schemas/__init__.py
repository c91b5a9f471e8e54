"""One pydantic model per file in configs/. Unknown keys and wrong types are errors."""

from __future__ import annotations

import typing
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]

WORDS = {"yes": True, "on": True, "no": False, "off": False}  # YAML 1.1's words for booleans


class Section(BaseModel):
    """Base of every section: no unknown keys, no silent conversion ('3' is not 3)."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _words_mean_booleans(cls, values: Any) -> Any:
        """`packing: no` is false; where a word is wanted (`eval_strategy: no`) it stays a word."""
        if not isinstance(values, dict):
            return values
        return {
            name: WORDS.get(value.lower(), value)
            if isinstance(value, str) and cls._takes_a_boolean(name)
            else value
            for name, value in values.items()
        }

    @classmethod
    def _takes_a_boolean(cls, name: str) -> bool:
        field = cls.model_fields.get(name)
        return field is not None and bool in (field.annotation, *typing.get_args(field.annotation))
