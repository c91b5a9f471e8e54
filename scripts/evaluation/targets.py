"""Resolve --model: a run, an adapter folder, name@version, a model folder, a registry entry."""

from __future__ import annotations

import dataclasses
import difflib
import re
from pathlib import Path
from typing import Any

from base_model import locate
from config import yaml_reader
from kit import console, json_files, paths


@dataclasses.dataclass
class Target:
    """A model to evaluate. `adapter`: None for a whole model; `run`: gets the report too."""

    name: str
    model: Any  # a `model` section: model_name_or_path is the base, or the whole model
    quantization: Any
    adapter: Path | None = None
    run: Path | None = None
    compared_base: Any = None  # the `model` section of the base that a whole model is compared with
    identity: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the adapter's base


def resolve(named: str, base: str | None, settings) -> Target:
    """The Target for --model and --base. Problem or Misuse with the nearest name otherwise.

    A run's or version's own configuration says how the base is loaded; else `settings`, which
    is an EvalConfig.
    """
    folder = run_folder(named)
    if not folder.exists() and _is_version(named):
        return _adapter(*_version(named), base, settings)
    if (folder / locate.ADAPTER_CONFIG).is_file():
        return _adapter(_short(folder), folder, base, settings)
    if is_run(folder):
        if not (folder / "final" / locate.ADAPTER_CONFIG).is_file():
            raise console.Problem(
                f"{paths.show(folder)}: the run has no final adapter yet",
                f"finish it: lora_trainer.py --confirm-run --resume {folder.name}",
            )
        return _adapter(folder.resolve().name, folder / "final", base, settings)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise console.Problem(
            f"{named}: no adapter, run or model there",
            "an adapter has adapter_config.json, a run final/, a model config.json",
        )
    whole = folder if folder.is_dir() else _base_folder(named)
    target = Target(_short(whole), _section(str(whole), settings), settings.quantization)
    target.compared_base = _section(str(_base_folder(base)), settings) if base else None
    return target


def run_folder(named: str | Path) -> Path:
    """The folder that a path or a run's id means: here, below the work folder, among the runs."""
    given = Path(named).expanduser()
    candidates = (given, paths.workdir() / given, paths.folder("runs") / given)
    return next((folder for folder in candidates if folder.exists()), given)


def _is_version(named: str) -> bool:
    """Whether it is name@version, or the name alone of an adapter that has versions."""
    from adapters import names, version_store

    return "@" in named or bool(
        names.NAME.fullmatch(named) and version_store.versions(paths.folder("adapters"), named)
    )


def _version(reference: str) -> tuple[str, Path]:
    """(name@vX.Y.Z, its folder) of name@version, name@latest, name@^1.0; its files are verified."""
    from adapters import verification, version_store

    version = version_store.resolve(paths.folder("adapters"), reference)
    verification.check_files(version.folder, version.card)
    return version.reference, version.folder


def _base_folder(name: str) -> Path:
    """A base model's folder: a path, a name of configs/models.yaml, a hub name in the cache."""
    known = locate.known()
    folder = locate.find(name, known=known)
    if folder:
        return folder
    if name in known:
        raise console.Problem(
            f"the base model {name} is not on this machine", "docs/MODEL_DOWNLOAD.md gets it"
        )
    close = difflib.get_close_matches(name, known, 1, 0.4)
    raise console.Misuse(
        f"{name}: no such folder, and no model of configs/models.yaml",
        f"did you mean {close[0]}?" if close else "give a run, a model folder, or name@version",
    )


def _adapter(name: str, folder: Path, base: str | None, settings) -> Target:
    folder = folder.resolve()
    config = _json(folder / locate.ADAPTER_CONFIG)
    run = next((p for p in (folder.parent, folder.parent.parent) if is_run(p)), None)
    began = _training_config(folder, run)
    model = began.model if began else _section(_base_name(folder, config), settings)
    if base:
        where, revision = _base_folder(base), None
    else:
        where, revision = model.model_name_or_path, model.model_revision
    base_folder = locate.find(str(where), revision)
    if not base_folder:
        raise console.Problem(
            f"the base model of {name} is not on this machine ({where})",
            "download it (docs/MODEL_DOWNLOAD.md), or say where it lies with --base",
        )
    update = {"model_name_or_path": str(base_folder), "model_revision": None}
    model = model.model_copy(update=update)
    quantization = began.quantization if began else settings.quantization
    target = Target(name, model, quantization, folder, identity=_identity(folder, run, config))
    if run and folder.name == "final":  # a checkpoint's numbers are not the run's
        target.run = run
    return target


