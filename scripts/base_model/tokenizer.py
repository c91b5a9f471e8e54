"""The one loader of tokenizers. Nothing of a model's folder is executed, nothing is downloaded.

transformers repairs some tokenizers by their hub name alone, and warns of others by the model's
type alone. Here the tokenizer itself decides: one that loses spaces with the class that its
configuration names is loaded from tokenizer.json as it is, and Mistral's incorrect regular
expression is replaced where it is in use.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from base_model import chat_template, locate
from kit import console, paths

FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json")
CONFIG = "tokenizer_config.json"
_BRACKETED = re.compile(r"<[^\s<>]{1,60}>|\[[^\s\[\]]{1,60}\]")  # <s>, <|im_end|>, [INST]
_OF_ANSWERS = re.compile(r"think|reason|tool|python_tag", re.I)
PLAIN = "def f(x):\n    return x + 1234567890  # two  spaces\n\nEnd."


def is_there(folder: Path) -> bool:
    """Whether the folder holds a tokenizer."""
    return any((folder / name).is_file() for name in (*FILES, CONFIG))


def folder_of(name: str, revision: str | None = None) -> Path | None:
    """The folder of this machine that holds the tokenizer of `name`, None where none does."""
    return next((f for f in locate.folders(name, revision) if is_there(f)), None)


def load(folder: str | os.PathLike) -> Any:
    """The tokenizer of a folder as its files say. Problem where it cannot be loaded.

    What transformers warned of, and what was repaired, is in `notes(tokenizer)`.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a folder needs nobody to be asked
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # the laptop has no torch, on purpose
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer, warnings = _from_pretrained(AutoTokenizer, folder)
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise console.Problem(
            f"{paths.show(folder)}: a tokenizer without tokenizer.json",
            "add that file: training and serving need to know where each token lies in the text",
        )
    repairs = []
    if lost(tokenizer, PLAIN) and (Path(folder) / FILES[0]).is_file():
        direct, _ = _from_pretrained(PreTrainedTokenizerFast, folder)
        if not lost(direct, PLAIN):
            repairs.append(f"{type(tokenizer).__name__} loses spaces: tokenizer.json is used as is")
            tokenizer = direct
    regex = [text for text in warnings if "incorrect regex" in text]
    if regex and _splits_by_regex(tokenizer):
        tokenizer, _ = _from_pretrained(AutoTokenizer, folder, fix_mistral_regex=True)
        repairs.append("Mistral's incorrect regular expression is replaced")
    tokenizer.tandem_notes = [w for w in warnings if w not in regex], repairs
    return tokenizer


def notes(tokenizer) -> tuple[list[str], list[str]]:
    """(the warnings of transformers, what was repaired) from when it was loaded."""
    return getattr(tokenizer, "tandem_notes", ([], []))


def _from_pretrained(kind, folder: str | os.PathLike, **more: Any) -> tuple[Any, list[str]]:
    """(the tokenizer, the warnings that came with it)."""
    with _collected_warnings() as warnings:
        try:
            made = kind.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, **more
            )
        except Exception as error:  # the Rust library raises plain Exceptions for a broken file
            raise console.Problem(
                f"{paths.show(folder)}: no tokenizer could be loaded ({console.first_line(error)})",
                "download tokenizer.json and tokenizer_config.json again (docs/MODEL_DOWNLOAD.md)",
            ) from None
    return made, warnings


@contextlib.contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """The texts that transformers logs as warnings inside the block, instead of printing them.

    It reads config.json on the way: what it says of rotary positions is no word on the tokenizer,
    and comes with Phi-3's and Llama 4's own files.
    """
    texts: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not record.name.endswith("rope_utils"):
                texts.append(record.getMessage().strip())

    logger = logging.getLogger("transformers")
    handlers, level, propagates = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [Collector()], False
    logger.setLevel(logging.WARNING)
    try:
        yield texts
    finally:
        logger.handlers, logger.propagate = handlers, propagates
        logger.setLevel(level)


def lost(tokenizer, text: str) -> bool:
    """Whether the text is another one after encoding and decoding (a leading space apart).

    It is lost, too, where it cannot be encoded: WordPiece without its [UNK].
    """
    try:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        again = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    except Exception:  # the Rust library raises plain Exceptions
        return True
    return again.removeprefix(" ") != text


def _splits_by_regex(tokenizer) -> bool:
    """Whether a byte-level tokenizer splits by a pattern, as Mistral's Tekken does.

    transformers warns of every folder of type mistral; SentencePiece-like ones have no pattern,
    and what it would put in place of theirs breaks them.
    """
    state = tokenizer.backend_tokenizer.pre_tokenizer
    steps = json.loads(state.__getstate__()) if state is not None else {}
    kinds = [step.get("type") for step in steps.get("pretokenizers", [])]
    return kinds[:1] == ["Split"] and "ByteLevel" in kinds


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


def control_tokens(tokenizer) -> Callable[[str], set[str]]:
    """A function that finds what this tokenizer reads as a control token inside a text.

    Tokens around reasoning and tool calls are not meant: answers bring them with good reason.
    """
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    words = {word for word in added if not _OF_ANSWERS.search(word)}
    others = [word for word in words if not _BRACKETED.fullmatch(word)]

    def tokens_of(text: str) -> set[str]:
        bracketed = words.intersection(_BRACKETED.findall(text))
        return bracketed | {word for word in others if word in text}

    return tokens_of


def special_tokens_sha256(tokenizer) -> str:
    """SHA-256 of the special and the added tokens as they were loaded.

    tokenizer_config.json decides them, and its other keys change no text: the file's own hash
    would differ for a new chat template, which is recorded apart.
    """
    fields = ("content", "special", "lstrip", "rstrip", "normalized", "single_word")
    added = {i: [getattr(t, f) for f in fields] for i, t in tokenizer.added_tokens_decoder.items()}
    values = [tokenizer.special_tokens_map, sorted(added.items())]
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def of_adapter(adapter: Path, base: Path) -> Any:
    """The adapter's own tokenizer where it has one, else its base's."""
    return load(adapter if (adapter / CONFIG).is_file() else base)


def _unused_token(tokenizer) -> str:
    """A pad token that is never trained as text: the family's own, else unk, else eos."""
    vocabulary = tokenizer.get_vocab()
    for token in ("<|finetune_right_pad_id|>", "<pad>", "<unk>", tokenizer.eos_token):
        if token in vocabulary:
            return token
    raise console.Problem(
        f"{tokenizer.name_or_path}: its tokenizer has no end token and none to pad with",
        "set eos_token in its tokenizer_config.json to the token that ends an answer",
    )
