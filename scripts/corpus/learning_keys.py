"""Keys that change what is learned: each is obeyed, or its row is refused.

Marks of a turn or a row (`weight`, `train`, `loss`), labels of feedback (`label`, `kto_tag`),
pictures and sounds, multiple choice. Every other key that no format uses is only counted.
"""

from __future__ import annotations

from typing import Any

from base_model.rendered_rows import REASONING
from corpus.fields import Fields
from corpus.rows import BadRow, Unwanted

LABELS = ("label", "kto_tag", "kto_label", "desirable", "is_desirable")
MARKS = ("weight", "train", "loss", "trainable", "training", "calculate_loss", "compute_loss",
         "train_on_turn", "learn", "supervised", "is_trained", "should_train")  # fmt: skip
# true: not to be learned
MASKS = ("mask", "masked", "masked_loss", "no_train", "no_loss", "ignore", "ignore_loss",
         "is_masked")  # fmt: skip
_WEIGHTS = ("loss_mask", "loss_scale", "loss_weight", "loss_weights", "weights", "sample_weight",
            "token_weights", "turn_weights", "train_detail", "training_detail", "mask_history",
            "label_mask", "labels_mask", "completion_mask", "assistant_mask", "assistant_masks",
            "prompt_mask")  # fmt: skip
_PROMPT_TOO = ("train_on_input", "train_on_inputs", "train_on_prompt")
_MEDIA = ("image", "images", "image_path", "image_paths", "image_url", "image_urls", "image_file",
          "img", "pixel_values", "video", "videos", "video_path", "audio", "audios", "audio_path",
          "speech")  # fmt: skip
_CHOICES = ("choices", "options", "endings", "choice", "answer_choices", "mc1_targets")
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


def refuse(fields: Fields, format_name: str = "") -> None:
    """Raise BadRow for a key with a value that no format obeys and that changes what is learned."""
    for key in fields:
        where = f"{fields.name}{key}"
        if key in _MEDIA:
            raise BadRow("not text", f"{where} holds an image, a video or a sound")
        if key in _WEIGHTS or (key == "labels" and _are_token_ids(fields.peek(key))):
            raise BadRow("unknown weight", f"{where} weighs tokens; the loss takes whole turns")
        if key in _PROMPT_TOO and switch(fields.take(key)) is not False:
            raise BadRow("unknown weight", f"{where}: only the assistant's turns are learned")
    for key in fields.unused():
        multiple = key == "choices" or (key in _CHOICES and format_name != "messages")
        if multiple:
            raise BadRow("multiple choice", f"{key} is not in the prompt; write the choices there")
        if key == "history" or (key in REASONING and isinstance(fields.peek(key), str)
                                and " " in fields.peek(key)):  # fmt: skip
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
