"""The chat template: its text, its hash, and conversations rendered with it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from base_model.time_limit import TookTooLong, time_limit
from kit import console

FILE = "chat_template.jinja"
SECONDS = 10  # a thousand times what a long conversation takes
MOST_LETTERS = 1 << 28
REMEDY = "name another one as model.chat_template"
MORE = "additional_chat_templates"  # templates by name, beside the default one


def render(tokenizer, messages, tools=None, prompt: bool = False) -> str:
    """The conversation as text; `prompt` adds the opening of the next assistant turn.

    A template is a program that came with the model: Problem where it does not come to an end
    within SECONDS, or writes more than MOST_LETTERS.
    """
    try:
        with time_limit(SECONDS):
            text = _applied(tokenizer, messages, tools, prompt)
    except TookTooLong:
        raise console.Problem(
            f"the chat template does not come to an end within {SECONDS} s", REMEDY
        ) from None
    except MemoryError:
        raise console.Problem("the chat template fills the memory", REMEDY) from None
    if len(text) > MOST_LETTERS:
        raise console.Problem(f"the chat template writes {len(text):,} letters", REMEDY)
    return text


def _applied(tokenizer, messages, tools, prompt: bool) -> str:
    """The template's text. A template that joins a call's arguments to its own text, as DeepSeek's
    does, gets them as JSON.
    """

    def apply(turns) -> str:
        return tokenizer.apply_chat_template(
            turns, tools=tools or None, tokenize=False, add_generation_prompt=prompt
        )

    try:
        return apply(messages)
    except TypeError:
        written = [_with_written_arguments(message) for message in messages]
        if written == messages:
            raise
        return apply(written)


def _with_written_arguments(message: dict[str, Any]) -> dict[str, Any]:
    """The message with the arguments of its tool calls as JSON text."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return message | {"tool_calls": [_written(call) for call in calls]}


def _written(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), dict):
        return call
    text = json.dumps(function["arguments"], ensure_ascii=False)
    return call | {"function": function | {"arguments": text}}


def of_folder(folder: Path) -> str | dict[str, str] | None:
    """The template in a tokenizer's folder: its text, {name: text} of several, None for none.

    Problem where tokenizer_config.json cannot be read.
    """
    file, more = folder / FILE, sorted((folder / MORE).glob("*.jinja"))
    if file.is_file() or more:
        named = {"default": file} if file.is_file() else {}
        named |= {path.stem: path for path in more}
        return canonical({name: path.read_text("utf-8") for name, path in named.items()})
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        return None
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
        return canonical(values.get("chat_template"))
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        raise console.Problem(
            f"{config}: not a tokenizer's configuration", "restore that file"
        ) from None


def canonical(template: Any) -> str | dict[str, str] | None:
    """One form of what transformers keeps as a text, a list of named texts, or a dict of them."""
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}
    if isinstance(template, dict) and list(template) == ["default"]:
        return template["default"]
    return template or None


def sha256(template: Any) -> str | None:
    """SHA-256 of a template: two runs with equal hashes saw the same format. None without one."""
    text = canonical(template)
    if text is None:
        return None
    text = text if isinstance(text, str) else json.dumps(text, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read(file: str | Path) -> str:
    """The text of model.chat_template. Misuse where the file cannot be read."""
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or console.first_line(error)
        raise console.Misuse(
            f"model.chat_template: {file} cannot be read ({why})",
            "name a Jinja file in UTF-8, or null for the tokenizer's own",
        ) from None
