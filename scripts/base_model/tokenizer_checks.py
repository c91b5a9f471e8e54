"""Whether a tokenizer is the one that its model was trained with, as checks.

Warnings of transformers are shown; text must survive encoding and decoding; ids must be rows of the
embedding; the token that ends an answer in the chat template must be one at which generation stops.
"""

from __future__ import annotations

from typing import Any

from base_model import chat_template, tokenizer
from base_model.description import Description
from kit import console
from kit.report import Check

SCRIPTS = {
    "accents": "Grüße, café, naïve, Škoda",
    "Greek": "Καλημέρα κόσμε",
    "Cyrillic": "Привет, как дела?",
    "Arabic": "مرحبا بالعالم",
    "Hindi": "नमस्ते दुनिया",
    "Chinese": "今天天气很好。",
    "Japanese": "こんにちは、元気ですか。",
    "Korean": "안녕하세요 세계",
    "emoji": "done 🎉 👍🏽",
    "tabs": "a\tb\n\tc",
}
AGAIN = "download tokenizer.json and tokenizer_config.json of the very model again"
_TURN = [{"role": "user", "content": "Question?"}, {"role": "assistant", "content": "Answer."}]


def checks(words, model: Description) -> list[Check]:
    """All checks of a loaded tokenizer against its model."""
    warnings, repairs = tokenizer.notes(words)
    made = [_warning(text) for text in warnings[:3]]
    made += [Check("text", "ok", f"repaired: {text}") for text in repairs]
    made += [*round_trip(words), *template(words), *rows(words, model), *end_token(words, model)]
    bad = [check for check in made if check.status in ("warn", "fail") or check in made[:1]]
    return bad or [Check("text", "ok", f"{len(words):,} tokens, text survives it")]


def _warning(text: str) -> Check:
    """A warning of transformers: about config.json where it says so, else about the tokenizer."""
    if text.startswith("Model config"):
        fix = "correct it in config.json, or download config.json of the very model again"
        return Check("config.json", "warn", _short(text), fix)
    return Check("text", "warn", _short(text), AGAIN)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:197]}..."


def round_trip(words) -> list[Check]:
    """Spaces, line breaks, digits and the scripts of the world after encode and decode."""
    if tokenizer.lost(words, tokenizer.PLAIN):
        try:
            ids = words(tokenizer.PLAIN, add_special_tokens=False)["input_ids"]
            text = f"comes back as {words.decode(ids)[:50]!r}: spaces, lines or digits are lost"
        except Exception as error:  # the Rust library raises plain Exceptions
            text = f"cannot be encoded ({_short(str(error))})"
        return [Check("text", "fail", f"text {text}", AGAIN)]
    missing = [name for name, text in SCRIPTS.items() if tokenizer.lost(words, text)]
    if missing:
        text = f"{', '.join(missing)}: text is lost in encoding and decoding"
        fix = "take another base model for such text; other text is not concerned"
        return [Check("text", "warn", text, fix)]
    return []


def rows(words, model: Description) -> list[Check]:
    """The special tokens have rows in the embedding. Other tokens may lie beyond: see `ids`."""
    count = model.rows
    special = {
        name: getattr(words, f"{name}_token_id") for name in ("bos", "eos", "pad", "unk")
        if getattr(words, f"{name}_token_id", None) is not None
    }  # fmt: skip
    beyond = [f"{name} {i}" for name, i in special.items() if count and i >= count]
    if not beyond:
        return []
    text = f"{', '.join(beyond)}: no such row, the embedding has {count:,}"
    return [Check("text", "fail", text, _FEWER)]


_FEWER = (
    "tokens were added to the tokenizer alone: take the tokenizer of this very model, or resize "
    "the model's embedding, train it and save both"
)


def ids(largest: int, words, model: Description) -> list[Check]:
    """The largest token id of encoded rows against the rows of the embedding."""
    count = model.rows
    if not count or largest < count:
        return []
    text = (
        f"the rows use token {largest} ({words.convert_ids_to_tokens(largest)}), "
        f"the embedding (vocabulary) has {count:,} rows"
    )
    return [Check("token ids", "fail", text, _FEWER)]


def stop_ids(words, model: Description) -> set[int]:
    """The ids that end generation: of generation_config.json, config.json and the tokenizer."""
    values: list[Any] = []
    for source in (model.generation, model.config):
        named = source.get("eos_token_id")
        values += named if isinstance(named, list) else [named]
    return {value for value in [*values, words.eos_token_id] if isinstance(value, int)}


def template(words) -> list[Check]:
    """Whether the chat template is one; that it refuses these turns is for the rows to show."""
    import jinja2

    if not words.chat_template:
        return []
    try:
        chat_template.render(words, _TURN)
    except Exception as error:  # transformers raises what it meets
        refuses = isinstance(error, jinja2.TemplateError)
        if refuses and not isinstance(error, jinja2.TemplateSyntaxError):
            return []
        fix = "download the tokenizer's files again, or set model.chat_template to a Jinja file"
        return [Check("chat template", "fail", f"not to be used ({_short(str(error))})", fix)]
    return []


def end_token(words, model: Description) -> list[Check]:
    """The token that the template writes after an answer is one at which generation stops."""
    if not words.chat_template:
        return []
    try:
        end = template_end(words)
    except console.Problem as problem:
        return [Check("chat template", "fail", problem.text, problem.remedy)]
    if end is None or end in stop_ids(words, model):
        return []
    token = words.convert_ids_to_tokens(end)
    stops = sorted(stop_ids(words, model))
    text = f"the chat template ends answers with {token} ({end}), generation stops at {stops}"
    fix = f'set "eos_token_id": {[*stops, end]} in {model.folder.name}/generation_config.json'
    return [Check("end token", "fail", text, fix)]


def template_end(words) -> int | None:
    """The id of the first special token after an answer, None where the template writes none.

    Problem where the template does not come to an end.
    """
    try:
        text = chat_template.render(words, _TURN)
    except console.Problem:
        raise
    except Exception:  # a template that wants other turns: rows will show
        return None
    after = text.rpartition(_TURN[1]["content"])[2]
    special = set(words.all_special_ids) | set(words.added_tokens_decoder)
    tail = words(after, add_special_tokens=False)["input_ids"]
    return next((i for i in tail if i in special), None)
