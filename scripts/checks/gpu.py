"""GPUs: what nvidia-smi and the driver say, held against what the pinned torch needs.

Nothing here imports torch: it runs before any environment exists.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import shutil
import sys
from pathlib import Path

from checks import gpu_variables, machine
from checks.gpu_cards import Gpu, memory_class, read_cards
from checks.gpu_facts import (
    CUDA_FAILURES,
    CUDA_WANTED,
    SMI_FAILURES,
    TORCH_NEEDS,
    WHEEL_FROM,
    WHEEL_TO,
    DriverFailure,
)
from checks.probe import ProgramAnswer, ask
from kit import paths
from kit.report import Check

TIMEOUT = 30.0  # seconds; eight cards without the persistence daemon take 10
DRIVER_SECONDS = 60.0  # for the driver's start, before torch is asked
BUSY = 2048  # MiB in use by others above which a run may not fit
HANGS = "sudo dmesg | grep -i -e nvrm -e xid; reboot the host, or take another one"
ALLOW_CPU = "run this on the GPU host; to rehearse without a GPU add --allow-cpu"


def find_smi() -> str | None:
    """nvidia-smi's path: TANDEM_NVIDIA_SMI, PATH, WSL's folder."""
    named = os.environ.get("TANDEM_NVIDIA_SMI")
    return shutil.which(named or "nvidia-smi") or shutil.which("/usr/lib/wsl/lib/nvidia-smi")


_CU_INIT = "import ctypes; c = ctypes.CDLL('libcuda.so.1'); print('cuInit', c.cuInit(0))"
CUDA_QUESTION = [sys.executable, "-S", "-c", _CU_INIT]


def questions(smi: str) -> dict[str, list[str]]:
    """The commands of one look: a query that every driver knows, then what only some know."""
    one = ["--format=csv,noheader,nounits"]
    return {
        "cards": [smi, "--query-gpu=name,memory.total,driver_version", *one],
        "header": [smi],
        "list": [smi, "-L"],
        "compute_cap": [smi, "--query-gpu=compute_cap", *one],
        "memory.used": [smi, "--query-gpu=memory.used", *one],
        "mig": [smi, "--query-gpu=mig.mode.current", *one],
        "cuda": CUDA_QUESTION,
    }


def known_failure(answer: ProgramAnswer) -> DriverFailure | None:
    """The row of SMI_FAILURES for an answer that is no good one; None if no row fits."""
    by_text = [row for row in SMI_FAILURES if re.search(row.pattern, answer.text)]
    by_code = [row for row in SMI_FAILURES if row.code == answer.code]
    rows = by_text + by_code if answer.code == 255 else by_code + by_text  # 255 says the least
    return rows[0] if rows else None


def version(text: str) -> tuple[int, ...]:
    """'525.60.13' -> (525, 60, 13); an empty tuple for anything else."""
    return tuple(int(n) for n in re.findall(r"\d+", text))


def torch_needs(lock: Path) -> tuple[str, str, str]:
    """(torch's pin, CUDA of its wheel, oldest driver) for the lock; ('', …) without a pin."""
    try:
        pin = re.search(r"^torch==([\w.+]+)", lock.read_text(encoding="utf-8"), re.M)
    except OSError:
        pin = None
    for torch, cuda, driver in TORCH_NEEDS:
        if pin and version(pin[1]) >= torch:
            return pin[1], cuda, driver
    return pin[1] if pin else "", "12", "525.60.13"


def look(
    lock: Path, timeout: float = TIMEOUT, min_memory: float = 0, allow_cpu: bool = False
) -> tuple[list[Check], list[Gpu]]:
    """Everything about the GPUs of this machine: the checks, and the cards.

    `min_memory` in GB fails where no card has it. With `allow_cpu` no finding fails.
    """
    smi, cards = find_smi(), []
    if smi is None:
        mac = sys.platform == "darwin"
        text = "macOS has no NVIDIA GPU" if mac else "nvidia-smi is not there: no NVIDIA driver"
        checks = [Check("gpu", "fail", text, ALLOW_CPU)]
    else:
        answers = ask(questions(smi), timeout)
        cards = read_cards(answers)
        checks = _unusable(answers["cards"], cards, smi, timeout)
        if not checks:
            checks = [_driver(cards[0], answers["header"], lock), _cuda(answers["cuda"])]
            checks += _all_cards(cards, min_memory)
            checks += check_wheel(platform.machine(), sys.platform, torch_needs(lock)[0])
    checks += gpu_variables.checks(cards)
    if allow_cpu:
        checks = [
            dataclasses.replace(c, status="skip") if c.status == "fail" else c for c in checks
        ]
    return checks, cards


def _unusable(first: ProgramAnswer, cards: list[Gpu], smi: str, timeout: float) -> list[Check]:
    """Why nvidia-smi lists no card, as one failed check; [] where it lists some."""
    if first.code is None:
        text = f"{smi} gave no answer in {timeout:g} s"
        fix = HANGS
    elif first.code == 127:
        text, fix = f"{smi} does not start: {first.text}", "reinstall the NVIDIA driver"
    elif first.code != 0:
        return [_smi_failure(first)]
    elif cards:
        return []
    elif row := known_failure(first):  # some versions end with 0 and the message
        text, fix = row.found, row.fix
    else:
        text = f"{smi} answered with something else than cards: {_excerpt(first.text)}"
        fix = f"look at what it says: {smi}"
    return [Check("nvidia-smi", "fail", text, fix)]


def _excerpt(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "nothing")
    return ascii(line[:80])[1:-1]


def _smi_failure(answer: ProgramAnswer) -> Check:
    row = known_failure(answer)
    if row is None:
        text = f"nvidia-smi ended with {answer.code}: {_excerpt(answer.text)}"
        return Check("nvidia-smi", "fail", text, "look at what it says: nvidia-smi; or reboot")
    return Check("nvidia-smi", "fail", f"{row.found} (exit code {answer.code})", row.fix)


def _driver(card: Gpu, header: ProgramAnswer, lock: Path) -> Check:
    torch, cuda, needed = torch_needs(lock)
    wheel = f"torch {torch} (CUDA {cuda}) needs {needed}"
    newest = re.search(r"CUDA (?:UMD )?Version:\s*(\d+\.\d+)", header.text)
    if card.driver is None:
        return Check("driver", "warn", f"version unknown; {wheel}", "look at it: nvidia-smi")
    text = f"{card.driver}" + (f", CUDA up to {newest[1]}" if newest else "")
    if version(card.driver) < version(needed):
        fix = f"update the driver to {needed} or newer, or rent a host that has it"
        return Check("driver", "fail", f"{text}: too old, {wheel}", fix)
    if newest and version(newest[1]) < CUDA_WANTED:
        fix = "update the driver to 530.30.02 or newer when you can"
        return Check("driver", "warn", f"{text}: works, CUDA 12.1 is what we test with", fix)
    return Check("driver", "ok", f"{text}; {wheel}")


def cuda_check(code: int | None) -> Check:
    """What cuInit returned, as a check; None: libcuda did not load."""
    if code == 0:
        return Check("cuda", "ok", "the driver initialises")
    row = next((row for row in CUDA_FAILURES if row.code == code), None)
    text = row.found if row else f"cuInit fails with error {code}"
    fix = row.fix if row else "reboot the host, or take another one"
    return Check("cuda", "warn" if code is None else "fail", text, fix)


def driver_is_there() -> bool:
    """Whether this machine has an NVIDIA driver, or had one when it was set up."""
    return find_smi() is not None or Path("/proc/driver/nvidia").is_dir()


def hanging_driver() -> list[Check]:
    """The failed check of a driver that does not answer in DRIVER_SECONDS; [] where it does.

    [] also where there is none. torch would hang with it, and nothing could end that with a reason.
    """
    if not driver_is_there():
        return []
    answer = ask({"cuda": CUDA_QUESTION}, DRIVER_SECONDS)["cuda"]
    return [cuda_hangs()] if answer.code is None else []


def cuda_hangs() -> Check:
    """The check of a driver that does not answer CUDA."""
    return Check("cuda", "fail", "cuInit does not come back", HANGS)


def _cuda(answer: ProgramAnswer) -> Check:
    if answer.code is None:
        return cuda_hangs()
    returned = re.search(r"cuInit (-?\d+)", answer.text)
    return cuda_check(int(returned[1]) if returned else None)


def check_wheel(arch: str, system: str, torch: str) -> list[Check]:
    """Whether the pinned torch can use a GPU here: its wheel for arm64 Linux is a CPU build.

    A torch with CUDA that somebody has put into .venv-remote is good.
    """
    installed = machine.torch_cuda(paths.ROOT / ".venv-remote")
    if system != "linux" or arch not in ("aarch64", "arm64") or installed:
        return []
    text = f"torch {torch} for arm64 Linux is a CPU build: it uses no GPU"
    return [Check("torch", "fail", text, "take an x86-64 GPU host; to go on without: --allow-cpu")]


def _all_cards(cards: list[Gpu], min_memory: float) -> list[Check]:
    """Every visible card, the hidden ones in a line each, and whether one is large enough."""
    visible, checks = gpu_variables.visible_cards(cards), []
    seen = {card.index: card for card in visible}
    for card in cards:
        name = f"gpu {card.index}"
        if card.index in seen:
            checks += _card(seen[card.index], name)
        else:
            text = f"{card.name}: hidden by CUDA_VISIBLE_DEVICES"
            checks.append(Check(name, "skip", text))
    return checks + (_large_enough(visible, min_memory) if min_memory else [])


def _large_enough(cards: list[Gpu], min_memory: float) -> list[Check]:
    sizes = [card.usable_mib for card in cards if card.usable_mib is not None]
    wanted = f"{min_memory:g} GB are asked for"
    if max(sizes, default=0) >= min_memory * 1024 * 0.9:  # "24 GB" cards have 23,028 to 24,576 MiB
        return []
    if len(sizes) < len(cards):
        text, fix = f"not known, {wanted}", "look at it: nvidia-smi -q -d MEMORY"
        return [Check("gpu memory", "warn", text, fix)]
    text = f"the largest has {max(sizes, default=0) / 1024:.0f} GB, {wanted}"
    return [Check("gpu memory", "fail", text, "take a larger card, or lower --min-memory")]


def _card(card: Gpu, name: str) -> list[Check]:
    if card.failure:
        text = f"{card.name}: {card.failure}"
        fix = f"sudo nvidia-smi --gpu-reset -i {card.index} while nothing runs on it, or reboot"
        return [Check(name, "fail", text, fix)]
    if card.slices_mib is not None and not card.slices_mib:
        text = f"{card.name}: MIG is on and no MIG device exists"
        fix = f"ask the host's owner for one: sudo nvidia-smi mig -i {card.index} -lgip lists sizes"
        return [Check(name, "fail", text, fix)]
    return [_memory(card, name), *_used(card, name), _compute(card, name)]


def _memory(card: Gpu, name: str) -> Check:
    if card.usable_mib is None:
        text = f"{card.name}: memory unknown"
        return Check(name, "warn", text, f"look at it: nvidia-smi -q -d MEMORY -i {card.index}")
    gb = f"{card.usable_mib / 1024:.1f} GB"
    if card.slices_mib and len(card.slices_mib) == 1:
        gb = f"a MIG device of {gb}"
    elif card.slices_mib:
        gb = f"{len(card.slices_mib)} MIG devices, the smallest {gb} (one is used per process)"
    elif card.shares_host_memory:
        gb = f"{gb} that it shares with the host"
    size, fix = memory_class(card.usable_mib)
    text = f"{card.name}, {gb}, {size}"
    return Check(name, "warn", text, fix) if fix else Check(name, "ok", text)


def _used(card: Gpu, name: str) -> list[Check]:
    if card.slices_mib or card.used_mib is None or card.used_mib <= BUSY:
        return []  # of a card with MIG the driver counts all devices together
    text = f"{card.used_mib / 1024:.1f} GB are in use already"
    fix = "nvidia-smi names the processes: wait for them, or choose with CUDA_VISIBLE_DEVICES"
    return [Check(f"{name} use", "warn", text, fix)]


def _compute(card: Gpu, name: str) -> Check:
    name, cap = f"{name} bf16", card.compute_cap
    if cap is None:
        return Check(name, "skip", "compute capability unknown (the driver does not tell)")
    sm = f"sm_{cap * 10:.0f}"
    if cap < WHEEL_FROM or cap > WHEEL_TO:
        span = f"sm_{WHEEL_FROM * 10:.0f} to sm_120"
        return Check(name, "fail", f"{sm}: torch's wheel is for {span}", "take another card")
    if not card.bf16:
        fix = "set quantization.bnb_4bit_compute_dtype: float16, training.bf16: false, fp16: true"
        return Check(name, "warn", f"{sm} has no bfloat16 (from sm_80 on)", fix)
    return Check(name, "ok", f"{sm} computes in bfloat16")
