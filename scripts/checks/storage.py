"""Disks: what Tandem needs, what each mount that matters has, and where there is more room."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from kit import console, paths
from kit.console import GB
from kit.report import Check

WARN_BELOW, FAIL_BELOW = 30.0, 20.0  # GB free where checkout and base model share a disk
BASE_MODEL = 15.0  # GB of those, in safetensors; what is already downloaded counts
FEW_INODES, NO_INODES = 100_000, 20_000  # the two environments hold about 60,000 files

# What is kept, GB from and to, and the folders of paths_config.json that hold it.
BREAKDOWN = (
    ("raw data", 0.15, 0.3, ("data_raw",)),
    ("processed data", 0.5, 1.0, ("data_processed", "data_synthetic")),
    ("base model", BASE_MODEL, BASE_MODEL, ("models",)),
    ("checkpoints", 0.5, 2.0, ("adapters",)),
    ("buffer", 10.0, 15.0, ()),
)
# What passes through: GB below which a disk that holds only this warns and fails.
CACHES = {
    "HF cache": (BASE_MODEL, 1.0),
    "uv cache": (10.0, 2.0),
    "pip cache": (2.0, 0.5),
    "conda packages": (2.0, 0.5),
    "TMPDIR": (4.0, 0.5),
}
# The variable that moves each of those caches which a home that cannot be written would block.
VARIABLES = {
    "HF cache": "HF_HOME",
    "uv cache": "UV_CACHE_DIR",
    "pip cache": "PIP_CACHE_DIR",
    "conda packages": "CONDA_PKGS_DIRS",
}
_NO_DISK = re.compile(
    r"autofs|bpf|cgroup2?|configfs|debugfs|dev(pts|tmpfs)|efivarfs|fusectl|hugetlbfs|mqueue|nsfs|"
    r"proc|pstore|ramfs|rpc_pipefs|securityfs|squashfs|sysfs|tmpfs|tracefs"
)


@dataclasses.dataclass(frozen=True)
class Mount:
    """One file system: bytes and inodes free to this user. `inodes` is None where none count."""

    point: str
    total: int
    free: int
    inodes: int | None
    read_only: bool


def hf_cache() -> Path:
    """Where huggingface_hub keeps downloads, by its own variables."""
    home = os.environ.get("HF_HOME") or os.path.join(_cache_home(), "huggingface")
    hub = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(hub or os.path.join(home, "hub")).expanduser()


def _cache_home() -> str:
    return os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")


def caches() -> dict[str, Path]:
    """The folders outside the checkout that fill up, by the name that the report gives them."""
    pip = os.path.join(_cache_home(), "pip")
    if sys.platform == "darwin":
        pip = os.path.expanduser("~/Library/Caches/pip")
    folders = {
        "HF cache": hf_cache(),
        "uv cache": Path(os.environ.get("UV_CACHE_DIR") or os.path.join(_cache_home(), "uv")),
        "pip cache": Path(os.environ.get("PIP_CACHE_DIR") or pip),
        "TMPDIR": Path(tempfile.gettempdir()),
    }
    if os.environ.get("CONDA_PKGS_DIRS"):
        folders["conda packages"] = Path(os.environ["CONDA_PKGS_DIRS"].split(os.pathsep)[0])
    return folders


def existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    path = Path(os.path.abspath(path))
    while not path.exists():
        path = path.parent
    return path


def mount_of(path: Path) -> Mount:
    """The file system that holds `path`, or would hold it. Raises OSError."""
    where = Path(os.path.realpath(existing(path)))
    facts = os.statvfs(where)
    while not os.path.ismount(where):
        where = where.parent
    return Mount(
        str(where),
        facts.f_blocks * facts.f_frsize,
        facts.f_bavail * facts.f_frsize,
        facts.f_favail if facts.f_files else None,
        bool(facts.f_flag & os.ST_RDONLY),
    )


def used(folder: Path) -> int:
    """Bytes on disk below `folder`; a file with two links counts once, links are not followed."""
    return measure(folder, math.inf)[0]


def measure(folder: Path, seconds: float) -> tuple[int, bool]:
    """(bytes on disk below `folder` as far as counted in that time, whether that is all)."""
    total, seen, todo = 0, set(), [str(folder)]
    until = time.monotonic() + seconds
    while todo:
        if time.monotonic() > until:
            return total, False
        try:
            entries = list(os.scandir(todo.pop()))
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                todo.append(entry.path)
                continue
            try:
                facts = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if facts.st_nlink == 1 or (facts.st_dev, facts.st_ino) not in seen:
                total += facts.st_blocks * 512
                seen.add((facts.st_dev, facts.st_ino))
    return total, True


def roomiest(wanted: float, without: str, folders: Iterable[str] | None = None) -> str:
    """A writable folder on the mount with most room, at least `wanted` bytes free, or ''.

    `without` is the mount that is full; RAM disks do not count.
    """
    best = (wanted, "")
    for folder in folders if folders is not None else _mount_points():
        if folder == "/" or not os.access(folder, os.W_OK):
            continue
        mount = _in_time(lambda folder=folder: mount_of(Path(folder)))
        if mount and mount.point != without and not mount.read_only and mount.free > best[0]:
            best = (mount.free, folder)
    return best[1]


def _mount_points() -> list[str]:
    home = os.path.expanduser("~")
    if sys.platform == "darwin":
        return [home, *(str(p) for p in Path("/Volumes").glob("*"))]
    try:
        lines = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return [home]
    fields = [line.split(" ") for line in lines]
    points = [f[1].replace("\\040", " ") for f in fields if not _NO_DISK.fullmatch(f[2])]
    system = re.compile(
        "/(?:boot|etc|proc|sys|dev|run/(?!media/))"
    )  # /run/netns: no place for files
    return [home, *(p for p in points if os.path.isdir(p) and not system.match(p))]


def _in_time(question: Callable[[], Mount]) -> Mount | None:
    """The answer, or None: a dead network mount must not hold the report up."""
    answers: list[Mount] = []

    def ask() -> None:
        try:
            answers.append(question())
        except OSError:
            return

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2.0)
    return answers[0] if answers else None


def checks(
    root: Path, folders: dict[str, Path], warn_below=WARN_BELOW, fail_below=FAIL_BELOW
) -> list[Check]:
    """Space, inodes and write access of every mount that holds `root`, `folders` or a cache.

    Args: `root` is the checkout, `folders` {name in paths_config.json: path}; limits in GB.
    """
    places = {"checkout": root} | folders | caches()
    mounts: dict[str, tuple[Mount, list[str]]] = {}
    answered: list[Check] = []
    silent: list[Check] = []
    for name, path in places.items():
        mount = _in_time(lambda path=path: mount_of(path))
        if mount is None:
            silent.append(Check(f"disk of {name}", "fail", f"{path} does not answer", "remount it"))
            continue
        mounts.setdefault(mount.point, (mount, []))[1].append(name)
        answered += _writable(name, path, mount)
    for mount, names in mounts.values():
        here = int(_model_bytes(folders)) if "models" in names else 0
        limits = _limits(names, folders, here / GB, warn_below, fail_below)
        answered += [_space(mount, names, limits, places), *_inodes(mount)]
    return silent + sorted(answered, key=lambda c: not c.name.startswith("disk"))


def _model_bytes(folders: dict[str, Path]) -> int:
    return min(used(folders["models"]), int(BASE_MODEL * GB)) if "models" in folders else 0


def _limits(names, folders, model_here, warn_below, fail_below) -> tuple[float, float]:
    """GB below which a mount that holds `names` warns and fails."""
    warn = fail = 0.0
    if "checkout" in names:
        warn, fail = warn_below, fail_below
        if "models" in folders and "models" not in names:  # the base model is elsewhere
            warn, fail = warn - BASE_MODEL, fail - BASE_MODEL
    elif "models" in names:
        warn = fail = BASE_MODEL
    warn, fail = warn - model_here, fail - model_here
    passing = [CACHES[n] for n in names if n in CACHES] + [(1.0, 0.5)]
    return max(warn, *(p[0] for p in passing)), max(fail, *(p[1] for p in passing))


def _space(mount: Mount, names, limits, places) -> Check:
    shown = [n for n in names if n in CACHES or n in ("checkout", "models", "data_raw")]
    holds = ", ".join(shown or names)
    text = f"{console.size(mount.free)} free of {console.size(mount.total)} ({holds})"
    free = mount.free / GB
    status = "fail" if free < limits[1] else "warn" if free < limits[0] else "ok"
    if status == "ok":
        return Check(f"disk {mount.point}", "ok", text)
    wanted = limits[1] if status == "fail" else limits[0]
    text += f", below {wanted:g} GB"
    other = roomiest(max(limits[0] * GB, mount.free * 1.5), mount.point)
    return Check(f"disk {mount.point}", status, text, _remedy(mount, names, places, wanted, other))


def _remedy(mount: Mount, names, places, wanted: float, other: str) -> str:
    missing = console.size(wanted * GB - mount.free)
    if not other:
        big = [places[n] for n in names if n in CACHES and places[n].exists()]
        folders = " ".join(shlex.quote(str(p)) for p in big or [places[names[0]]])
        return f"free {missing} there: du -sh {folders}"
    base = shlex.quote(other.rstrip("/"))
    if "checkout" in names:
        here = Path(places["checkout"])
        move = (
            f"mv {shlex.quote(str(here))}" if (here / "scripts").exists() else "put the checkout at"
        )
        return (
            f"{other} has more room: {move} {base}/tandem, and "
            f"export HF_HOME={base}/.cache/huggingface UV_CACHE_DIR={base}/.cache/uv "
            f"PIP_CACHE_DIR={base}/.cache/pip TMPDIR={base}"
        )
    if "models" in names:
        return f'{other} has more room: "models": "{other}/models" in configs/paths_config.json'
    variable = {
        "HF cache": f"HF_HOME={base}/.cache/huggingface",
        "uv cache": f"UV_CACHE_DIR={base}/.cache/uv",
        "pip cache": f"PIP_CACHE_DIR={base}/.cache/pip",
        "conda packages": f"CONDA_PKGS_DIRS={base}/.cache/conda",
        "TMPDIR": f"TMPDIR={base}",
    }
    return f"{other} has more room: export {' '.join(variable[n] for n in names if n in variable)}"


def _writable(name: str, path: Path, mount: Mount) -> list[Check]:
    where = existing(path)
    if os.access(where, os.W_OK) and not mount.read_only:
        return []
    status = "warn" if name in CACHES and name != "TMPDIR" else "fail"
    if mount.read_only:
        fix = f"mount {mount.point} writable (dmesg says whether the disk failed), or use another"
        return [Check(f"write {name}", status, f"{mount.point} is read-only ({path})", fix)]
    if name in VARIABLES:
        other = shlex.quote(str(paths.ROOT / ".cache" / name.split()[0]))
        fix = f"export {VARIABLES[name]}={other} (the set-up does so by itself)"
        return [Check(f"write {name}", status, f"{where} is not writable for you", fix)]
    fix = f"sudo chown -R $(id -un) {shlex.quote(str(where))}, or name another folder"
    return [Check(f"write {name}", status, f"{where} is not writable for you", fix)]


def _inodes(mount: Mount) -> list[Check]:
    if mount.inodes is None:
        return []
    name, text = f"inodes {mount.point}", f"{mount.inodes:,} files can still be made"
    if mount.inodes >= FEW_INODES:
        return [Check(name, "ok", text)]
    status = "fail" if mount.inodes < NO_INODES else "warn"
    fix = f"delete folders of many small files on {mount.point}: uv cache prune, old environments"
    return [Check(name, status, text, fix)]
