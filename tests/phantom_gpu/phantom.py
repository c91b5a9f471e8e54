#!/usr/bin/env python3
"""A stand-in GPU that computes nothing, for x86-64 Linux with gcc. Every layer above is real.

    .venv-remote/bin/python tests/phantom_gpu/phantom.py --gb 24 -- COMMAND ...

torch's dispatcher, autocast and caching allocator, bitsandbytes, PEFT and TRL run as on CUDA, so
crashes, dtypes, devices, memory, batch shapes and files are those of a card. Values, losses and
times are not: kernels return at once. site/sitecustomize.py gives what steers Python its true
value, and an optimizer's step writes fixed numbers into what it trains.

Exit code: that of COMMAND; 1 where the stand-in cannot be built here.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = (HERE / "runtime.c", HERE / "libraries.c")
CACHE = HERE.parent.parent / ".cache" / "phantom_gpu"
# What links to the runtime: libraries below site-packages.
LINKED = (
    "torch/lib/libtorch_cuda.so", "torch/lib/libc10_cuda.so", "torch/lib/libtorch_cuda_linalg.so",
    "torch/lib/libtorch_python.so", "bitsandbytes/libbitsandbytes_cuda128.so",
)  # fmt: skip
DRIVER = "torch/lib/libcaffe2_nvrtc.so"  # what links to libcuda.so.1
HEADERS = "triton/backends/nvidia/include"


def missing(packages: Path | None = None) -> str:
    """Why the stand-in cannot run here, in a few words; '' where it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "it needs Linux on x86-64"
    for program in ("gcc", "nm"):
        if shutil.which(program) is None:
            return f"it needs {program}"
    packages = packages or site_packages()
    needed = (*LINKED, DRIVER, HEADERS)
    return next((f"it needs {name}" for name in needed if not (packages / name).exists()), "")


def site_packages() -> Path:
    """The folder with this Python's torch."""
    return Path(sysconfig.get_paths()["purelib"])


def names(file: Path, *options: str) -> set[str]:
    """The dynamic symbols of a library, or with options those that nm then prints."""
    done = subprocess.run(["nm", *options, str(file)], capture_output=True, text=True, check=True)
    return {line.split()[-1].partition("@")[0] for line in done.stdout.splitlines() if line.strip()}


def build(packages: Path | None = None) -> Path:
    """The folder with the built libraries, made once for these sources and this torch."""
    packages = packages or site_packages()
    digest = hashlib.sha256()
    for file in (*SOURCES, Path(__file__), packages / LINKED[0]):
        digest.update(f"{file.stat().st_size} {file.stat().st_mtime_ns}\n".encode())
    folder = CACHE / digest.hexdigest()[:16]
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as place:
            _compile(packages, Path(place))
            shutil.copytree(place, f"{place}.whole")
            try:
                os.replace(f"{place}.whole", folder)
            except OSError:  # another process was sooner
                shutil.rmtree(f"{place}.whole")
    return folder


def _compile(packages: Path, place: Path) -> None:
    wanted: set[str] = set()
    for name in LINKED:
        wanted |= names(packages / name, "-D", "--undefined-only")
    own = set(re.findall(r"^[\w ]+[ *]+(\w+)\(", "".join(f.read_text() for f in SOURCES), re.M))
    stubs = {n for n in wanted - own if re.match(r"(__cuda|cuda|cublas|nccl)", n)}
    driver = names(packages / DRIVER, "-D", "--undefined-only")
    driver = {n for n in driver if re.match(r"cu[A-Z]", n)}
    for file, functions in (("stubs.inc", stubs), ("driver.c", driver)):
        text = "".join(f"int {name}(void) {{ return 0; }}\n" for name in sorted(functions))
        (place / file).write_text(text)
    gcc = ["gcc", "-O1", "-shared", "-fPIC", "-w", f"-I{packages / HEADERS}", f"-I{place}"]
    runtime = [*gcc, "-o", place / "libphantom.so", *SOURCES, "-lpthread", "-ldl"]
    library = [*gcc, "-Wl,-soname,libcuda.so.1", "-o", place / "libcuda.so.1", place / "driver.c"]
    for words in (runtime, library):
        subprocess.run([str(word) for word in words], check=True)


def environment(gigabytes: float = 80, cards: int = 1, **more: object) -> dict[str, str]:
    """Variables that give a process stand-in cards; more: sm=75, padded=0, gloo=1, lost=500 ..."""
    folder = build()
    values = {
        "LD_PRELOAD": str(folder / "libphantom.so"),
        "LD_LIBRARY_PATH": str(folder),
        "PYTHONPATH": str(HERE / "site"),
        "OMP_NUM_THREADS": "1",
        "PHANTOM_GB": f"{gigabytes:g}",
        "PHANTOM_GPUS": str(cards),
        "PYTORCH_ALLOC_CONF": "expandable_segments:False",  # needs virtual memory of a driver
    }
    return values | {f"PHANTOM_{name.upper()}": str(value) for name, value in more.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gb", type=float, default=80, help="memory of each card")
    parser.add_argument("--cards", type=int, default=1)
    parser.add_argument("command", nargs="*")
    args = parser.parse_args()
    if why := missing():
        print(f"phantom.py: no stand-in GPU here: {why}", file=sys.stderr)
        return 1
    env = os.environ | environment(args.gb, args.cards)
    if not args.command:
        print("\n".join(f"{name}={env[name]}" for name in environment(args.gb, args.cards)))
        return 0
    return subprocess.run(args.command, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
