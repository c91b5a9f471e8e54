"""What `make prove-gpu` measures: each step is a function of the sizes, and returns its facts.

Every step runs in a process of its own with TANDEM_WORKDIR set, and uses the kit's own commands:
the numbers are those of users. The large model has random weights (base_model/random_weights.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import subprocess
import sys
import time
from typing import Any

from base_model import locate, random_weights, tokenizer
from kit import console, jsonl, paths, publish
from training import run_folder
from training.memory import CUDA_CONTEXT
from workflow import timed_training

MINIATURE, LARGE = "models/miniature", "models/large"
ROWS, SHORT_ROWS = "data/processed/long.jsonl", "data/processed/train_sft.jsonl"

CITIES = ("Berlin", "Paris", "Oslo", "Rome", "Lima", "Cairo", "Quito", "Tokyo")
WEATHER = ("cold", "warm", "wet", "dry")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The model and the batch of a proof."""

    config: dict[str, Any]
    length: int
    batch: int
    accumulation: int
    steps: int
    resume_steps: int
    answer: int  # tokens of an answer where serving is measured
    clients: tuple[int, ...]
    wide: int  # of the layer whose 4-bit kernels are compared


_LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16",
          "tie_word_embeddings": False, "max_position_embeddings": 8192}  # fmt: skip
