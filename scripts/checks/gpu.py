"""GPUs: what nvidia-smi and the driver say, and a table of what they say when something is wrong.

Nothing here imports torch: it runs before any environment exists.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from checks.gpu_facts import (
    BF16_FROM,
    CUDA_FAILURES,
    CUDA_WANTED,
    MEMORY_CLASSES,
    SHADOWS,
    SMI_FAILURES,
    TORCH_NEEDS,
    WHEEL_FROM,
    WHEEL_TO,
    Known,
)
from checks.probe import Answer, ask
from kit.report import Check

TIMEOUT = 30.0  # seconds; eight cards without the persistence daemon take 10
BUSY = 2048  # MiB in use by others above which a run may not fit
ALLOW_CPU = "run this on the GPU host; to rehearse without a GPU add --allow-cpu"


@dataclasses.dataclass
class Gpu:
    """One card. None where the driver does not say. `memory_mib` of a MIG parent is the card's."""

    index: int
    name: str
    memory_mib: int | None
    driver: str | None
    compute_cap: float | None = None
    used_mib: int | None = None
    slices_mib: list[int] | None = None  # memory of its MIG devices, None without MIG

    @property
    def memory_class(self) -> str:
        """'24 GB class', '80 GB class', …, or 'unknown'; of the smallest slice under MIG."""
        return _memory_class(self.usable_mib)[2] if self.usable_mib is not None else "unknown"

    @property
    def usable_mib(self) -> int | None:
        """What one process gets: the card, or the smallest MIG device."""
        return min(self.slices_mib) if self.slices_mib else self.memory_mib

    @property
    def bf16(self) -> bool | None:
        """Whether it computes in bfloat16."""
        return None if self.compute_cap is None else self.compute_cap >= BF16_FROM


def find_smi() -> str | None:
    """nvidia-smi's path: TANDEM_NVIDIA_SMI, PATH, WSL's folder."""
    named = os.environ.get("TANDEM_NVIDIA_SMI")
    return shutil.which(named or "nvidia-smi") or shutil.which("/usr/lib/wsl/lib/nvidia-smi")


_CU_INIT = "import ctypes; c = ctypes.CDLL('libcuda.so.1'); print('cuInit', c.cuInit(0))"


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
        "cuda": [sys.executable, "-S", "-c", _CU_INIT],
    }


def known_failure(answer: Answer) -> Known | None:
    """The row of SMI_FAILURES for an answer that is no good one; None if no row fits."""
    by_text = [row for row in SMI_FAILURES if re.search(row.pattern, answer.text)]
    by_code = [row for row in SMI_FAILURES if row.code == answer.code]
    rows = by_text + by_code if answer.code == 255 else by_code + by_text  # 255 says the least
    return rows[0] if rows else None


def value(text: str) -> str | None:
    """A field of nvidia-smi's CSV; None for its ways to say that it does not know."""
    text = text.strip()
    unknown = text.strip("[]").lower() in ("n/a", "not supported", "unknown error", "")
    return None if unknown else text


def number(text: str, kind: Callable = int):
    """A field as a number, None where it is none."""
    try:
        return kind(value(text) or "")
    except ValueError:
        return None


def parse_cards(text: str) -> list[Gpu]:
    """`name, memory.total, driver_version` lines as cards; lines of another shape are dropped."""
    cards = []
    for line in text.splitlines():
        fields = line.rsplit(", ", 2)  # a name may hold a comma
        if len(fields) == 3 and re.fullmatch(r"\d+\.\d[\d.]*", value(fields[2]) or "0.0"):
            cards.append(Gpu(len(cards), fields[0], number(fields[1]), value(fields[2])))
    return cards


def add_column(cards: list[Gpu], answer: Answer, field: str, kind: Callable) -> None:
    """Set `field` of every card from a one-column answer, if it has one line a card."""
    lines = answer.text.splitlines()
    if answer.code == 0 and len(lines) == len(cards):
        for card, line in zip(cards, lines, strict=True):
            setattr(card, field, number(line, kind))


