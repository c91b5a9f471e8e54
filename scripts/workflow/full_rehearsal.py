"""A rehearsal at full size, on the machine that trains: the real shape, rows, batch and length.

The model is made of config.json alone (base_model/random_weights.py). lora_trainer.py takes ten
steps of the longest rows; it is stopped after its first checkpoint and resumed, and evaluates at
the end. What was measured is compared with the estimate and scaled to the whole run. On a machine
without a GPU the stand-in of tests/phantom_gpu shows shapes, crashes and memory, but no times.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from base_model import description, locate, random_weights
from base_model import tokenizer as base_tokenizer
from kit import console, paths
from training import cards, encoding, plan, run_folder, step_time
from training.memory import CUDA_CONTEXT
from training.memory_advice import MemoryCase
from workflow import timed_training

STEPS, SAVE_EVERY = 10, 5
MODEL, ROWS, RUN = "models/random", "data/rehearsal", "full-rehearsal"
REFERENCE_TFLOPS = 100.0  # of a card whose rate is not known: it cancels out
PHANTOM = paths.ROOT / "tests" / "phantom_gpu" / "phantom.py"


@dataclasses.dataclass(frozen=True)
class Device:
    """What the rehearsal runs on; `env`: the variables that make it the device."""

    card: cards.Card
    stand_in: bool
    env: dict[str, str] = dataclasses.field(default_factory=dict)


def choose_device(gpu: str | None) -> Device:
    """The first GPU here, else the stand-in with the memory of the named card (80 GB).

    Problem where there is neither.
    """
    here, wrong = cards.look()
    if here:
        return Device(here[0], stand_in=False)
    for check in wrong:
        console.warn(f"{check.name}: {check.found}; {check.fix}")
    card = cards.named(gpu) if gpu else cards.Card("80 GB", 80, None)
    env = stand_in(card.gigabytes)
    return Device(card, stand_in=True, env=env)


def stand_in(gigabytes: float) -> dict[str, str]:
    """The variables of a stand-in card. Problem where it cannot be built."""
    words = [sys.executable, str(PHANTOM), "--gb", f"{gigabytes:g}"]
    why = "tests/phantom_gpu is not in this checkout"
    if PHANTOM.is_file():
        done = subprocess.run(words, capture_output=True, text=True)
        lines = (line.partition("=") for line in done.stdout.splitlines())
        if done.returncode == 0:
            return {name: value for name, _, value in lines}
        why = console.last_line(done.stderr, "it cannot be built")
        why = why.partition(": no stand-in GPU here: ")[2] or why
    raise console.Problem(
        f"there is no NVIDIA GPU here, and no stand-in for one: {why}",
        "name a host with a GPU (HOST=gpu1), or rehearse with the miniature (without FULL=1)",
    )


def find_source(settings, given: Path | None, homes: list[Path]) -> Path:
    """The folder with the config.json of the configured model: given, or where models are here."""
    name = settings.model.model_name_or_path
    places = [given, locate.find(name, settings.model.model_revision)]
    places += [home / name for home in homes]
    for place in places:
        if place and (place / "config.json").is_file():
            return place
    raise console.Problem(
        f"{name}: no config.json, from which the model would be made",
        f"its small files are enough, here or there: hf download {_repository(name)} "
        f"--include '*.json' --local-dir {name}",
    )


def _repository(name: str) -> str:
    """The hub's name of a configured model, as configs/models.yaml knows it."""
    known = locate.known()
    key = locate.key_of(name, known)
    return known[key]["repo"] if key else Path(name).name


# --- rows -----------------------------------------------------------------------------------------


def encoded_files(settings, tokenizer) -> dict[str, tuple[Path, encoding.EncodedRows]]:
    """{'train': …, 'validation': …}: each configured file and its encoded rows."""
    coded = plan.encode_all(settings, tokenizer)
    files = {"train": settings.data.train_file, "validation": settings.data.val_file}
    return {name: (plan.data_file(files[name]), rows) for name, rows in coded.items()}


def write_longest(source: Path, coded: encoding.EncodedRows, count: int, out: Path) -> list[int]:
    """Write the file's `count` longest rows, the longest first; their lengths in tokens."""
    order = sorted(zip(coded.lines, coded.rows, strict=True), key=lambda p: -len(p[1]["input_ids"]))
    chosen: dict[int, int] = {}
    for line, row in order:
        if len(chosen) < count:
            chosen.setdefault(line, len(row["input_ids"]))
    with source.open(encoding="utf-8") as file:
        texts = {n: text for n, text in enumerate(file, 1) if n in chosen}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(texts[n].rstrip("\n") + "\n" for n in chosen), encoding="utf-8")
    return list(chosen.values())


