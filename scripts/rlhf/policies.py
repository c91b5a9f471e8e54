"""The models of a preference training: start adapter, policy, reward model; found and loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from base_model import identity as base_identity
from base_model import loading, locate, tokenizer
from config import loader, yaml_reader
from kit import console, paths, publish
from training import run_folder


def start_of(settings):
    """The evaluation.targets.Target of sft_model_path, None where it is null.

    Raises Problem if there is none, and Difference for an adapter of another base than
    model.model_name_or_path.
    """
    named = settings.sft_model_path
    if not named:
        return None
    from adapters import effect
    from evaluation import targets

    target = targets.resolve(named, settings.model.model_name_or_path, loader.schema_of("eval")())
    if target.adapter is None:
        raise console.Misuse(
            f"sft_model_path: {named} is a whole model, not an adapter",
            "name a run or name@version there, and the whole model in model.model_name_or_path",
        )
    if _peft(target.adapter).get("task_type") == "SEQ_CLS":
        raise console.Misuse(
            f"sft_model_path: {named} is a reward model", "name the run of an adapter that answers"
        )
    targets.check_base(target)
    effect.of(target.adapter).check_reference(named)
    return target


def with_base(settings, target):
    """The settings with the base model named: the one that `target` was trained on, or theirs."""
    name = settings.model.model_name_or_path
    if target is not None and not name:
        name = locate.relative(target.model.model_name_or_path)
    if not name:
        raise console.Misuse(
            "no base model is named", "set sft_model_path, or model.model_name_or_path"
        )
    model = settings.model.model_copy(update={"model_name_or_path": name})
    return settings.model_copy(update={"model": model})


def reward_run(named: str) -> Path:
    """The folder of a completed reward model's run: by id, by folder, or the latest one."""
    if named == "latest":
        return _latest_reward_run()
    folder = Path(named).expanduser()
    if not (folder / "status.json").is_file():
        folder = paths.folder("runs") / named
    if not (folder / "status.json").is_file():
        known = [run.name for run in _reward_runs()][-3:]
        raise console.Problem(
            f"reward_model_path: no run at {named}",
            f"reward models here: {', '.join(known) or 'none; python scripts/reward_model.py'}",
        )
    status = run_folder.read_status(folder)
    if status.get("kind") != "reward":
        raise console.Misuse(
            f"reward_model_path: the run {folder.name} is no reward model",
            "python scripts/reward_model.py trains one",
        )
    if status["state"] != "completed" or not (folder / "final").is_dir():
        raise console.Problem(
            f"the reward model {folder.name} is {status['state']}, not completed",
            f"finish it: reward_model.py --confirm-run --resume {folder.name}",
        )
    return folder


def _reward_runs() -> list[Path]:
    return [run for run, status in run_folder.read_all() if status.get("kind") == "reward"]


def _latest_reward_run() -> Path:
    for run in reversed(_reward_runs()):
        if run_folder.read_status(run)["state"] == "completed":
            return run
    raise console.Problem(
        "there is no completed reward model", "python scripts/reward_model.py trains one"
    )


def needs_reward_model(settings) -> bool:
    """Whether the algorithm scores answers with a reward model."""
    return settings.algorithm != "dpo" and "reward_model" in settings.reward_funcs


def reward_settings(run: Path):
    """The RlhfConfig that a reward model's run was trained with. Difference for another base."""
    text = (run / "config.yaml").read_text(encoding="utf-8")
    settings = loader.schema_of("rlhf").model_validate(yaml_reader.scalar(text))
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    base = locate.find(settings.model.model_name_or_path, settings.model.model_revision)
    if base and facts.get("base_identity"):
        wanted = {"name": facts["base_model"]} | facts["base_identity"]
        base_identity.check(wanted, base, f"the reward model {run.name}")
    return settings


def tokenizer_of(settings, target):
    """The start adapter's own tokenizer where it has one (with its template), else the base's."""
    from evaluation import targets

    if target is not None and not settings.model.chat_template:
        return targets.tokenizer(target)
    return tokenizer.configured(settings.model)


def load_policy(settings, target) -> Any:
    """The base, with the start adapter to train on where there is one."""
    base = loading.load_base(settings.model, settings.quantization)
    if target is None:
        return base
    return loading.attach(base, target.adapter, trainable=True)


def load_scoring_base(settings) -> Any:
    """The base with a new head of one number, in float32: updates of 1e-4 are lost in bfloat16."""
    model = loading.load_base(settings.model, settings.quantization, scores=True)
    model.score.float()
    model.score.register_forward_pre_hook(_to_type_of_weight)
    return model


def _to_type_of_weight(module, inputs):
    return (inputs[0].to(module.weight.dtype),)


def load_reward_model(run: Path, trainable: bool = False) -> tuple[Any, Any]:
    """(PEFT model with a head of one number, its tokenizer) of a reward model's run."""
    settings = reward_settings(run)
    base = load_scoring_base(settings)
    section = settings.model.model_copy(
        update={"model_name_or_path": str(run / "final"), "chat_template": None}
    )
    words = tokenizer.configured(section)
    base.config.pad_token_id = words.pad_token_id
    model = loading.attach(base, run / "final", trainable=trainable)
    return model if trainable else model.eval(), words


def check_same_tokens(policy, run: Path) -> None:
    """PPO gives the policy's token ids to the reward model: both must have one vocabulary."""
    settings = reward_settings(run)
    section = settings.model.model_copy(update={"model_name_or_path": str(run / "final")})
    if tokenizer.configured(section).get_vocab() != policy.get_vocab():
        raise console.Misuse(
            f"the reward model {run.name} has another tokenizer than the policy",
            "ppo needs one vocabulary; use rloo or grpo, or train the reward model on this base",
        )


def weights_hash(folder: Path | None) -> dict[str, str]:
    """{"sha256"} of an adapter's weights, {} without one."""
    return {"sha256": publish.sha256(folder / locate.ADAPTER_WEIGHTS)} if folder else {}


def _peft(folder: Path) -> dict[str, Any]:
    return json.loads((folder / locate.ADAPTER_CONFIG).read_text(encoding="utf-8"))
