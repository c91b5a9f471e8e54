"""Environments of tools that a few tests need and no lock holds: made on demand, kept."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from support.checkout import ROOT


def python_with(package: str, module: str) -> Path:
    """A Python that can import `module`, in .cache/test-tools/MODULE; skips where it cannot be had.

    package: what uv installs, such as "schemathesis==4.32.5".
    """
    place = ROOT / ".cache" / "test-tools" / module
    uv = shutil.which("uv") or str(ROOT / ".venv-local" / "bin" / "uv")
    python, mark = place / "bin" / "python", place / "package.txt"
    check = [str(python), "-c", f"import {module}"]
    have = mark.exists() and mark.read_text() == package
    if not have or subprocess.run(check, capture_output=True).returncode:
        try:
            subprocess.run([uv, "venv", "-q", "--clear", str(place)], check=True, timeout=60,
                           capture_output=True)  # fmt: skip
            subprocess.run([uv, "pip", "install", "-q", "--python", str(python), package],
                           check=True, timeout=600, capture_output=True)  # fmt: skip
            mark.write_text(package)
        except (OSError, subprocess.SubprocessError) as error:
            shutil.rmtree(place, ignore_errors=True)
            pytest.skip(f"{package} cannot be installed here ({error}); uv pip install {package}")
    return python
