"""The one loader of tokenizers. Nothing of a model's folder is executed, nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from base_model import chat_template, locate
from kit import console, paths

FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json")
CONFIG = "tokenizer_config.json"


def is_there(folder: Path) -> bool:
    """Whether the folder holds a tokenizer."""
    return any((folder / name).is_file() for name in (*FILES, CONFIG))


def folder_of(name: str, revision: str | None = None) -> Path | None:
    """The folder of this machine that holds the tokenizer of `name`, None where none does."""
    return next((f for f in locate.folders(name, revision) if is_there(f)), None)


def load(folder: str | os.PathLike) -> Any:
    """The tokenizer of a folder as its files say. Problem where it cannot be loaded."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a folder needs nobody to be asked
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # the laptop has no torch, on purpose
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise console.Problem(
            f"{paths.show(folder)}: no tokenizer could be loaded ({_first_line(error)})",
            "download tokenizer.json and tokenizer_config.json again (docs/MODEL_DOWNLOAD.md)",
        ) from None
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise console.Problem(
            f"{paths.show(folder)}: a tokenizer without tokenizer.json",
            "add that file: training and serving need to know where each token lies in the text",
        )
    return tokenizer


def with_template(folder: str | os.PathLike, file: str | None = None) -> Any:
    """`load`, with the chat template of a Jinja file or its own. Problem where it has none."""
    tokenizer = load(folder)
    if file:
        tokenizer.chat_template = chat_template.read(file)
    if not tokenizer.chat_template:
        raise console.Problem(
            f"{paths.show(folder)}: its tokenizer has no chat template (a base model?)",
            "use the Instruct model, or give a Jinja file in model.chat_template",
        )
    return tokenizer


def configured(model) -> Any:
    """The tokenizer of a `model` section, ready to train: template, pad token, right padding."""
    name = model.model_name_or_path
    folder = folder_of(name, model.model_revision)
    if folder is None:
        raise console.Problem(
            f"{name}: no tokenizer there",
            "download tokenizer.json and tokenizer_config.json (docs/MODEL_DOWNLOAD.md)",
        )
    tokenizer = with_template(folder, model.chat_template)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = _unused_token(tokenizer)
    tokenizer.padding_side = "right"
    return tokenizer


def of_adapter(adapter: Path, base: Path) -> Any:
    """The adapter's own tokenizer where it has one, else its base's."""
    return load(adapter if (adapter / CONFIG).is_file() else base)


def longest(tokenizers: Iterable[Any]) -> int:
    """The number of rows that the embedding needs for these tokenizers."""
    return max((len(tokenizer) for tokenizer in tokenizers if tokenizer), default=0)


def _unused_token(tokenizer) -> str:
    """A pad token that is never trained as text: the family's own, else unk, else eos."""
    vocabulary = tokenizer.get_vocab()
    for token in ("<|finetune_right_pad_id|>", "<pad>", "<unk>"):
        if token in vocabulary:
            return token
    return tokenizer.eos_token


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
