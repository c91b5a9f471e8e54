"""Finished runs without torch, for tests of the adapters room: a small base and its LoRA, by numpy.

Shapes are a Llama's: hidden 64, two layers, q_proj and v_proj adapted with rank 4.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from pathlib import Path

HIDDEN, LAYERS, RANK = 64, 2, 4
MODULES = ("q_proj", "v_proj")


def weights_name(layer: int, module: str) -> str:
    return f"model.layers.{layer}.self_attn.{module}"


def base(folder: Path, seed: int = 0) -> Path:
    """A base model's folder: config.json and model.safetensors."""
    import numpy as np
    from safetensors.numpy import save_file

    dice = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{weights_name(i, m)}.weight" for i in range(LAYERS) for m in MODULES]
    tensors = {n: dice.standard_normal((HIDDEN, HIDDEN)).astype("float32") for n in names}
    save_file(tensors, folder / "model.safetensors")
    config = {"model_type": "llama", "hidden_size": HIDDEN, "num_hidden_layers": LAYERS}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def tensors(seed: int = 1, rank: int = RANK, scale: float = 0.02, dtype: str = "float32") -> dict:
    """{tensor name: array} of an adapter_model.safetensors."""
    import numpy as np

    dice = np.random.default_rng(seed)
    made = {}
    for layer in range(LAYERS):
        for module in MODULES:
            name = f"base_model.model.{weights_name(layer, module)}"
            made[f"{name}.lora_A.weight"] = dice.standard_normal((rank, HIDDEN)).astype(dtype)
            made[f"{name}.lora_B.weight"] = (dice.standard_normal((HIDDEN, rank)) * scale).astype(
                dtype
            )
    return made


def config(**changes) -> dict:
    """An adapter_config.json."""
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 8,
        "lora_dropout": 0.0, "target_modules": list(MODULES), "modules_to_save": None,
        "bias": "none", "base_model_name_or_path": "models/tiny", "revision": None,
    } | changes  # fmt: skip


def peft_folder(folder: Path, weights: dict | None = None, **changes) -> Path:
    """A PEFT folder as save_pretrained leaves it, with a tokenizer's template."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors() if weights is None else weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config(**changes)))
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def run(work: Path, run_id: str = "r1", weights: dict | None = None, *, state: str = "completed",
        facts: dict | None = None, report: dict | None = None, **changes) -> Path:  # fmt: skip
    """adapters/runs/<run_id> below `work`, completed, on the base models/tiny."""
    if not (work / "models" / "tiny").is_dir():
        base(work / "models" / "tiny")
    folder = work / "adapters" / "runs" / run_id
    peft_folder(folder / "final", weights, **changes)
    status = {"run_id": run_id, "state": state, "step": 20, "max_steps": 20, "loss": 0.5}
    (folder / "status.json").write_text(json.dumps(status))
    recorded = {"base_model": "models/tiny", "base_revision": "abc", "seed": 42,
                "train_sha256": "1" * 64, "environment_lock_sha256": "2" * 64}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(recorded | (facts or {})))
    (folder / "config.yaml").write_text("training:\n  learning_rate: 0.0002\n")
    if report:
        (folder / "report.json").write_text(json.dumps(report))
    return folder


def report(f1: float, width: float = 0.05, dataset: str = "d" * 64, base: float | None = None,
           **metrics: float) -> dict:  # fmt: skip
    """A report.json whose metrics have intervals of +- width."""

    def cell(value: float) -> dict:
        return {"value": value, "low": value - width, "high": value + width}

    return {
        "name": "r",
        "dataset": {"path": "data/processed/val_sft.jsonl", "sha256": dataset, "rows": 100},
        "metrics": {"f1": cell(f1)} | {name: cell(value) for name, value in metrics.items()},
        "base": None if base is None else {"f1": cell(base)},
        "rag": None,
    }


@dataclasses.dataclass
class Done:
    """What a command answered."""

    returncode: int
    stdout: str
    stderr: str


def caller(module: str, work: Path, monkeypatch, capsys):
    """call(*arguments, fails=0) -> Done: a command in this process, with `work` as work folder.

    Asserts the exit code, and that an error is one line.
    """
    import importlib

    from kit import console

    monkeypatch.setenv("TANDEM_WORKDIR", str(work))
    main = importlib.import_module(module).main

    def call(*arguments: object, fails: int = 0) -> Done:
        monkeypatch.setattr(sys, "argv", [f"{module}.py", *map(str, arguments)])
        before = signal.getsignal(signal.SIGTERM)
        capsys.readouterr()
        try:
            console.run(main)
        except SystemExit as ended:
            done = Done(ended.code, *capsys.readouterr())
        finally:
            signal.signal(signal.SIGTERM, before)
        assert done.returncode == fails, done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith(f"{module}.py: ")]
        assert len(errors) == (1 if fails else 0), done.stderr
        return done

    return call


def rewrite(file: Path, data: bytes | str) -> None:
    """Change a file of a version, which is read-only."""
    file.chmod(0o644)
    file.write_bytes(data.encode() if isinstance(data, str) else data)
