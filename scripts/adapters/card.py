"""card.json: what a version is made of. Written once, when a run is registered.

format 1; name, version, created (UTC)
run          id, state, step, loss, seed, device; kind and start after preference training
base         name, revision, and the hashes that base_model/identity.py compares
adapter      rank, alpha, target modules, modules_to_save, parameters
chat_template_sha256, environment_lock_sha256, data (hashes and counts), config (effective)
evaluation   the numbers of report.json; gate: what they were compared with, and the outcome
files        {name: {sha256, bytes}} of every file of the version but card.json itself
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from adapters import card_schema, peft_config, weights
from base_model import chat_template, identity, locate
from config import yaml_reader
from kit import clock, console, json_files, paths
from transfer import card_files

FILE = card_files.CARD
MOST_BYTES = 4 << 20  # of a run's config.yaml
LOADING = ("model", "quantization")  # sections of a configuration that say how to load the base


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a run; {} where there is no such file, Problem where it is damaged."""
    try:
        return json_files.read(path)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise console.Problem(
            f"{paths.show(path)}: damaged ({error})", "copy the run again"
        ) from None


def read_facts(run: Path) -> dict[str, Any]:
    """run.json; Problem where what it says about the base cannot be read."""
    facts = read_json(run / "run.json")
    for key, kind in {"base_model": str, "base_revision": str, "base_identity": dict}.items():
        if not isinstance(facts.get(key), kind | None):
            file = paths.show(run / "run.json")
            raise console.Problem(f"{file}: {key} is damaged", "copy the run again")
    return facts


def read_config(run: Path) -> dict[str, Any]:
    """The run's effective config.yaml, without paths of this machine; {} if there is none."""
    file = run / "config.yaml"
    if not file.is_file():
        return {}
    try:
        text = file.read_text(encoding="utf-8") if file.stat().st_size <= MOST_BYTES else None
        value = yaml_reader.scalar(text) if text is not None else None
    except (ValueError, RecursionError):
        raise console.Problem(f"{paths.show(file)}: not YAML", "copy the run again") from None
    if text is None:
        raise console.Problem(f"{paths.show(file)}: too large", "copy the run again")
    value = {} if value is None else value
    if not isinstance(value, dict) or not all(isinstance(value.get(k, {}), dict) for k in LOADING):
        raise console.Problem(f"{paths.show(file)}: its sections are damaged", "copy the run again")
    return _portable(value)


def _portable(value: Any) -> Any:
    """`value` as JSON can hold it, with paths below the work folder made relative to it."""
    if isinstance(value, dict):
        return {_encodable(str(key)): _portable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [_portable(inner) for inner in value]
    if isinstance(value, str) and value.startswith("/"):
        return locate.relative(value) if Path(value).is_relative_to(paths.workdir()) else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, int | float | None) else _encodable(str(value))


def _encodable(text: str) -> str:
    """`text` with '?' for half a character, which YAML's escapes allow."""
    return text.encode("utf-8", "replace").decode("utf-8")


def build(run: Path, final: Path, evaluation: dict[str, Any] | None) -> dict[str, Any]:
    """A run's card, but for name, version, gate and files. Difference if final/ is not sound."""
    adapter = weights.inspect(final)
    config = adapter.config
    facts, status = read_facts(run), read_json(run / "status.json")
    template = checked_template(final, facts)
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        text = f"task_type {config['task_type']}: an adapter that writes no text (a reward model?)"
        fix = "register the run that answers; ppo_trainer.py takes a reward model's run itself"
        raise weights.Difference(peft_config.FILE, text, fix)
    return {
        "format": card_schema.FORMAT,
        "created": clock.timestamp(),
        "run": run_section(run, facts, status),
        "base": base_section(facts, config, adapter),
        "adapter": adapter_section(config, adapter),
        "chat_template_sha256": template,
        "environment_lock_sha256": facts.get("environment_lock_sha256"),
        "data": {
            "manifest_sha256": facts.get("data_manifest_sha256"),
            "train_sha256": facts.get("train_sha256"),
            "counts": facts.get("data"),
        },
        "config": read_config(run),
        "evaluation": evaluation,
    }


def checked_template(final: Path, facts: dict[str, Any]) -> str | None:
    """The chat template's hash; Difference if final/ has another one than the run trained with."""
    template = chat_template.sha256(chat_template.of_folder(final))
    trained_with = facts.get("chat_template_sha256")
    if template and trained_with and template != trained_with:
        raise weights.Difference(
            "chat_template.jinja",
            "not the template that the run trained with (run.json)",
            "restore final/ from the host",
        )
    return template or trained_with


def run_section(run: Path, facts: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    """Which run it was: the keys that the trainers wrote, none invented."""
    progress = {k: status[k] for k in ("state", "step", "epoch", "loss") if k in status}
    kept = ("kind", "seed", "device", "world_size", "start")
    return {"id": status.get("run_id") or run.name} | progress | {
        k: facts[k] for k in kept if facts.get(k) is not None}  # fmt: skip


def adapter_section(config: dict[str, Any], adapter: weights.Adapter) -> dict[str, Any]:
    """What the adapter is, from its configuration and its tensors."""
    keys = ("r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "bias")
    switches = {k: bool(config.get(k)) for k in ("use_dora", "use_rslora")}
    counted = {"max_rank": adapter.rank, "parameters": adapter.parameters}
    return {k: config.get(k) for k in keys} | switches | counted


def base_section(facts: dict, config: dict, adapter: weights.Adapter) -> dict[str, Any]:
    """Name, revision and identity of the base: as the run recorded it, or as found here."""
    name = facts.get("base_model") or config.get("base_model_name_or_path")
    if not name:
        fix = "write the base model's name into base_model_name_or_path"
        raise weights.Difference(peft_config.FILE, "names no base model", fix)
    revision = facts.get("base_revision") or config.get("revision")
    section = {"name": locate.relative(name), "revision": revision}
    section |= facts.get("base_identity") or {}
    here = locate.find(name, revision) or locate.find(section["name"], revision)
    if here:
        try:
            identity.check(section, here, "this run")
            weights.check_shapes(adapter, here)
            section = identity.identity(here) | section
        except weights.Difference as difference:
            if not identity.is_recorded(section):
                raise
            console.warn(f"{difference.file}: {difference.found}; the run's own record is kept")
        except console.Problem as problem:
            console.warn(f"the base model is not compared: {problem}")
    return section