def is_run(folder: Path) -> bool:
    """Whether a trainer made that folder for a run."""
    return (folder / "status.json").is_file() and (folder / "config.yaml").is_file()


def _training_config(folder: Path, run: Path | None):
    """How the adapter's base was loaded: by the run's config.yaml, or the version's card.

    A TrainingConfig whose other sections are defaults: those of an RLHF run have other keys.
    """
    import pydantic

    from config.schemas.training import TrainingConfig

    if run:
        file = run / "config.yaml"
        values = _yaml(file)
    else:
        file = folder / "card.json"
        values = (_json(file) if file.is_file() else {}).get("config") or {}
    if not isinstance(values, dict):
        raise _damaged(file, "no sections in its configuration")
    known = {name: values[name] for name in ("model", "quantization") if name in values}
    try:
        return TrainingConfig.model_validate(known) if known else None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise _damaged(file, f"{key}: {first['msg']}") from None


def _identity(folder: Path, run: Path | None, config: dict[str, Any]) -> dict[str, Any]:
    """{"name", hashes} of the base that the adapter was trained on, {} where it is not recorded."""
    from base_model import identity

    if run and (run / "run.json").is_file():
        facts = _json(run / "run.json")
        return {"name": facts.get("base_model")} | _object(run / "run.json", facts, "base_identity")
    if (folder / "card.json").is_file():
        return _object(folder / "card.json", _json(folder / "card.json"), "base")
    trained_on = locate.find(_base_name(folder, config), config.get("revision"))
    return {"name": str(trained_on)} | identity.identity(trained_on) if trained_on else {}


def check_base(target: Target) -> None:
    """Refuse another base than the adapter was trained on, and an adapter that cannot be loaded.

    Nothing is loaded for that.
    """
    from adapters import effect, weights
    from base_model import identity

    if not target.adapter:
        return
    folder = Path(target.model.model_name_or_path)
    if target.identity:
        identity.check(target.identity, folder, target.name)
    adapter = weights.inspect(target.adapter)
    weights.check_shapes(adapter, folder)
    quantized = target.quantization.load_in_4bit or target.quantization.load_in_8bit
    effect.of(adapter).check_load(target.name, quantized)


def _section(where: str, settings):
    from config.schemas.training import ModelSection

    return ModelSection(model_name_or_path=where, **settings.model.model_dump())


def _short(folder: Path) -> str:
    """A name for reports: the run of final/ and checkpoint-N, else the folder's own."""
    folder = folder.resolve()
    if folder.name == "final":
        return folder.parent.name
    if folder.parent.name == "checkpoints":
        return f"{folder.parent.parent.name}-{folder.name}"
    if re.fullmatch(r"v\d+\.\d+\.\d+", folder.name):
        return f"{folder.parent.name}@{folder.name}"
    return folder.name


def _base_name(folder: Path, config: dict[str, Any]) -> str:
    """The base that a PEFT configuration names; Problem where it names none."""
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise _damaged(folder / locate.ADAPTER_CONFIG, "names no base model")
    return name


def _damaged(path: Path, what: str) -> console.Problem:
    return console.Problem(f"{paths.show(path)}: {what}", "restore that file")


def _json(path: Path) -> dict[str, Any]:
    try:
        return json_files.read(path)
    except ValueError as error:
        raise _damaged(path, str(error)) from None


def _object(path: Path, values: dict[str, Any], key: str) -> dict[str, Any]:
    """The object at `key` of a JSON file, {} where it is null or missing; Problem for others."""
    value = values.get(key) or {}
    if not isinstance(value, dict):
        raise _damaged(path, f"{key} is no object")
    return value


def _yaml(path: Path) -> Any:
    """The content of a YAML file; {} for an empty one."""
    import yaml

    try:
        return yaml_reader.scalar(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, ValueError):
        raise _damaged(path, "not YAML") from None


def tokenizer(target: Target):
    """The adapter's own tokenizer where it has one (with the template it was trained with)."""
    from base_model import tokenizer as tokenizers

    section = target.model
    if target.adapter and (target.adapter / "tokenizer_config.json").is_file():
        update = {"model_name_or_path": str(target.adapter), "model_revision": None}
        section = section.model_copy(update=update | {"chat_template": None})
    return tokenizers.configured(section)
