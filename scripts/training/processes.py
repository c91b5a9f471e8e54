"""The processes of one training: their environment, the GPUs each sees, and a torchrun of its own.

Without torchrun a training is one process on one GPU. transformers would otherwise take every
visible GPU for its DataParallel, which multiplies the batch, the loss and every gradient.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from base_model import gpu_driver, loading
from checks import gpu
from kit import console

GPUS_HERE = "/proc/driver/nvidia/gpus"
NOTES = "TANDEM_LAUNCH_NOTES"  # the folder where launched processes note how they ended


def prepare_environment() -> None:
    """Variables that keep the libraries quiet, offline and in little GPU memory."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded by itself
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # says at length that PPO may change
    # Segments that grow take back most of the 2 to 15 % that fragments cost.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def launched() -> bool:
    """Whether a launcher (torchrun, Slurm with its variables) started this process."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def keep_one_gpu() -> None:
    """Without a launcher, let this process see one GPU. Call it before torch is imported."""
    if launched():
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        others = gpus_here() - 1
        os.environ["CUDA_VISIBLE_DEVICES"] = "0"
    else:
        names = [name.strip() for name in visible.split(",") if name.strip()]
        others = len(names) - 1
        if others > 0:
            os.environ["CUDA_VISIBLE_DEVICES"] = names[0]
        if names and _is_mig(names[0]) and others > 0:
            console.note(f"one MIG device of {others + 1} is used: {names[0]}")
            others = 0
    if others > 0:
        console.note(
            f"one GPU of {others + 1} is used (CUDA_VISIBLE_DEVICES="
            f"{os.environ['CUDA_VISIBLE_DEVICES']}); all of them: --gpus all"
        )


def gpus_here() -> int:
    """How many NVIDIA GPUs the driver of this machine shows; 0 without a driver."""
    cards = Path(GPUS_HERE)
    return len(list(cards.iterdir())) if cards.is_dir() else 0


def visible_gpus() -> int:
    """How many GPUs a new process would see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
        return min(1, len(names)) if any(map(_is_mig, names)) else len(names)
    gpu_driver.require_answer()
    import torch

    return torch.cuda.device_count()


def _is_mig(name: str) -> bool:
    """Whether an entry of CUDA_VISIBLE_DEVICES names a MIG device, of which CUDA gives one."""
    return name.startswith("MIG-")


def promised() -> int:
    """How many processes the launcher promised (WORLD_SIZE), 1 without one. Misuse for a word."""
    text = os.environ.get("WORLD_SIZE") or "1"
    if not text.isdecimal() or int(text) < 1:
        raise console.Misuse(
            f"WORLD_SIZE={text} is not a number of processes",
            "unset WORLD_SIZE and RANK; --gpus all starts one process a GPU",
        )
    return int(text)


def refuse_half_a_launch() -> None:
    """Misuse where WORLD_SIZE promises others and no launcher says where they meet."""
    needed = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if not os.environ.get(name)]
    if promised() > 1 and missing:
        raise console.Misuse(
            f"WORLD_SIZE={promised()} is set and {', '.join(missing)} not: no launcher's variables",
            "unset WORLD_SIZE and RANK; --gpus all starts one process a GPU",
        )


def refuse_other_world(processes: int, fsdp: bool = False) -> None:
    """Problem where a launcher promised more processes than there are, or FSDP has no GPUs."""
    wanted = promised()
    if processes != wanted:
        raise console.Problem(
            f"{wanted} processes were promised (WORLD_SIZE) and {processes} are connected",
            "unset WORLD_SIZE and RANK and use --gpus N, or start with torchrun --nproc_per_node N "
            f"scripts/{console.program()}",
        )
    if fsdp and (processes == 1 or loading.device() != "cuda"):
        raise console.Misuse(
            f"fsdp shards over GPUs, and this is {processes} process(es) on {loading.device()}",
            "start with --gpus all on a host with several GPUs, or use training_config.yaml",
        )