def add_slices(cards: list[Gpu], mig: Answer, listing: Answer) -> None:
    """Give every card in MIG mode the memory of its MIG devices, from `nvidia-smi -L`."""
    modes = mig.text.splitlines()
    if mig.code != 0 or len(modes) != len(cards):
        return
    found: list[list[int]] = []
    for line in listing.text.splitlines():
        if line.startswith("GPU "):
            found.append([])
        elif (profile := re.match(r"\s+MIG\s+\S*?(\d+)gb", line)) and found:
            found[-1].append(int(profile[1]) * 1024)
    for card, mode in zip(cards, modes, strict=True):
        if value(mode) == "Enabled":
            card.slices_mib = found[card.index] if card.index < len(found) else []


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
        cards = _cards(answers)
        checks = _judge(answers, cards, smi, timeout, lock, min_memory)
    checks += surroundings(len(cards))
    if allow_cpu:
        checks = [
            dataclasses.replace(c, status="skip") if c.status == "fail" else c for c in checks
        ]
    return checks, cards


def _cards(answers: dict[str, Answer]) -> list[Gpu]:
    if answers["cards"].code != 0:
        return []
    cards = parse_cards(answers["cards"].text)
    add_column(cards, answers["compute_cap"], "compute_cap", float)
    add_column(cards, answers["memory.used"], "used_mib", int)
    add_slices(cards, answers["mig"], answers["list"])
    return cards


def _judge(answers, cards, smi, timeout, lock, min_memory) -> list[Check]:
    first = answers["cards"]
    if first.code is None:
        text = f"{smi} gave no answer in {timeout:g} s"
        fix = "sudo dmesg | grep -i -e nvrm -e xid; reboot the host, or take another one"
        return [Check("nvidia-smi", "fail", text, fix)]
    if first.code == 127:
        text, fix = f"{smi} does not start: {first.text}", "reinstall the NVIDIA driver"
        return [Check("nvidia-smi", "fail", text, fix)]
    if first.code != 0:
        return [_smi_failure(first)]
    if not cards and (row := known_failure(first)):  # some versions end with 0 and the message
        return [Check("nvidia-smi", "fail", row.found, row.fix)]
    if not cards:
        text = f"{smi} answered with something else than cards: {_excerpt(first.text)}"
        return [Check("nvidia-smi", "fail", text, f"look at what it says: {smi}")]
    checks = [_driver(cards[0], answers["header"], lock), _cuda(answers["cuda"])]
    for card in cards:
        checks += _card(card, f"gpu {card.index}")
    best = max((c.usable_mib or 0 for c in cards), default=0)
    if best < min_memory * 1024 * 0.9:  # "24 GB" cards have 23,028 to 24,576 MiB
        text = f"the largest has {best / 1024:.0f} GB, {min_memory:g} GB are asked for"
        fix = "take a larger card, or lower --min-memory"
        checks.append(Check("gpu memory", "fail", text, fix))
    return checks


def _excerpt(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "nothing")
    return ascii(line[:80])[1:-1]


def _smi_failure(answer: Answer) -> Check:
    row = known_failure(answer)
    if row is None:
        text = f"nvidia-smi ended with {answer.code}: {_excerpt(answer.text)}"
        return Check("nvidia-smi", "fail", text, "look at what it says: nvidia-smi; or reboot")
    return Check("nvidia-smi", "fail", f"{row.found} (exit code {answer.code})", row.fix)


def _driver(card: Gpu, header: Answer, lock: Path) -> Check:
    torch, cuda, needed = torch_needs(lock)
    wheel = f"torch {torch} (CUDA {cuda}) needs {needed}"
    most = re.search(r"CUDA (?:UMD )?Version:\s*(\d+\.\d+)", header.text)
    if card.driver is None:
        return Check("driver", "warn", f"version unknown; {wheel}", "look at it: nvidia-smi")
    text = f"{card.driver}" + (f", CUDA up to {most[1]}" if most else "")
    if version(card.driver) < version(needed):
        fix = f"update the driver to {needed} or newer, or rent a host that has it"
        return Check("driver", "fail", f"{text}: too old, {wheel}", fix)
    if most and version(most[1]) < CUDA_WANTED:
        fix = "update the driver to 530.30.02 or newer when you can"
        return Check("driver", "warn", f"{text}: works, CUDA 12.1 is what we test with", fix)
    return Check("driver", "ok", f"{text}; {wheel}")


