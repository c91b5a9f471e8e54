"""Trainer callbacks: the recorder of a run's progress, and the early-stopping counter on resume."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from training.run_folder import RunFolder

SHOWN = ("loss", "eval_loss", "learning_rate")  # of what a trainer logs: in status.json, log.txt


def recorder(writer: RunFolder, shown_keys: tuple[str, ...] = SHOWN) -> Any:
    """A callback that writes status.json, metrics.jsonl and log.txt, and prints the progress."""
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):
        began, first = time.time(), 0  # an evaluation may come before the training

        def on_train_begin(self, args, state, control, **_):
            self.began, self.first = time.time(), state.global_step
            writer.update(step=state.global_step, max_steps=state.max_steps)

        def on_log(self, args, state, control, logs=None, **_):
            logs = {k: v for k, v in (logs or {}).items() if isinstance(v, int | float)}
            writer.metrics({"step": state.global_step, "time": time.time()} | logs)
            done = state.global_step - self.first
            rate = (time.time() - self.began) / done if done else None
            remaining = rate and rate * (state.max_steps - state.global_step)
            shown = {k: logs[k] for k in shown_keys if k in logs}
            writer.update(step=state.global_step, epoch=state.epoch, eta_seconds=remaining, **shown)
            if shown:
                words = "  ".join(f"{k} {v:.4g}" for k, v in shown.items())
                writer.log(f"step {state.global_step}/{state.max_steps}  {words}")

        def on_step_begin(self, args, state, control, **_):
            writer.status |= {"step": state.global_step, "phase": "training"}

        def on_step_end(self, args, state, control, **_):
            phase = "saving" if control.should_save else "training"
            writer.status |= {"step": state.global_step, "phase": phase}  # written at the next beat

        def on_prediction_step(self, args, state, control, **_):
            writer.status["phase"] = "evaluating"

        def on_save(self, args, state, control, **_):
            writer.update(checkpoint=f"checkpoint-{state.global_step}")

    return Recorder()


def restore_patience(trainer, checkpoint: Path | None) -> None:
    """Give early stopping the counter that it had at the checkpoint; transformers resets it."""
    from transformers import EarlyStoppingCallback

    if checkpoint is None:
        return
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    saved = (state.get("stateful_callbacks") or {}).get("EarlyStoppingCallback") or {}
    if isinstance(saved, list):
        saved = saved[-1] if saved else {}
    count = (saved.get("attributes") or {}).get("early_stopping_patience_counter", 0)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, EarlyStoppingCallback):
            callback.early_stopping_patience_counter = count
