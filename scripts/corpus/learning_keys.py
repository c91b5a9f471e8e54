"""Keys that change what is learned: each is obeyed, or its row is refused.

Marks of a turn or a row (`weight`, `train`, `loss`), labels of feedback (`label`, `kto_tag`),
pictures and sounds, multiple choice. Every other key that no format uses is only counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from base_model.rendered_rows import REASONING
from corpus.fields import Fields
from corpus.rows import BadRow, Unwanted

LABELS = ("label", "kto_tag", "kto_label", "desirable", "is_desirable")
MARKS = ("weight", "train", "loss", "trainable", "training", "calculate_loss", "compute_loss",
         "train_on_turn", "train_on", "learn", "learnable", "supervised", "trained", "is_trained",
         "should_train", "do_train", "is_train", "train_turn", "use_for_training", "for_training",
         "is_loss", "has_loss", "in_loss", "include_in_loss")  # fmt: skip
# true: not to be learned
MASKS = ("mask", "masked", "masked_loss", "no_train", "no_loss", "ignore", "ignore_loss",
         "is_masked", "mask_out", "masking", "ignore_in_loss", "exclude_from_loss",
         "exclude_from_training", "do_not_train", "skip_training")  # fmt: skip
_WEIGHTS = ("loss_mask", "loss_scale", "loss_weight", "loss_weights", "weights", "sample_weight",
            "token_weights", "turn_weights", "train_detail", "training_detail", "mask_history",
            "label_mask", "labels_mask", "completion_mask", "assistant_mask", "assistant_masks",
            "prompt_mask", "loss_factor", "example_weight", "row_weight", "instance_weight",
            "importance_weight", "turn_weight", "message_weight", "masked_spans",
            "train_spans")  # fmt: skip
# within a key of a turn: it says what is learned
_OF_THE_LOSS = re.compile(
    r"(?:\A|_)(?:loss|train|trained|training|trainable|learn|masks?|masked|weights?)(?:_|\Z)"
)
_PROMPT_TOO = ("train_on_input", "train_on_inputs", "train_on_prompt")
_MEDIA = re.compile(
    r"(?:image|img|picture|photo|screenshot)s?(?:_(?:id|path|url|uri|file|name|filename|bytes|data|"
    r"base64|b64)s?)?|(?:video|audio)s?(?:_(?:path|file|filename|bytes|data|base64)s?)?|speech|"
    r"pixel_values|jpe?g|png|webp|wav|mp3|mp4|flac", re.I,
)  # fmt: skip
_SENSES = ("image", "image_url", "audio", "video")
_MEDIA_FILE = re.compile(
    r"\S+\.(?:jpe?g|png|gif|webp|bmp|tiff?|wav|mp3|flac|ogg|mp4|webm)",
    re.I,
)
_FILE_NAMES = ("file_name", "filename", "file", "path", "media", "attachment", "attachments")
_CHOICES = ("choices", "options", "endings", "choice", "answer_choices", "mc1_targets")
# a column for each choice: A B C, option_a, opa, choice1, ending0
_CHOICE_COLUMN = re.compile(
    r"(?:(option|choice|ending|alternative|opt|op|sol)[ _-]?([a-f0-6])|([A-F]))", re.I
)
_WORSE = ("rejected", "rejected_response", "rejected_responses", "rejected_answer",
          "non_preferred_output", "response_k")  # fmt: skip
_YES = frozenset({"true", "1", "1.0", "desirable"})
_NO = frozenset({"false", "0", "0.0", "undesirable"})


def switch(value: Any) -> bool | None:
    """True or False of a mark, as JSON or as a table writes it; None for another value."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return {0: False, 1: True}.get(value)
    text = value.strip().lower() if isinstance(value, str) else ""
    return True if text in _YES else False if text in _NO else None


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _are_token_ids(value: Any) -> bool:
    """Whether it is a list of whole numbers: what a loss compares with, not a row's topics."""
    return isinstance(value, list) and all(type(number) is int for number in value)


def learned(fields: Fields) -> bool:
    """Whether all marks of a turn or a row want it to be learned. Raises BadRow."""
    result = True
    for keys, wanted in ((MARKS, True), (MASKS, False)):
        for key in keys:
            if key not in fields:
                continue
            value = fields.take(key)
            state = switch(value)
            if state is None:
                raise BadRow("unknown weight", f"{fields.name}{key} is {str(value)[:40]!r}; "
                             "the loss takes 0 or 1, true or false")  # fmt: skip
            result = result and state == wanted
    return result


