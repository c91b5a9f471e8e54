"""A base model against the settings of a run: what every plan asks before a GPU is paid for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from base_model import architectures, base_checks, description, lora_modules, tokenizer_checks
from base_model.description import Description
from kit import console
from kit.report import Check


def describe(settings) -> Description:
    """The configured base model. Problem where it is not on this machine."""
    return description.of(settings.model.model_name_or_path, settings.model.model_revision)


def checks(model: Description, settings) -> list[Check]:
    """One good line about the model, and what is wrong with it or does not fit the settings.

    Misuse with the right names where lora.* names modules that it has not.
    """
    lora_modules.check(model, settings.lora)
    made = base_checks.checks(model, settings.model.model_revision, settings.quantization)
    made += lora_modules.checks(model, settings.lora)
    made += attention(model, settings.model.attn_implementation)
    made += packing(model, getattr(settings, "training", None))
    text = f"{settings.model.model_name_or_path} ({model.model_type}"
    text += f", {base_checks.amount(model)})" if model.tensors else ")"
    return [Check("base model", "ok", text), *(c for c in made if c.status in ("warn", "fail"))]


def attention(model: Description, wanted: str) -> list[Check]:
    """flash_attention_2 in an architecture that has none; sdpa falls back by itself."""
    if wanted != "flash_attention_2" or architectures.attention(model.model_type, wanted):
        return []
    text, fix = f"{model.model_type} has no {wanted}", "set model.attn_implementation: sdpa"
    return [Check("attention", "fail", text, fix)]


def packing(model: Description, training) -> list[Check]:
    """Packed rows in an architecture where those of one sequence see each other."""
    packed = getattr(training, "packing", False)
    if not packed or architectures.keeps_packed_rows_apart(model.model_type) is not False:
        return []
    text = f"the rows of one sequence see each other in a {model.model_type} model"
    return [Check("packing", "fail", text, "set training.packing: false")]


def require(settings) -> Description:
    """The configured base model. Problem for the first check that fails."""
    model = describe(settings)
    refuse(checks(model, settings))
    return model


def refuse(checks: list[Check]) -> None:
    """Problem for the first check that fails."""
    for check in checks:
        if check.status == "fail":
            raise console.Problem(f"{check.name}: {check.found}", check.fix)


def of_tokenizer(words, model: Description) -> list[Check]:
    """What is wrong with the tokenizer, and what was repaired."""
    made = tokenizer_checks.checks(words, model)
    return [c for c in made if c.status != "ok" or c.found.startswith("repaired")]


def warn(words, folder: Path) -> None:
    """Warnings about the tokenizer that a model in `folder` is used with; nothing is refused."""
    for check in of_tokenizer(words, description.read(folder)):
        console.warn(f"{check.name}: {check.found}" + (f"; {check.fix}" if check.fix else ""))


def of_rows(largest: int, lengths: list[int], words, model: Description) -> list[Check]:
    """Encoded rows against the model: the largest token id, and the length of each row."""
    made = tokenizer_checks.ids(largest, words, model)
    most = model.context
    long = sum(length > most for length in lengths) if most else 0
    if long:
        text = f"{long} of {len(lengths)} rows are longer than the {most:,} positions of the base"
        fix = f"set training.max_length: {most}, or take a base with a longer context"
        status = "fail" if model.learned_positions else "warn"
        made.append(Check("context length", status, text, fix))
    return made


def of_control_tokens(rows_with: Counter[str]) -> list[Check]:
    """Texts of rows in which the tokenizer reads control tokens: {token: rows}."""
    if not rows_with:
        return []
    listed = ", ".join(f"{token} in {n} rows" for token, n in rows_with.most_common(5))
    text = f"the tokenizer reads a text as a control token: {listed}"
    fix = "leave those rows out, or write it otherwise there (a space within is enough)"
    return [Check("control tokens", "warn", text, fix)]


# Without these a row teaches nothing.
ESSENTIAL = ("leaves out text of the user", "leaves out text of the assistant")


def of_faults(faults: dict[str, int], rows: int) -> list[Check]:
    """What the chat template left out of rows or wrote twice; a failure where no row has its text.

    rows: how many were encoded.
    """
    fix = "use a template that writes it (model.chat_template), or leave it out of the rows"
    return [
        Check(
            "chat template",
            "fail" if fault in ESSENTIAL and count >= rows else "warn",
            f"{fault}: {count} of {rows} rows",
            fix,
        )
        for fault, count in sorted(faults.items())
    ]
