"""One pydantic model per file in configs/. Unknown keys and wrong types are errors."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every section: no unknown keys, no silent conversion ('3' is not 3)."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())