def cuda_check(code: int | None) -> Check:
    """What cuInit returned, as a check; None: libcuda did not load."""
    if code == 0:
        return Check("cuda", "ok", "the driver initialises")
    row = next((row for row in CUDA_FAILURES if row.code == code), None)
    found = row.found if row else f"cuInit fails with error {code}"
    fix = row.fix if row else "reboot the host, or take another one"
    return Check("cuda", "warn" if code is None else "fail", found, fix)


def _cuda(answer: Answer) -> Check:
    if answer.code is None:
        fix = "sudo dmesg | grep -i -e nvrm -e xid; reboot the host"
        return Check("cuda", "fail", "cuInit does not come back", fix)
    returned = re.search(r"cuInit (-?\d+)", answer.text)
    return cuda_check(int(returned[1]) if returned else None)


def _memory_class(mib: int) -> tuple[int, int, str, str]:
    return next(row for row in MEMORY_CLASSES if row[0] <= mib < row[1])


def _card(card: Gpu, name: str) -> list[Check]:
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
    if card.slices_mib:
        gb = f"{len(card.slices_mib)} MIG devices, the smallest {gb} (one is used per process)"
    text, fix = f"{card.name}, {gb}, {card.memory_class}", _memory_class(card.usable_mib)[3]
    return Check(name, "warn", text, fix) if fix else Check(name, "ok", text)


def _used(card: Gpu, name: str) -> list[Check]:
    if card.used_mib is None or card.used_mib <= BUSY:
        return []
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


def surroundings(cards: int) -> list[Check]:
    """Variables that break a good driver: CUDA_VISIBLE_DEVICES, LD_LIBRARY_PATH, bitsandbytes'."""
    return [*_visible(cards), *library_path(os.environ.get("LD_LIBRARY_PATH", "")), *_bnb()]


def _visible(cards: int) -> list[Check]:
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting is None or not cards:
        return []
    name, text = "CUDA_VISIBLE_DEVICES", f"{setting!r}"
    first = setting.split(",")[0].strip()
    hidden = not first or first in ("-1", "NoDevFiles")
    if hidden or (first.isdigit() and int(first) >= cards):
        why = "hides every GPU" if hidden else f"there are {cards}: the first named one is missing"
        return [Check(name, "fail", f"{text} {why}", "unset CUDA_VISIBLE_DEVICES")]
    return [Check(name, "ok", text)]


def library_path(setting: str) -> list[Check]:
    """Folders of LD_LIBRARY_PATH whose CUDA libraries are loaded instead of torch's own."""
    shadows = []
    for folder in filter(None, setting.split(":")):
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        bad = [n for n in names if SHADOWS.match(n)]
        if re.search(r"/(compat|stubs)(/|$)", folder):
            bad += [n for n in names if n.startswith("libcuda.so")]
        shadows += [f"{folder}/{bad[0]}"] if bad else []
    if not setting:
        return [Check("LD_LIBRARY_PATH", "ok", "not set")]
    if not shadows:
        return [Check("LD_LIBRARY_PATH", "ok", "holds no CUDA library that torch brings itself")]
    text = f"shadows torch's CUDA libraries: {', '.join(shadows)}"
    return [Check("LD_LIBRARY_PATH", "warn", text, "unset LD_LIBRARY_PATH before training")]


def _bnb() -> list[Check]:
    setting = os.environ.get("BNB_CUDA_VERSION")
    if not setting:
        return []
    text = f"{setting}: bitsandbytes loads its library for that CUDA, not for torch's"
    return [Check("BNB_CUDA_VERSION", "warn", text, "unset BNB_CUDA_VERSION")]
