"""A small checkout whose environments are metadata alone, for tests that break one thing in it."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from setup import installed_packages, lock_file
from support.checkout import ROOT

TOKEN = "hf_" + "a1B2" * 9
FACTS = lock_file.interpreter_facts()


def short_lock(text: str) -> str:
    """The lines of a few packages, so that an environment is made in a moment."""
    few = r"^(?:numpy|pandas|torch|bitsandbytes|scipy|tqdm)==.*\n(?: .*\n)*"
    return "".join(re.findall(few, text, re.M))


class SmallCheckout:
    """A copy of the kit with environments whose packages are metadata, and its own git."""

    def __init__(self, root: Path):
        self.root = root
        needed = ("kit", "config", "setup", "checks", "base_model", "validate_environment.py")
        (root / "scripts").mkdir()
        for path in (ROOT / "scripts" / name for name in needed):
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, root / "scripts" / path.name)
        shutil.copytree(ROOT / "configs", root / "configs")
        shutil.copy(ROOT / ".gitignore", root)
        for env in ("local", "remote"):
            lock = f"requirements-{env}.txt"
            (root / lock).write_text(short_lock((ROOT / lock).read_text()))
        for name in ("data/raw", "data/processed", "data/synthetic", "models", "adapters"):
            (root / name).mkdir(parents=True)
        self.git("init", "-q")
        self.git("add", ".gitignore", "configs")
        for env in ("local", "remote"):
            self.make_environment(env)

    def git(self, *words: str) -> None:
        subprocess.run(["git", *words], cwd=self.root, check=True)

    def make_environment(self, env: str) -> None:
        folder = self.root / ".envs" / f"{env}-0123456789ab"
        site = folder / "lib" / f"python{FACTS['python_version']}" / "site-packages"
        site.mkdir(parents=True)
        (folder / "bin").mkdir()
        (folder / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
        home = os.path.dirname(os.path.realpath(sys.executable))
        (folder / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
        for name, version in lock_file.wanted(self.root / f"requirements-{env}.txt", FACTS).items():
            info = site / f"{name.replace('-', '_')}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").touch()
            (info / "RECORD").touch()
        notes = folder / ".tandem"
        notes.mkdir()
        shutil.copy(self.root / f"requirements-{env}.txt", notes / "lock.txt")
        (notes / "stamp").write_text("x\nvenv\n1\n3.10 /python\n")
        (self.root / f".venv-{env}").symlink_to(f".envs/{folder.name}")

    def with_packages(self) -> None:
        """Let the local environment import what this test's interpreter can: PyYAML, pydantic."""
        (self.site() / "real.pth").write_text("\n".join(sys.path))

    def site(self, env: str = "local") -> Path:
        return installed_packages.site_packages(self.root / f".venv-{env}")

    def info(self, name: str, env: str = "local") -> Path:
        """The metadata folder of an installed package."""
        (folder,) = self.site(env).glob(f"{name}-*.dist-info")
        return folder


def stand_in(path: Path, text: str) -> None:
    """An executable script in a program's place."""
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
