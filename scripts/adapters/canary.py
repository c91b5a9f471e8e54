"""Check that an adapter changes something: base and adapter answer the same fixed prompts.

An adapter can have every hash right and still do nothing: B·A is zero though B is not, or its
names match no module of the base, which PEFT only warns about. The logits decide.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapters import effect, load
from adapters.version_store import Version
from adapters.weights import FILE, Difference
from base_model import chat_template
from kit import clock, console, publish

PROMPTS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "Translate into German: Good morning.",
    "What is 12 plus 30?",
    "Name three uses of a paper clip.",
)
NOTHING = 1e-6  # relative change of the logits below which nothing has changed


def prompts_of(file: str | None) -> list[str]:
    """The prompts of a text file, one a line, or the fixed ones."""
    if file is None:
        return list(PROMPTS)
    lines = [line.strip() for line in Path(file).read_text(encoding="utf-8").split("\n")]
    lines = [line for line in lines if line]
    if not lines:
        raise console.Misuse(f"{file}: no prompts in it", "write one prompt a line")
    return lines


def canary(
    version: Version, prompts: list[str], tokens: int = 32, **loading: Any
) -> dict[str, Any]:
    """Compare base and adapter, write the result next to the version, and return it.

    Difference if the adapter changes nothing, or gives NaN. Answers are greedy, at most `tokens`.
    """
    model, tokenizer, _ = load.load(version, **loading)
    adapted = [_answer(model, tokenizer, prompt, tokens) for prompt in prompts]
    if effect.of(version.folder).base_changes:  # switched off, it would leave another model
        del model
        model = load.load_base(version, **loading)
        plain = [_answer(model, tokenizer, prompt, tokens) for prompt in prompts]
    else:
        with model.disable_adapter():
            plain = [_answer(model, tokenizer, prompt, tokens) for prompt in prompts]
    rows = [_compare(*three) for three in zip(prompts, adapted, plain, strict=True)]
    change = max(row["change"] for row in rows)
    finite = all(row["finite"] for row in rows)
    result = {
        "reference": version.reference,
        "ok": finite and change > NOTHING,
        "change": change,
        "different_answers": sum(row["base"] != row["adapter"] for row in rows),
        "when": clock.timestamp(),
        "prompts": rows,
    }
    publish.json_file(version.fact_file("canary"), result)
    if not finite:
        raise Difference(
            FILE, f"{version.reference} gives NaN or Inf", "train again, lower the rate"
        )
    if not result["ok"]:
        text = f"{version.reference} changes nothing: same logits as the base on every prompt"
        raise Difference(FILE, text, "look at the run's metrics.jsonl and target_modules")
    return result


def _answer(model, tokenizer, prompt: str, tokens: int) -> tuple[Any, str]:
    """(logits after the prompt, the greedy answer)."""
    import torch

    if tokenizer.chat_template:
        asked = [{"role": "user", "content": prompt}]
        text = chat_template.render(tokenizer, asked, prompt=True)
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    else:
        inputs = tokenizer(prompt, return_tensors="pt")
    ids = inputs["input_ids"].to(model.device)
    with torch.no_grad():
        logits = model(ids).logits[0, -1].float().cpu()
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens,
            do_sample=False, pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
        )  # fmt: skip
    return logits, tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def _compare(prompt: str, adapted: tuple[Any, str], plain: tuple[Any, str]) -> dict[str, Any]:
    """One prompt: both answers, and the relative change of the logits after it."""
    import torch

    (new, text), (old, before) = adapted, plain
    finite = bool(torch.isfinite(new).all())
    shared = min(len(new), len(old))  # a resized vocabulary has more
    change = float((new[:shared] - old[:shared]).norm() / old[:shared].norm()) if finite else 0.0
    return {"prompt": prompt, "base": before, "adapter": text, "change": change, "finite": finite}
