"""The interpreter of an environment, the environment's link and stamp, folders and variables."""

from __future__ import annotations

import os
import re
from pathlib import Path

from kit import console, paths
from kit.report import Check
from setup.installed_packages import site_packages
from setup.lock_file import Facts, same_pins

OLDEST, NEWEST = (3, 10), (3, 13)
# Folders of paths_config.json that git keeps; the others are made by what fills them.
KEPT = ("data_raw", "data_processed", "data_synthetic", "models", "adapters")
_SPOILERS = ("PYTHONPATH", "PYTHONHOME")
_CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")


def check_python(facts: Facts, rosetta: str, fix: str) -> list[Check]:
    """Version and architecture. `rosetta`: what `sysctl -n hw.optional.arm64` printed."""
    version, machine = facts["python_full_version"], facts["platform_machine"]
    text = f"{version} ({facts['implementation_name']}, {machine})"
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    if not OLDEST <= numbers <= NEWEST or facts["implementation_name"] != "cpython":
        check = Check("python", "fail", f"{text}: CPython 3.10 to 3.13 is needed", fix)
    elif facts["bits"] != "64":
        check = Check("python", "fail", f"{text}: a {facts['bits']}-bit build", fix)
    elif rosetta == "1" and machine == "x86_64":
        text = f"{text}: an x86 build, translated on Apple silicon"
        arm = "TANDEM_PYTHON=/opt/homebrew/bin/python3.10"
        check = Check("python", "fail", text, f"install an arm64 Python, then {arm} {fix}")
    else:
        check = Check("python", "ok", text)
    return [check]


def check_link(env: str, fix: str) -> list[Check]:
    """.venv-<env>: a link to a finished environment that was made from this lock."""
    link, name = paths.ROOT / f".venv-{env}", f".venv-{env}"
    if not os.path.lexists(link):
        return [Check(name, "fail", "not set up", fix)]
    if not (link / "bin" / "python").exists():
        what = "a link to nowhere" if not link.exists() else "has no interpreter (removed?)"
        return [Check(name, "fail", what, fix)]
    if not link.is_symlink():
        return [Check(name, "warn", "a folder of yours, not the kit's", f"mv {name} old && {fix}")]
    target = os.readlink(link)
    stamp = link / ".tandem" / "stamp"
    if not stamp.is_file():
        return [Check(name, "warn", f"{target} has no stamp: not verified by the set-up", fix)]
    if (link / ".tandem" / "suspect").exists():
        return [Check(name, "fail", f"{target} holds damaged files", fix)]
    try:
        lock = paths.ROOT / f"requirements-{env}.txt"
        same = same_pins(link / ".tandem" / "lock.txt", lock)
    except OSError as error:
        return [Check(name, "warn", f"lock not comparable: {error.strerror}", fix)]
    if not same:
        return [Check(name, "warn", f"{target} was made from another lock", fix)]
    return [Check(name, "ok", f"{target}, verified when it was made")]


def check_folders(folders: dict[str, Path]) -> Check:
    """The folders that git keeps are there, and each configured one is a folder."""
    wrong = [p for n, p in folders.items() if os.path.lexists(p) and not p.is_dir()]
    if wrong:
        what = "links to nowhere" if wrong[0].is_symlink() else "is no folder"
        text = f"{paths.show(wrong[0])} {what}"
        return Check("folders", "fail", text, f"rm {paths.show(wrong[0])}, or mount its disk")
    missing = [paths.show(p) for n, p in folders.items() if n in KEPT and not p.exists()]
    if missing:
        text = f"not there: {', '.join(missing)}"
        return Check("folders", "fail", text, f"mkdir -p {' '.join(missing)}")
    return Check("folders", "ok", ", ".join(paths.show(folders[n]) for n in KEPT if n in folders))


def configured_folders() -> tuple[dict[str, Path], list[Check]]:
    """({name: path}, what is wrong with configs/paths_config.json)."""
    try:
        folders = {n: paths.workdir() / where for n, where in paths.load()["folders"].items()}
    except (console.Problem, OSError, UnicodeDecodeError) as error:
        fix = "correct it; python scripts/paths.py shows when it is right"
        return {}, [Check("paths_config.json", "fail", str(error), fix)]
    return folders, []


def check_variables() -> list[Check]:
    """Variables that put other packages before the environment's, or name what is not there."""
    checks = []
    forgotten = os.environ.get("TANDEM_FORGOTTEN", "").split()  # by kit/common.sh, for its commands
    for name in _SPOILERS:
        if os.environ.get(name) or name in forgotten:
            text = "set: other packages come before the environment's in a Python that you start"
            checks.append(Check(name, "warn", text, f"unset {name}"))
    for name in _CERTIFICATES:
        value = os.environ.get(name)
        if value and not os.path.exists(value):
            fix = f"point {name} to the certificates of your network, or unset it"
            checks.append(Check(name, "fail", f"{value} is not there: every download fails", fix))
    return checks


def check_platform(facts: Facts) -> list[Check]:
    """Whether the pinned torch and bitsandbytes have wheels for this system (training only)."""
    libc = re.fullmatch(r"glibc (\d+)\.(\d+).*", facts["libc"])
    if facts["sys_platform"] == "linux":
        if libc and (int(libc[1]), int(libc[2])) < (2, 28):
            text = f"{facts['libc']}: torch's wheel needs 2.28, pip would find old ones only"
            return [Check("glibc", "fail", text, "take Ubuntu 20.04, Debian 11 or newer")]
        if facts["platform_machine"] not in ("x86_64", "aarch64"):
            text = f"{facts['platform_machine']}: no wheels of torch and bitsandbytes"
            return [Check("platform", "fail", text, "take an x86-64 or arm64 host")]
        return [Check("glibc", "ok", facts["libc"] or "unknown (not glibc)")]
    if facts["sys_platform"] == "darwin" and int((facts["mac"] or "0").split(".")[0]) < 14:
        text = f"macOS {facts['mac']}: bitsandbytes has wheels from macOS 14 on"
        return [Check("platform", "fail", text, "update macOS, or rehearse on Linux")]
    return []


def torch_cuda(env: Path) -> str:
    """The CUDA that the environment's torch is built with, '12.8'; '' for a CPU build or none."""
    site = site_packages(env)
    try:
        text = (site / "torch" / "version.py").read_text(encoding="utf-8") if site else ""
    except OSError:
        return ""
    cuda = re.search(r"^cuda.*=\s*'(\d+\.\d+)", text, re.M)
    return cuda[1] if cuda else ""


def check_bitsandbytes(env: Path) -> list[Check]:
    """That bitsandbytes brings a library for the CUDA that torch is built with. No import."""
    site = site_packages(env)
    if site is None or not (site / "torch" / "version.py").is_file():
        return [Check("bitsandbytes", "skip", "torch is not installed")]
    cuda = torch_cuda(env)
    needed = f"cuda{cuda.replace('.', '')}" if cuda else "cpu"
    libraries = sorted(p.stem for p in (site / "bitsandbytes").glob("libbitsandbytes_*"))
    if f"libbitsandbytes_{needed}" in libraries:
        return [Check("bitsandbytes", "ok", f"has a library for torch's {needed}")]
    if not cuda and libraries:
        return [Check("bitsandbytes", "ok", f"{libraries[0].removeprefix('libbitsandbytes_')}")]
    text = f"no library for torch's {needed}" if libraries else "not installed"
    return [Check("bitsandbytes", "fail", text, "./setup_remote.sh --force")]