def refuse_missing_gpu() -> None:
    """Problem where this process of a launch has no GPU of its own."""
    if loading.device() != "cuda":
        return
    import torch

    rank, seen = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if rank >= seen:
        raise console.Problem(
            f"process {rank + 1} of this machine has no GPU: torch sees {seen}",
            f"start with --gpus {seen}, or set CUDA_VISIBLE_DEVICES; python scripts/check_gpu.py",
        )


def refuse_data_parallel(trainer) -> None:
    """Problem where transformers would spread one process over several GPUs (DataParallel)."""
    gpus = trainer.args.n_gpu
    if gpus > 1:
        raise console.Problem(
            f"one process sees {gpus} GPUs: batch, loss and gradients would be {gpus} times as "
            "large as configured",
            "start with --gpus all (one process a GPU), or set CUDA_VISIBLE_DEVICES to one GPU",
        )


def launch(gpus: str, script: str, arguments: list[str]) -> int:
    """Run the same command once a GPU under torchrun; returns its exit code.

    gpus: 'all' or a number. A signal goes to the training processes, which agree on the step where
    they stop and save; torchrun itself would kill them 30 s later.
    """
    seen = visible_gpus()
    count = seen if gpus == "all" else parse_count(gpus)
    if count < 1:
        raise console.Problem(
            "--gpus all: torch sees no GPU here", "python scripts/check_gpu.py says why"
        )
    if 0 < seen < count and gpu.driver_is_there():
        text = f"--gpus {count}: a process gets one GPU, and torch sees {seen} here"
        raise console.Problem(text, f"--gpus {seen}; python scripts/check_gpu.py shows them")
    launcher = Path(__file__).with_name("rank_launcher.py")
    words = [sys.executable, str(launcher), "--standalone"]
    words += ["--nproc_per_node", str(count), script, *arguments]
    console.note(f"{count} process(es), one a GPU")
    with tempfile.TemporaryDirectory(prefix="tandem-launch-") as notes:
        env = os.environ | {NOTES: notes}
        if count > 1:
            env.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does, with five lines about it
        # A session of its own: Ctrl-C of the terminal reaches the trainers through `forward` alone.
        # Its stdout is no result: gloo writes there, from several processes at once.
        with subprocess.Popen(words, start_new_session=True, env=env, stdout=2) as torchrun:

            def forward(signum, frame):
                signal_children(torchrun.pid, signum)

            for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
                signal.signal(signum, forward)
            code = torchrun.wait()
        return noted(Path(notes), code)


def note_end(code: int, text: str = "", result: str = "") -> bool:
    """Tell the launcher how this process ended; False where none of ours started it, or has room.

    text: the cause of a failure; result: the line for stdout.
    torchrun turns every exit code but 0 into a traceback and 1, so a stop by signal ends with 0
    and a note of its code.
    """
    folder = os.environ.get(NOTES)
    if not folder:
        return False
    note = {"code": code, "text": text, "result": result}
    try:
        Path(folder, os.environ.get("RANK", "0")).write_text(json.dumps(note), encoding="utf-8")
    except OSError:
        return False
    return True


def noted(folder: Path, code: int) -> int:
    """The exit code that the processes noted, else torchrun's; result or cause is printed last."""
    notes = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.iterdir())]
    if texts := [note["text"] for note in notes if note["text"]]:
        console.note(f"{console.program()}: {texts[0]}")
    for result in (note["result"] for note in notes if note["result"] and code == 0):
        console.result(result)
    codes = [note["code"] for note in notes if note["code"]]
    return codes[0] if codes else code


def parse_count(gpus: str) -> int:
    """The number of --gpus. Misuse for anything else."""
    if not gpus.isdecimal() or not 0 < int(gpus) <= 64:
        raise console.Misuse(f"--gpus {gpus}: not a number of GPUs", "give all, or a number")
    return int(gpus)


def signal_children(parent: int, signum: int) -> None:
    """Send a signal to every child process of `parent`."""
    import psutil

    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(parent).children():
            with contextlib.suppress(psutil.Error):
                child.send_signal(signum)