def _is_media(key: str, value: Any) -> bool:
    """Whether a picture, a sound or a video is under this key, or what says where it is."""
    if _MEDIA.fullmatch(key):
        return switch(value) is not False
    values = value if isinstance(value, list) else [value]
    for one in values[:3]:
        if isinstance(one, dict) and "bytes" in one and "path" in one:  # an Image of `datasets`
            return True
        text = one if isinstance(one, str) else ""
        file = key in _FILE_NAMES and _MEDIA_FILE.fullmatch(text)
        attached = key in _FILE_NAMES and isinstance(one, dict) and one.get("type") in _SENSES
        if file or attached or text.startswith(("data:image/", "data:audio/", "data:video/")):
            return True
    return False


def _choice_columns(keys: Iterable[str]) -> list[str]:
    """The columns that hold one choice each, where there are several in a row."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        if match := _CHOICE_COLUMN.fullmatch(key):
            if match[3] and not key.isupper():
                continue
            groups.setdefault((match[1] or "").lower(), []).append(key)
    least = {name: 3 if name == "" else 2 for name in groups}
    return next((keys for name, keys in groups.items() if len(keys) >= least[name]), [])


def _belongs_to_a_turn(key: str, value: Any, format_name: str) -> bool:
    """Whether a key of the record says what one of its turns lacks."""
    if key in REASONING:
        return isinstance(value, str) and " " in value
    return key == "history" or (key == "tool_calls" and format_name != "messages")


def _refuse_unknown_marks(turn: Fields) -> None:
    """Raise BadRow for a switch or number of a turn whose name speaks of the loss."""
    for key in turn.left() - {*MARKS, *MASKS}:
        if _OF_THE_LOSS.search(key) and isinstance(turn.peek(key), int | float):
            raise BadRow("unknown weight", f"{turn.name}{key} may say what is learned; the loss "
                         "knows weight, 0 or 1")  # fmt: skip


def refuse(fields: Fields, format_name: str = "") -> None:
    """Raise BadRow for a key with a value that no format obeys and that changes what is learned."""
    for key in fields:
        where = f"{fields.name}{key}"
        if _is_media(key, fields.peek(key)):
            raise BadRow("not text", f"{where} holds an image, a video or a sound")
        if key == "chat_template_kwargs":
            raise BadRow("a row's own template", f"{where}: one template writes all rows; put what "
                         "it sets into that template (model.chat_template)")  # fmt: skip
        if key in _WEIGHTS or (key == "labels" and _are_token_ids(fields.peek(key))):
            raise BadRow("unknown weight", f"{where} weighs tokens; the loss takes whole turns")
        if key in _PROMPT_TOO and switch(fields.take(key)) is not False:
            raise BadRow("unknown weight", f"{where}: only the assistant's turns are learned")
    columns = _choice_columns(fields.unused())
    if columns and format_name != "messages":
        listed = ", ".join(columns)
        raise BadRow("multiple choice", f"{listed} are not in the prompt; write the choices there")
    if fields.name:
        _refuse_unknown_marks(fields)
    for key in fields.unused():
        multiple = key == "choices" or (key in _CHOICES and format_name != "messages")
        if multiple:
            raise BadRow("multiple choice", f"{key} is not in the prompt; write the choices there")
        if _belongs_to_a_turn(key, fields.peek(key), format_name):
            raise BadRow("no place for " + key, f"this row's form has its turns, {key} beside them")
        if key in _WORSE:
            raise BadRow("no pair", f"{key} is a worse answer, and there is no better one")


def refuse_unwanted(fields: Fields) -> None:
    """Raise Unwanted for feedback that is negative, and for a row that has weight 0."""
    for key in LABELS:
        if key not in fields:
            continue
        value = fields.take(key)
        state = switch(value)
        if state is False:
            raise Unwanted("labelled undesirable")
        if state is None and (_is_number(value) or not isinstance(value, str)):
            raise BadRow("unknown label", f"{key} is {str(value)[:40]}, neither true nor false")
        if state is None:  # a text: the label of something else, which is not learned
            fields.inner.append(key)
    if not learned(fields):
        raise Unwanted("marked as not to be learned")
