"""What to change where a training needs more memory than a card has, in the order of what it saves.

A MemoryCase is everything that the estimate depends on; a change makes another case of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from kit import console
from kit.report import Check
from training import cards, memory
from training.cards import Card
from training.memory import DPO, REWARD, MemoryEstimate, Workload
from training.model_shape import ModelShape


@dataclasses.dataclass(frozen=True)
class MemoryCase:
    """A model's shape (or config.json), the settings that decide memory, and one micro-batch."""

    model: ModelShape | dict[str, Any]
    settings: Any
    work: Workload
    length_key: str = "training.max_length"

    @property
    def estimate(self) -> MemoryEstimate:
        return memory.estimate(self.model, self.settings, self.work)

    def with_work(self, **changes: Any) -> MemoryCase:
        return dataclasses.replace(self, work=dataclasses.replace(self.work, **changes))

    def with_section(self, section: str, **changes: Any) -> MemoryCase:
        s = self.settings
        parts = {name: getattr(s, name) for name in ("model", "lora", "quantization", "training")}
        parts[section] = parts[section].model_copy(update=changes)
        return dataclasses.replace(self, settings=SimpleNamespace(**parts))


def changes(case: MemoryCase) -> Iterator[tuple[str, MemoryCase]]:
    """(words, the case after it) of every single change, what costs least first."""
    t, q, lora = case.settings.training, case.settings.quantization, case.settings.lora
    per_row = 2 if case.work.kind in (DPO, REWARD) else 1
    batch = case.work.rows // per_row
    if batch > 1:
        half = batch // 2
        steps = t.gradient_accumulation_steps * t.per_device_train_batch_size // half
        words = f"training.per_device_train_batch_size={half} with gradient_accumulation_steps"
        yield f"{words}={steps} (the same result)", case.with_work(rows=half * per_row)
    if not t.gradient_checkpointing and not getattr(t, "fsdp", False):
        yield ("training.gradient_checkpointing=true (about 30 % slower)",
               case.with_section("training", gradient_checkpointing=True))  # fmt: skip
    if "8bit" not in t.optim:
        yield ("training.optim=paged_adamw_8bit",
               case.with_section("training", optim="paged_adamw_8bit"))  # fmt: skip
    if lora.lora_dropout:
        yield "lora.lora_dropout=0", case.with_section("lora", lora_dropout=0.0)
    if not q.load_in_4bit:
        four_bits = case.with_section("quantization", load_in_4bit=True, load_in_8bit=False)
        first = "load_in_8bit=false and quantization." if q.load_in_8bit else ""
        yield f"quantization.{first}load_in_4bit=true (a third slower)", four_bits
    if case.work.length >= 512:
        half = case.work.length // 2
        answer = min(case.work.answer, half // 2)
        yield (f"{case.length_key}={half} (longer rows are cut)",
               case.with_work(length=half, answer=answer))  # fmt: skip
    if lora.r > 8:
        yield f"lora.r={lora.r // 2}", case.with_section("lora", r=lora.r // 2)


def remedies(case: MemoryCase) -> list[str]:
    """Every change that saves memory, the largest saving first."""
    now = case.estimate.total
    saved = [(now - after.estimate.total, words) for words, after in changes(case)]
    saved = sorted((s for s in saved if s[0] > now / 200), reverse=True)
    return [f"{words} saves {console.size(saving)}" for saving, words in saved]


def smallest_change(case: MemoryCase, card: Card) -> str:
    """The least that must change so that the case fits a card; where nothing helps, what does."""
    words, smallest = _made_to_fit(case, card)
    return words or _elsewhere(case, smallest)


def _made_to_fit(case: MemoryCase, card: Card) -> tuple[str, MemoryCase]:
    """(the changes that make the case fit, '' where none do; the case after them)."""
    taken: list[str] = []
    for _ in range(12):
        options = list(changes(case))
        for words, after in options:
            if card.verdict(after.estimate.total) == "fits":
                return " and ".join(_last_of_each([*taken, words])), after
        saving = [(words, after) for words, after in options
                  if after.estimate.total < case.estimate.total * 0.99]  # fmt: skip
        if not saving:
            break
        words, case = saving[0]
        taken.append(words)
    return "", case


def _elsewhere(case: MemoryCase, smallest: MemoryCase) -> str:
    """Where a case fits that stays too large for a card with every change made (smallest)."""
    for wanted, less in ((case, ""), (smallest, " and less a step (--gpu names the changes)")):
        needed = wanted.estimate.total
        larger = [card for card in cards.KNOWN if card.verdict(needed) == "fits"]
        if larger:
            name = min(larger, key=lambda card: card.gigabytes).name
            return (
                "nothing in the configuration is enough: take a smaller model or a larger card, "
                f"such as {name}{less}"
            )
    if case.work.kind != memory.SUPERVISED:
        return "no known card is large enough: take a smaller model"
    return (
        "no known card is large enough: take a smaller model, or spread it over several: "
        "--config training_config_fsdp.yaml --set quantization.load_in_4bit=false --gpus all"
    )


def too_large_for_all(case: MemoryCase) -> list[Check]:
    """A failed check where no known card can hold the case, whatever is changed; else []."""
    largest = max(cards.KNOWN, key=lambda card: card.gigabytes)
    if largest.verdict(case.estimate.total) != "does not fit":
        return []
    words, smallest = _made_to_fit(case, largest)
    fact = f"{console.size(case.estimate.total)} (estimate): more than any known card has"
    fix = words or _elsewhere(case, smallest)
    return [Check("memory", "fail", f"{fact} ({largest.name})", fix)]


def _last_of_each(words: list[str]) -> list[str]:
    """One change a key: halving a batch twice is one change to a quarter."""
    return list({text.partition("=")[0]: text for text in words}.values())


def card_check(case: MemoryCase, card: Card) -> Check:
    """Whether the case fits a card: ok, warn where it is tight, fail with the smallest change."""
    needed, name = case.estimate.total, f"memory, {card.name}"
    capacity = f"{card.gigabytes:.0f} GB"
    if card.used > (1 << 30):
        capacity += f", of which {console.size(card.used)} in use by other programs"
    fact = f"{console.size(needed)} of {capacity} (estimate)"
    verdict = card.verdict(needed)
    if verdict == "fits":
        return Check(name, "ok", f"fits: {fact}")
    fix = smallest_change(case, card)
    return Check(name, "warn" if verdict == "tight" else "fail", f"{verdict}: {fact}", fix)
