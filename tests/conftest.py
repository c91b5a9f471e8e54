"""Fixtures that several rooms use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.checkout import ROOT, SAMPLES


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real inputs; tests that need it are skipped where it is absent."""
    if not SAMPLES.is_dir():
        pytest.skip("the folder of real samples (../shared/samples) is not here")
    return SAMPLES


@pytest.fixture(scope="session", autouse=True)
def without_callers_shell():
    """No variable of the caller's shell changes what a test or its fixtures see, and programs that
    they start can be interrupted: after a shell's `&` they would ignore SIGINT."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("TANDEM_") and name not in ("TANDEM_TEST_FAST", "TANDEM_PYTHON"):
                patch.delenv(name)
        for name in ("HOST", "HOSTS", "BUCKET", "ENGINE", "RAW", "DRY_RUN", "CONFIRM"):
            patch.delenv(name, raising=False)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture
def command(tmp_path):
    """Run `scripts/NAME.py` as a user does: command("paths.py", "--json", env={...}).

    Returns the CompletedProcess with text streams; TANDEM_WORKDIR is the test's folder.
    """

    def run(name: str, *arguments: object, env: dict[str, str] | None = None, timeout: int = 300):
        words = [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]
        return subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"TANDEM_WORKDIR": str(tmp_path)} | (env or {}),
        )

    return run
