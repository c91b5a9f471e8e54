#!/usr/bin/env python3
"""Stand-in for scripts/lora_trainer.py in tests of jobs: its run folder, flags and codes, no torch.

Tests copy it over a host's scripts/lora_trainer.py. Every step hashes the one before it, so a step
that is lost or made twice gives another adapter. The file `hold` in the checkout names where the
next training waits (`loading`, `step 23`, `saving 20`, `evaluating 20`, `final`) until that file
is gone or a signal comes; it writes the place into `held` while it waits there. With a file `deaf`
in the checkout no signal ends its wait.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from kit import console, paths
from training import run_folder, run_lock

SAVE_EVERY = 10
RECEIVED: list[int] = []


def wait_while_held(place: str) -> None:
    """Wait while the file `hold` names this place."""
    hold, held, deaf = Path("hold"), Path("held"), Path("deaf")
    while hold.exists() and hold.read_text().strip() == place:
        if RECEIVED and not deaf.exists():
            break
        held.write_text(place)
        time.sleep(0.01)
    held.unlink(missing_ok=True)


def write_adapter(folder: Path, value: bytes) -> None:
    """A small, valid safetensors file and its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 16}\n')
    head = json.dumps({"x": {"dtype": "U8", "shape": [32], "data_offsets": [0, 32]}}).encode()
    data = len(head).to_bytes(8, "little") + head + value
    (folder / "adapter_model.safetensors").write_bytes(data)


def save(run: Path, step: int, value: bytes) -> None:
    """A checkpoint; trainer_state.json comes last, as the real trainer writes it."""
    folder = run / "checkpoints" / f"checkpoint-{step}"
    write_adapter(folder, value)
    wait_while_held(f"saving {step}")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))


def restore(run: Path) -> tuple[int, bytes]:
    """The step and the value of the newest whole checkpoint; (0, 32 zero bytes) without one."""
    checkpoint = run_folder.last_checkpoint(run)
    if checkpoint is None:
        return 0, bytes(32)
    value = (checkpoint / "adapter_model.safetensors").read_bytes()[-32:]
    return int(checkpoint.name.rpartition("-")[2]), value


def train(run: Path, steps: int) -> int:
    """Make the steps; the exit code."""
    writer = run_folder.RunFolder(run, beat_seconds=0.5)
    writer.begin(phase="loading", max_steps=steps)
    wait_while_held("loading")
    step, value = restore(run)
    while step < steps and not RECEIVED:
        wait_while_held(f"step {step}")
        step, value = step + 1, hashlib.sha256(value).digest()
        writer.update(step=step, loss=1 / step, phase="training")
        writer.metrics({"step": step, "loss": 1 / step})
        writer.log(f"step {step}/{steps}")
        if step % SAVE_EVERY == 0 or RECEIVED:
            writer.update(phase="saving")
            save(run, step, value)
            writer.update(phase="evaluating")
            wait_while_held(f"evaluating {step}")
    if RECEIVED:
        save(run, step, value)
        writer.end("stopped", step=step)
        return 128 + RECEIVED[0]
    wait_while_held("final")
    if RECEIVED:
        save(run, step, value)
        writer.end("stopped", step=step)
        return 128 + RECEIVED[0]
    write_adapter(run / "final", value)
    writer.end("completed", step=step, final="final")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-id")
    parser.add_argument("--resume")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--confirm-run", action="store_true")
    parser.add_argument("--gpus")
    args = parser.parse_args()
    if not args.confirm_run:
        print(json.dumps({"plan": {"estimate": {"time": {}}}}))
        return 0
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(signum, lambda number, frame: RECEIVED.append(number))
    run = paths.folder("runs") / (args.run_id or args.resume)
    if args.run_id and (run / "status.json").exists():
        raise console.Misuse(f"there is a run {run.name} already", "--resume goes on with it")
    run.mkdir(parents=True, exist_ok=True)
    (run / "checkpoints").mkdir(exist_ok=True)
    run_lock.hold(run)
    (run / "lives.txt").open("a").write(f"{os.getpid()}\n")
    steps = [text.partition("=")[2] for text in args.set if text.startswith("training.max_steps=")]
    return train(run, int(steps[0]) if steps else 40)


if __name__ == "__main__":
    console.run(main)
