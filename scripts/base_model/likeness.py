"""Which model a miniature imitates: its architecture, its chat template, its special tokens.

A folder on this machine gives all three. Of a model that is not here, the name gives the
architecture, and family_templates the rest; where the name says nothing, it is Llama.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from base_model import architectures, chat_template, description, family_templates, locate

FALLBACK = "llama"
_MISTRAL_LIKE = ("mistral", "mixtral", "mistral3", "ministral")
# how models are called -> the architecture of which they are
_NICKNAMES = {"phi4": "phi3", "phi35": "phi3", "phi3.5": "phi3", "codellama": "llama",
              "tinyllama": "llama", "smollm2": "llama", "yi": "llama", "vicuna": "llama",
              "zephyr": "mistral", "nemo": "mistral", "pythia": "gpt_neox"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Likeness:
    """A model to imitate. `note` says where it is not the one that was asked for."""

    model_type: str
    values: dict[str, Any]  # its config.json; {} for the defaults of its architecture
    template: str
    tokens: dict[str, Any]  # bos, eos, pad: a token each; all: every special token
    note: str = ""


def named(model_type: str, note: str = "") -> Likeness:
    """The likeness of an architecture with its defaults."""
    family = "mistral" if model_type in _MISTRAL_LIKE else model_type
    family = family if family in family_templates.CHAT_TEMPLATES else "mamba"
    template = family_templates.CHAT_TEMPLATES[family]
    tokens = family_templates.SPECIAL_TOKENS[family]
    return Likeness(model_type, {"model_type": model_type}, template, tokens, note)


def of(like: str | None, settings) -> Likeness:
    """What `like` names (an architecture, a model, a folder), else the configured model."""
    if like and architectures.causal_class(like):
        return named(like)
    model = settings.model
    name = like or model.model_name_or_path
    folder = locate.find(name)
    if folder is None:
        return _by_name(name)
    values = description.read_config(folder)
    plain = named(str(values.get("model_type", FALLBACK)))
    file = model.chat_template if not like else None
    template = chat_template.read(file) if file else chat_template.of_folder(folder)
    if not isinstance(template, str):
        return dataclasses.replace(plain, values=values)
    tokens = _special_tokens(folder, template)
    return Likeness(plain.model_type, values, template, tokens)


def _by_name(name: str) -> Likeness:
    """The architecture that a model's name contains, the longest one."""
    word = re.sub(r"[^a-z0-9]", "", name.rstrip("/").rpartition("/")[2].lower())
    known = {re.sub(r"[^a-z0-9]", "", kind): kind for kind in architectures.causal_types()}
    known |= {re.sub(r"[^a-z0-9]", "", nick): kind for nick, kind in _NICKNAMES.items()}
    matches = [short for short in known if len(short) > 1 and short in word]
    if matches:
        return named(known[max(matches, key=len)])
    return named(FALLBACK, f"{name} is not on this machine: the miniature is a {FALLBACK}")


def _special_tokens(folder: Path, template: str) -> dict[str, Any]:
    """The special tokens of a folder's tokenizer that its template or its configuration uses."""
    tokenizer = description.json_object(folder / "tokenizer.json") or {}
    config = description.json_object(folder / "tokenizer_config.json") or {}
    added = [t.get("content") for t in (config.get("added_tokens_decoder") or {}).values()]
    added += [t.get("content") for t in tokenizer.get("added_tokens", [])]
    roles = {name: _text(config.get(f"{name}_token")) for name in ("bos", "eos", "pad")}
    roles["eos"] = roles["eos"] or "<|endoftext|>"
    if roles["pad"] in (None, roles["eos"]):
        roles["pad"] = "<|pad|>"
    used = [t for t in added if isinstance(t, str) and t in template]
    every = dict.fromkeys([*filter(None, roles.values()), *used])
    return roles | {"all": tuple(every)}


def _text(token: Any) -> str | None:
    """A special token as its text; configurations hold texts or objects."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) and token else None
