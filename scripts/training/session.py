"""One training from an empty folder to final/: the same path for every trainer.

SFT, reward, DPO, GRPO, RLOO and PPO bring a TrainingRecipe: what is trained, on which rows, by
which trainer of TRL. The session does the rest: it opens the run's folder and records progress,
resumes from a checkpoint, refuses inputs that changed, stops on signals, records failures, and
publishes the adapter after it was read back.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from base_model import gpu_driver, gpu_errors, loading, readiness
from kit import console, paths
from kit.moving_line import MovingLine
from training import (
    callbacks,
    failures,
    gpu_memory,
    memory_advice,
    processes,
    resume,
    run_facts,
    run_folder,
    saving,
    setting_checks,
    stopping,
)
from training.run_folder import RunFolder

LARGE_ON_CPU = 256e6  # bytes of weights: a step of a larger model takes a CPU minutes
OWN_DISKS = "TANDEM_OWN_DISKS"  # set by a job on hosts that share no disk: each keeps checkpoints


class TrainingRecipe:
    """What one kind of training brings to a session. Subclasses fill it."""

    kind = "lora"
    can_resume = True
    shown = callbacks.SHOWN  # the logged values that status.json and log.txt show
    fsdp = False
    measured = False  # whether an objective is measured before and after

    def __init__(self, settings: Any):
        self.settings = settings
        self.tokenizer: Any = None

    def prepare(self) -> None:
        """Load the tokenizer and encode the rows. Raises Problem for rows that cannot be used."""
        raise NotImplementedError

    def counts(self) -> dict[str, Any]:
        """What was counted in the rows, for run.json."""
        raise NotImplementedError

    def inputs(self) -> dict[str, Any]:
        """Facts for run.json that this kind adds."""
        return {}

    def keep(self, began: dict[str, Any]) -> None:
        """Go on as a resumed run began: `began` are the facts of its run.json."""

    def notes(self) -> list[str]:
        """Lines for the log at the start."""
        return []

    def title(self) -> str:
        """The first words of the log: method and model."""
        raise NotImplementedError

    def build(self, run: Path, recorders: list, world_size: int) -> Any:
        """The trainer with its models loaded; nothing is trained yet."""
        raise NotImplementedError

    def train(self, trainer, checkpoint: Path | None, request: stopping.StopRequest) -> None:
        """Run the trainer to its end, or to the step at which a signal stops it."""
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def measure(self, trainer) -> dict[str, float]:
        """The objective on the validation rows; {} where none is measured."""
        return {}

    def before_saving(self, trainer) -> None:
        """Prepare trainer.model and tokenizer for saving."""

    def summary(self, trainer, before: dict, after: dict) -> str:
        """What the last log line says after the number of steps."""
        return ""

    def memory_case(self) -> Any:
        """The MemoryCase of this training, for the estimate beside the measured peak."""
        raise NotImplementedError

    def out_of_memory(self, error: Exception) -> console.Problem:
        """The Problem for a GPU (or the host) that is full: what to lower, in order."""
        case = self.memory_case()
        remedies = memory_advice.remedies(case)
        if gpu_errors.host_memory_is_full(error):
            return gpu_memory.out_of_host_memory([] if loading.device() == "cuda" else remedies)
        return gpu_memory.out_of_memory(case.estimate.total, remedies)


def train(recipe: TrainingRecipe, run: Path | None, checkpoint: Path | None) -> tuple[int, Path]:
    """Train; returns (exit code, run folder). Every rank calls it; rank 0 names the run and writes.

    Raises Problem with what to lower when memory runs out.
    """
    try:
        return _prepare_and_train(recipe, run, checkpoint)
    except console.Problem:
        raise
    except Exception as error:  # CUDA's first call, before the run is recorded
        with failures.recorded(None, recipe.out_of_memory):
            raise error


def _prepare_and_train(
    recipe: TrainingRecipe, run: Path | None, checkpoint: Path | None
) -> tuple[int, Path]:
    stopping.exit_at_once()
    loading.quiet()
    refuse_large_model_on_cpu(recipe)
    processes.refuse_missing_gpu()
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list
    from transformers import set_seed

    state = PartialState(cpu=loading.device() == "cpu")
    processes.refuse_other_world(state.num_processes, recipe.fsdp)
    readiness.refuse(setting_checks.on_card(recipe.settings, gpu_memory.own_card()))
    work = paths.workdir()  # each host of a run has its own
    shared = [os.path.relpath(path, work) if path else None for path in (run, checkpoint)]
    broadcast_object_list(shared)
    run, checkpoint = (work / path if path else None for path in shared)
    if state.num_processes > 1:
        checkpoint = resume.newest_on_all(run, state.process_index)
    if getattr(recipe.settings.training, "full_determinism", False):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before cuBLAS is loaded
    set_seed(recipe.settings.training.seed)  # before model and adapter: resume is bit-identical
    one_shows = MovingLine if state.is_main_process else contextlib.nullcontext
    with one_shows("encoding the rows"):
        recipe.prepare()
    began = [run_folder.read_facts(run) if state.is_main_process else None]
    broadcast_object_list(began)
    if began[0]:
        recipe.keep(began[0])
    writer = before = None
    if state.is_main_process:
        before = _recorded_objective(run) if checkpoint else None
        writer = open_run(recipe, run, checkpoint, state.num_processes)
    if writer or (os.environ.get(OWN_DISKS) and state.is_local_main_process):
        saving.tidy_checkpoints(run, checkpoint)
    prints_to_stderr = contextlib.redirect_stdout(sys.stderr)  # PPOTrainer prints
    progress = MovingLine(writer.progress) if writer else contextlib.nullcontext()
    with failures.recorded(writer, recipe.out_of_memory), prints_to_stderr, progress:
        code = _train(recipe, run, checkpoint, writer, state.num_processes, before)
        state.wait_for_everyone()  # a process that leaves early breaks the others' last exchange
        return code, run


def refuse_large_model_on_cpu(recipe: TrainingRecipe) -> None:
    """Problem where a GPU of this machine cannot be used and the model is too large for a CPU."""
    gpu_driver.require_answer()
    if (problem := gpu_driver.unseen()) is None:
        return
    weights = 0.0
    with contextlib.suppress(console.Problem):  # config.json without sizes
        weights = recipe.memory_case().estimate.weights
    if weights > LARGE_ON_CPU:
        raise problem


def open_run(
    recipe: TrainingRecipe, run: Path, checkpoint: Path | None, world_size: int
) -> RunFolder:
    """Begin (or resume) the run's folder. Misuse where a resumed run's inputs have changed."""
    facts = run_facts.collect(recipe, world_size)
    resumed = (run / "run.json").exists()
    if resumed:
        resume.refuse_other_inputs(run, facts)
        facts |= {"memory": run_folder.read_facts(run).get("memory")}  # of its earlier processes
    writer = RunFolder(run)
    status: dict[str, Any] = {
        "resumed_from": checkpoint and checkpoint.name,
        "phase": "loading",
    }
    status |= {} if recipe.kind == "lora" else {"kind": recipe.kind}
    writer.start(recipe.settings.model_dump(mode="json"), facts, **status)
    writer.rewind(int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0)
    writer.log(f"{recipe.title()} on {facts['device']}, {world_size} process(es)")
    for note in recipe.notes():
        writer.log(note)
    return writer


def _recorded_objective(run: Path) -> dict[str, Any] | None:
    objective = run_folder.read_status(run).get("objective") or {}
    return objective.get("before")


def _train(recipe, run: Path, checkpoint, writer, world_size: int, before) -> int:
    recorders = [callbacks.recorder(writer, recipe.shown)] if writer else []
    trainer = recipe.build(run, recorders, world_size)
    request = fit_into_session(trainer, checkpoint)
    before = before or recipe.measure(trainer)
    if writer and recipe.measured:
        writer.update(objective={"before": before})
    with contextlib.suppress(stopping.EvaluationStopped):
        recipe.train(trainer, checkpoint, request)
    if request.agreed:
        return stopped(recipe, writer, trainer, request.agreed)
    after = recipe.measure(trainer)
    recipe.before_saving(trainer)
    saving.save_final(trainer, recipe.tokenizer, run)
    if writer:
        if measured := run_facts.add_memory(run, recipe.memory_case):
            writer.log(measured)
        steps = trainer.state.global_step
        writer.log(f"completed: {steps} steps{recipe.summary(trainer, before, after)}")
        objective = {"objective": {"before": before, "after": after}} if recipe.measured else {}
        writer.end("completed", step=steps, final="final", **objective)
    return console.GOOD


def fit_into_session(trainer, checkpoint: Path | None = None) -> stopping.StopRequest:
    """Give a trainer the callbacks that every kind has; returns what its signals ask for."""
    from transformers.trainer_callback import PrinterCallback

    processes.refuse_data_parallel(trainer)
    trainer.remove_callback(PrinterCallback)
    callbacks.restore_patience(trainer, checkpoint)
    stopping.evaluate_pending(trainer, checkpoint)
    request = stopping.StopRequest()
    request.install()
    if os.environ.get(OWN_DISKS):
        trainer.args.save_on_each_node = True
    trainer.add_callback(stopping.callback(request))
    trainer.add_callback(saving.checkpoint_check(trainer))
    return request


def stopped(recipe: TrainingRecipe, writer, trainer, signum: int) -> int:
    """Record that a signal stopped the run; returns the exit code 128 + signal."""
    if writer:
        run_facts.add_memory(writer.folder, recipe.memory_case)
        step = trainer.state.global_step
        ahead = "--resume goes on" if recipe.can_resume else (
            f"{recipe.kind} cannot resume: start from that checkpoint anew")  # fmt: skip
        writer.log(f"stopped at step {step}; {ahead}")
        writer.end("stopped", step=step)
    return 128 + signum


def session_trainer(trainer_class: type) -> type:
    """A TRL trainer as sessions need it: it stops in evaluations, saves whole adapters, resumes."""
    makers: tuple[Callable[[type], type], ...] = (
        resumable, saving.plain_saving, saving.saving_together, stopping.stoppable)  # fmt: skip
    for make in makers:
        trainer_class = make(trainer_class)
    return trainer_class


def resumable(trainer_class: type) -> type:
    """A trainer whose resumed run is bit for bit the unbroken one.

    TRL trains QLoRA adapters in bfloat16, but PEFT reads them back from a checkpoint as float32.
    """

    class Resumable(trainer_class):
        def _keeping_dtypes(self, load, *arguments, **keywords):
            before = {n: p.dtype for n, p in self.model.named_parameters() if p.requires_grad}
            load(*arguments, **keywords)
            for name, parameter in self.model.named_parameters():
                if name in before and parameter.dtype != before[name]:
                    parameter.data = parameter.data.to(before[name])

        def _load_from_checkpoint(self, *arguments, **keywords):
            self._keeping_dtypes(super()._load_from_checkpoint, *arguments, **keywords)

        def _run_epoch(self, *arguments, **keywords):
            # Resumed at its last step, transformers would take one step more.
            finished = self.state.global_step >= self.state.max_steps
            if finished or self.control.should_training_stop:
                self.control.should_training_stop = True
                return
            super()._run_epoch(*arguments, **keywords)

        def _load_best_model(self):
            self._keeping_dtypes(super()._load_best_model)

    return Resumable