CARD = Sizes(
    _LLAMA | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
              "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256},
    length=2048, batch=4, accumulation=2, steps=5, resume_steps=120, answer=64,
    clients=(1, 8, 32), wide=4096,
)  # fmt: skip
SMALL = Sizes(
    _LLAMA | {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
              "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 4160},
    length=96, batch=2, accumulation=1, steps=4, resume_steps=12, answer=4,
    clients=(1, 4), wide=256,
)  # fmt: skip


def kit(script: str, *words: object) -> str:
    """Run a command of the kit; its stdout. Problem with its last line where it fails."""
    command = [sys.executable, str(paths.ROOT / "scripts" / script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    print(done.stderr, file=sys.stderr)
    if done.returncode:
        last = console.last_line(done.stderr, "no message")
        raise console.Problem(f"{script} ended with {done.returncode}: {last}")
    return done.stdout


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


# --- the steps ------------------------------------------------------------------------------------


def environment(sizes: Sizes) -> dict[str, Any]:
    """Versions, the card, and what check_gpu.py finds."""
    import importlib.metadata as installed

    import torch

    names = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes")
    facts: dict[str, Any] = {name: installed.version(name) for name in names}
    facts |= {"python": sys.version.split()[0], "cuda": torch.version.cuda}
    if has_gpu():
        properties = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info()
        facts |= {
            "card": properties.name, "memory_gb": round(total / 2**30, 2),
            "context_gb": round((total - free) / 2**30, 2),
            "capability": f"{properties.major}.{properties.minor}",
        }  # fmt: skip
    checks = json.loads(kit("check_gpu.py", "--allow-cpu", "--json"))["checks"]
    notes = [f"{c['name']}: {c['found']}" for c in checks if c["status"] in ("warn", "fail")]
    return facts | ({"check_gpu": notes[:4]} if notes else {})


def models(sizes: Sizes) -> dict[str, Any]:
    """Rows, a miniature trained on them, and the large model: random weights in a sparse file."""
    jsonl.write(paths.workdir() / SHORT_ROWS, [_short_row(number) for number in range(300)])
    kit("build_miniature.py", "--data", paths.workdir() / SHORT_ROWS,
        "--out", paths.workdir() / MINIATURE, "--steps", 60, "--json")  # fmt: skip
    source = paths.workdir() / "models" / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(paths.workdir() / MINIATURE, source,
                    ignore=shutil.ignore_patterns("*.safetensors"))  # fmt: skip
    ids = json.loads((source / "config.json").read_text(encoding="utf-8"))
    ids = {k: ids.get(k) for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    publish.json_file(source / "config.json", sizes.config | ids)
    facts = random_weights.write(source, paths.workdir() / LARGE)
    _write_long_rows(sizes)
    return {"parameters": facts["parameters"], "bytes": facts["bytes"]}


def _short_row(number: int) -> dict[str, Any]:
    """A question whose answer depends on the city alone: something that LoRA can learn."""
    city = number * 7 % len(CITIES)
    return {"messages": [
        {"role": "user", "content": f"Weather in {CITIES[city]} on day {number}?"},
        {"role": "assistant", "content": f"It is {WEATHER[city % len(WEATHER)]}."},
    ]}  # fmt: skip


def _write_long_rows(sizes: Sizes) -> None:
    """Rows of more than `length` tokens, which are cut to it: every token is trained."""
    tokenize = tokenizer.load(paths.workdir() / LARGE)
    one = len(tokenize(" cold" * 64, add_special_tokens=False)["input_ids"]) / 64
    answer = " cold" * math.ceil(sizes.length / one + 8)
    row = {"messages": [{"role": "user", "content": "How is it?"},
                        {"role": "assistant", "content": answer}]}  # fmt: skip
    jsonl.write(paths.workdir() / ROWS, [row] * (sizes.batch * sizes.accumulation * sizes.steps))


def kernels(sizes: Sizes) -> dict[str, Any]:
    """The 4-bit layer against its unpacked weight, for one row and for many."""
    import bitsandbytes as bnb
    import torch

    device = "cuda" if has_gpu() else "cpu"
    layer = bnb.nn.Linear4bit(sizes.wide, sizes.wide, bias=False, compute_dtype=torch.bfloat16,
                              quant_type="nf4").to(device)  # fmt: skip
    state = layer.weight.quant_state
    weight = bnb.functional.dequantize_4bit(layer.weight.data, state).to(torch.bfloat16)
    facts = {}
    for rows in (1, 8, 512):
        x = torch.randn(rows, sizes.wide, device=device, dtype=torch.bfloat16)
        with torch.no_grad():
            ours, plain = layer(x).float(), torch.nn.functional.linear(x, weight).float()
        off = float((ours - plain).norm() / plain.norm())
        if not off < 0.05:
            raise console.Problem(f"4-bit layer: {rows} rows are off by {off:.3g}")
        facts[f"rows_{rows}_off"] = round(off, 5)
    return facts


def resume(sizes: Sizes) -> dict[str, Any]:
    """Trained twice, and once killed and resumed: equal without and with deterministic kernels?"""
    facts: dict[str, Any] = {}
    for name, determined in (("usual", "false"), ("deterministic", "true")):
        changed = _short_training(sizes) | {"training.full_determinism": determined}
        words = timed_training.command("training_config.yaml", [], changed)
        runs = [f"{name}-one", f"{name}-two", f"{name}-killed"]
        _three_at_once(words, runs)
        timed_training.run_once([*words, "--resume", runs[2]], {}, time.monotonic() + 100)
        one, two, killed = (_adapter_hash(run) for run in runs)
        facts |= {f"{name}_same_twice": one == two, f"{name}_resume_same": one == killed,
                  f"{name}_seconds_per_step": timed_training.step_seconds(runs[0])}  # fmt: skip
    if not has_gpu() and not facts["usual_resume_same"]:
        raise console.Problem("a resumed run differs from an unbroken one")
    if not facts["deterministic_resume_same"]:
        raise console.Problem("full_determinism: a resumed run differs from an unbroken one")
    return facts


def _short_training(sizes: Sizes) -> dict[str, Any]:
    return _no_validation() | {
        "model.model_name_or_path": MINIATURE, "data.train_file": SHORT_ROWS,
        "training.max_length": 128, "training.max_steps": sizes.resume_steps,
        "training.save_steps": max(2, sizes.resume_steps // 4), "training.save_total_limit": 9,
        "training.gradient_accumulation_steps": 1, "training.learning_rate": 1e-3,
        "training.packing": "false",
    }  # fmt: skip


def _no_validation() -> dict[str, Any]:
    return {
        "safety.dry_run": "false", "safety.min_free_disk_gb": 0.1, "data.val_file": "null",
        "training.eval_strategy": "no", "training.load_best_model_at_end": "false",
        "training.early_stopping_patience": "null", "training.logging_steps": 1,
        "training.report_to": "none",
    }  # fmt: skip


def _three_at_once(words: list[str], runs: list[str]) -> None:
    """Train all three; KILL the last once it has a checkpoint. Problem where another fails."""
    trainers = [
        subprocess.Popen([*words, "--run-id", run], stdout=subprocess.DEVNULL, stderr=sys.stderr)
        for run in runs
    ]
    while trainers[2].poll() is None:
        if run_folder.last_checkpoint(paths.folder("runs") / runs[2]):
            trainers[2].kill()
        time.sleep(0.02)
    for run, trainer in zip(runs[:2], trainers[:2], strict=True):
        if trainer.wait():
            raise console.Problem(f"the training {run} ended with {trainer.returncode}")


def _adapter_hash(run: str) -> str:
    return publish.sha256(paths.folder("runs") / run / "final" / locate.ADAPTER_WEIGHTS)


def train_4bit(sizes: Sizes) -> dict[str, Any]:
    """QLoRA of the large model: memory against the estimate, and pace."""
    return _train_large(sizes, "large-4bit", {})


def train_bfloat16(sizes: Sizes) -> dict[str, Any]:
    """The same with a bfloat16 base."""
    return _train_large(sizes, "large-bfloat16", {"quantization.load_in_4bit": "false"})


def large_settings(sizes: Sizes) -> dict[str, Any]:
    """The settings of a training of the large model; LoRA and optimizer stay as configured."""
    return _no_validation() | {
        "model.model_name_or_path": LARGE, "data.train_file": ROWS,
        "training.max_length": sizes.length, "training.max_steps": sizes.steps,
        "training.per_device_train_batch_size": sizes.batch,
        "training.gradient_accumulation_steps": sizes.accumulation,
        "training.save_steps": 100000, "training.packing": "false",
    }  # fmt: skip


def _train_large(sizes: Sizes, run: str, changes: dict[str, Any]) -> dict[str, Any]:
    shutil.rmtree(paths.folder("runs") / run, ignore_errors=True)
    words = timed_training.command("training_config.yaml", [], large_settings(sizes) | changes)
    began = time.monotonic()
    timed_training.run_once([*words, "--run-id", run], {}, began + 300)
    facts: dict[str, Any] = {"seconds": round(time.monotonic() - began, 1)}
    memory = run_folder.read_facts(paths.folder("runs") / run).get("memory")
    if memory:
        need = memory["peak_reserved"] + CUDA_CONTEXT
        facts |= {"need_gb": round(need / 2**30, 2),
                  "estimated_gb": round(memory["estimated"] / 2**30, 2),
                  "estimated_over_need": round(memory["estimated"] / need, 3)}  # fmt: skip
    pace = timed_training.step_seconds(run)
    if pace:
        tokens = sizes.batch * sizes.accumulation * sizes.length
        facts |= {"seconds_per_step": round(pace, 3), "tokens_per_second": round(tokens / pace)}
    return facts


def full_card(sizes: Sizes) -> dict[str, Any]:
    """Another process holds the card but for 7 GB: the trainer's line, and the run's state."""
    run = "full-card"
    shutil.rmtree(paths.folder("runs") / run, ignore_errors=True)
    words = timed_training.command("training_config.yaml", [], large_settings(sizes))
    hold = [sys.executable, "-c", HOLD, "7"]
    with subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        done = subprocess.run([*words, "--run-id", run], capture_output=True, text=True)
        with contextlib.suppress(OSError):
            holder.stdin.close()
    last = console.last_line(done.stderr, "")
    state = run_folder.read_status(paths.folder("runs") / run)["state"]
    if done.returncode != 1 or "out of GPU memory" not in last or state != "failed":
        raise console.Problem(f"it ended with {done.returncode}, {state}: {last[:300]}")
    return {"line": last[:400], "state": state}


HOLD = """
import sys, torch
free, total = torch.cuda.mem_get_info()
held = torch.empty(max(0, free - int(sys.argv[1]) * 2**30), dtype=torch.uint8, device="cuda")
print("held", flush=True)
sys.stdin.read()
"""


def evaluate(sizes: Sizes) -> dict[str, Any]:
    """eval.py on the adapter of train_4bit and its base: seconds and losses."""
    out = paths.workdir() / "reports"
    began = time.monotonic()
    words = ["--model", paths.folder("runs") / "large-4bit", "--dataset", SHORT_ROWS]
    words += ["--max-samples", 8, "--max-new-tokens", sizes.answer, "--out-dir", out, "--json"]
    text = kit("eval.py", *words)
    report = json.loads(text.strip().splitlines()[-1])
    losses = {"loss": report["metrics"]["loss"]["value"]}
    if report.get("base"):
        losses["base_loss"] = report["base"]["loss"]["value"]
    if not all(math.isfinite(value) for value in losses.values()):
        raise console.Problem(f"the losses are not finite: {losses}")
    return {"seconds": round(time.monotonic() - began, 1), "rows": 8} | losses