def trainer_settings(settings, validated: bool) -> dict[str, Any]:
    """What the rehearsal changes in the configuration; all that memory and speed see stays."""
    values = {
        "safety.dry_run": "false", "model.model_name_or_path": MODEL,
        "model.model_revision": "null", "data.train_file": f"{ROWS}/train.jsonl",
        "data.max_samples": "null", "data.val_file": f"{ROWS}/val.jsonl" if validated else "null",
        "training.max_steps": STEPS, "training.save_strategy": "steps",
        "training.save_steps": SAVE_EVERY, "training.logging_steps": 1,
        "training.eval_strategy": "steps" if validated else "no", "training.eval_steps": STEPS,
        "training.load_best_model_at_end": "false", "training.early_stopping_patience": "null",
        "training.report_to": "none",
    }  # fmt: skip
    smaller = min(settings.safety.min_free_disk_gb, 1.0)
    return values | {"safety.min_free_disk_gb": smaller}


# --- all of it ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a rehearsal needs to know: the configuration, and where its model may be."""

    settings: Any
    config: str
    overrides: list[str]
    source: Path | None = None
    homes: tuple[Path, ...] = ()
    gpu: str | None = None
    seconds: float = 900


def rehearse(inputs: Inputs) -> dict[str, Any]:
    """Make the model, train ten steps, resume: the facts of all that. Problem where it fails."""
    settings = inputs.settings
    device = choose_device(inputs.gpu)
    source = find_source(settings, inputs.source, list(inputs.homes))
    model = random_weights.write(source, paths.workdir() / MODEL)
    shown = settings.model.model_copy(update={"model_name_or_path": MODEL, "model_revision": None})
    files = encoded_files(settings, base_tokenizer.configured(shown))
    lengths = write_rows(settings.training, files)
    shutil.rmtree(paths.folder("runs") / RUN, ignore_errors=True)
    changed = trainer_settings(settings, "validation" in files)
    words = timed_training.command(inputs.config, inputs.overrides, changed)
    trained = timed_training.train_stop_resume(words, RUN, device.env, inputs.seconds)
    facts = {
        "card": device.card.name, "stand_in": device.stand_in, "model": model,
        "source": str(source), "rows": len(lengths), "longest": max(lengths), "steps": STEPS,
        "max_length": settings.training.max_length,
    }  # fmt: skip
    case = plan.supervised_case(description.read(paths.workdir() / MODEL), settings)
    run = run_folder.read_facts(paths.folder("runs") / RUN)
    facts |= trained | memory_facts(run, case, max(lengths))
    return facts | time_facts(case.model, settings, files["train"][1], lengths, device)


def write_rows(training, files: dict[str, tuple[Path, encoding.EncodedRows]]) -> list[int]:
    """The rows of ten steps and of one short evaluation, the longest; the steps' lengths."""
    folder = paths.workdir() / ROWS
    if "validation" in files:
        few = 2 * training.per_device_eval_batch_size
        write_longest(*files["validation"], few, folder / "val.jsonl")
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
    return write_longest(*files["train"], STEPS * batch, folder / "train.jsonl")


def memory_facts(run: dict[str, Any], case: MemoryCase, longest: int) -> dict[str, Any]:
    """{"memory": bytes that were measured, and estimated for the longest row}; {} without CUDA."""
    measured = run.get("memory")
    if not measured:
        return {}
    need = measured["peak_reserved"] + CUDA_CONTEXT
    estimated = case.with_work(length=longest).estimate.total
    return {"memory": measured | {"need": need, "estimated_longest": estimated}}


def time_facts(sizes, settings, coded, lengths: list[int], device: Device) -> dict[str, Any]:
    """Steps and seconds of the whole run: estimated, and scaled to what was measured.

    The ten steps' time over their estimate is taken for the whole run's, whose rows are known.
    """
    t = settings.training
    rate = device.card.tflops or REFERENCE_TFLOPS
    share = coded.supervised / max(coded.tokens, 1)
    every = [len(row["input_ids"]) for row in coded.rows]
    epoch, _ = step_time.epoch_seconds(sizes, settings, every, share, rate)
    steps, epoch_steps = plan.steps(plan.trained_rows(coded, t), t)
    whole = epoch * steps / epoch_steps
    facts: dict[str, Any] = {"whole_steps": steps}
    if device.card.tflops:
        facts["estimated_seconds"] = whole
    if device.stand_in:
        return facts
    seconds = timed_training.step_seconds(RUN)
    if not seconds:
        return facts
    ten, _ = step_time.epoch_seconds(sizes, settings, lengths, share, rate)
    batches = math.ceil(len(lengths) / (t.per_device_train_batch_size))
    steps_here = max(1, math.ceil(batches / t.gradient_accumulation_steps))
    expected = ten / steps_here
    tokens = sum(lengths) / steps_here
    return facts | {
        "seconds_per_step": seconds, "tokens_per_second": tokens / seconds,
        "whole_seconds": whole * seconds / expected,
    }  # fmt: skip
