"""Ends a training on a signal: TERM, INT and USR2 finish the current step and save a checkpoint.

Every process keeps what it received; after each step, and after each batch of an evaluation, all
processes take the largest number that any of them received. So all stop at the same step, also
where the signal reached one of them alone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from pathlib import Path
from typing import Any

from kit import console

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)  # USR2: Slurm's warning before the end
PENDING = "evaluation-pending"  # in a checkpoint whose evaluation was cut short


class EvaluationStopped(Exception):
    """A signal came during an evaluation; raised on every process at the same batch."""


class StopRequest:
    """Which signal asked this training to stop; `agreed` is what all processes know."""

    def __init__(self) -> None:
        self.received = 0
        self.agreed = 0
        file = os.environ.get("TANDEM_STOP_FILE")  # a job's: torchrun passes no USR2 on
        self.file = Path(file) if file else None

    def install(self) -> None:
        """Handle the signals in this process. The same signal again ends it at once."""
        for signum in SIGNALS:
            signal.signal(signum, self._remember)

    def _remember(self, signum: int, frame: Any) -> None:
        if self.received == signum:
            raise SystemExit(128 + signum)
        if self.received:
            return  # Ctrl-C reaches this process from the terminal, then TERM from its manager
        self.received = signum
        with contextlib.suppress(OSError):
            console.note("stopping after this step, with a checkpoint; again to stop at once")

    def agree(self) -> int:
        """The signal that any process received, 0 for none. Every process must call it."""
        if self.file and not self.received and self.file.exists():
            text = self.file.read_text(encoding="utf-8").strip()
            self.received = int(text) if text in ("2", "10", "12", "15") else signal.SIGTERM
        self.agreed = self.agreed or largest(self.received)
        return self.agreed


def largest(number: int) -> int:
    """The largest `number` over all processes of this training."""
    import torch
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return number
    if distributed.get_world_size() == 1:
        return number
    from accelerate import PartialState

    shared = torch.tensor([number], device=PartialState().device)
    distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
    return int(shared.item())


def exit_at_once() -> None:
    """Before training begins there is nothing to save: a signal ends the process with its code."""

    def leave_now(signum, frame):
        raise SystemExit(128 + signum)

    for signum in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(signum, leave_now)
    with contextlib.suppress(ValueError, AttributeError):  # stderr may be no file of the system
        faulthandler.register(signal.SIGUSR1)  # prints every thread's stack: where a run hangs


def callback(request: StopRequest) -> Any:
    """The TrainerCallback that ends a training once all processes agree."""
    from transformers import TrainerCallback

    class StopOnSignal(TrainerCallback):
        in_training = False

        def on_train_begin(self, args, state, control, **_):
            self.in_training = True

        def on_train_end(self, args, state, control, **_):
            self.in_training = False

        def on_step_end(self, args, state, control, **_):
            if request.agree():
                control.should_save = control.should_training_stop = True

        def on_epoch_end(self, args, state, control, **_):
            # A stop ends the epoch early; what belongs to its true end comes after the resume.
            if request.agreed and abs(state.epoch - round(state.epoch)) > 1e-6:
                control.should_evaluate = control.should_save = False

        def on_prediction_step(self, args, state, control, **_):
            if self.in_training and request.agree():
                raise EvaluationStopped

    return StopOnSignal()


def stoppable(trainer_class: type) -> type:
    """A trainer that saves a checkpoint when a signal cuts an evaluation short.

    The checkpoint says that its evaluation is missing; the resumed run makes it first, so that its
    metrics and its best checkpoint are those of a run that was never stopped.
    """

    class Stoppable(trainer_class):
        def _maybe_log_save_evaluate(self, tr_loss, grad_norm, model, trial, *rest, **keywords):
            try:
                super()._maybe_log_save_evaluate(
                    tr_loss, grad_norm, model, trial, *rest, **keywords
                )
            except EvaluationStopped:
                self.control.should_evaluate = False
                self.control.should_training_stop = True
                self._save_checkpoint(model, trial)
                if self.is_world_process_zero():
                    (_checkpoint(self) / PENDING).touch()
                self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    return Stoppable


def evaluate_pending(trainer, checkpoint: Path | None) -> None:
    """Make the evaluation that the checkpoint lacks, before the first step.

    A signal during it raises EvaluationStopped out of train(): the checkpoint still lacks it.
    """
    from transformers import TrainerCallback

    if checkpoint is None or not (checkpoint / PENDING).exists():
        return

    class EvaluateFirst(TrainerCallback):
        def on_train_begin(self, args, state, control, **_):
            metrics = trainer._evaluate(None, None)
            (checkpoint / PENDING).unlink(missing_ok=True)
            trainer._determine_best_metric(metrics=metrics, trial=None)
            if state.best_global_step == state.global_step:
                state.best_model_checkpoint = str(_checkpoint(trainer))

    trainer.add_callback(EvaluateFirst())


def _checkpoint(trainer) -> Path:
    return Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}"
