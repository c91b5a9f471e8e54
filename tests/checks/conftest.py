"""Fixtures of this room: a small checkout, validate in it, stand-in programs, check_gpu."""

import json
import os
import shutil
import stat
import subprocess
import sys

import pytest

import check_gpu
from checks import machine
from support.gpu_answers import CARD_3090
from support.small_checkout import TOKEN, SmallCheckout


@pytest.fixture
def kit(tmp_path, monkeypatch) -> SmallCheckout:
    for name in ("HF_HOME", "UV_CACHE_DIR", "PIP_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "caches" / name))
    for name in ("HF_HUB_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "RSYNC"):
        monkeypatch.delenv(name, raising=False)
    for name in (*machine._SPOILERS, *machine._CERTIFICATES, "HF_HUB_ENABLE_HF_TRANSFER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    (tmp_path / "kit").mkdir()
    return SmallCheckout(tmp_path / "kit")


@pytest.fixture
def validate(kit):
    """Run validate_environment.py --json in that checkout: (exit code, {check: its values})."""

    def run(env="local", *arguments, python=(sys.executable,), **variables):
        words = [*python, "scripts/validate_environment.py", "--env", env, "--json", *arguments]
        variables = os.environ | {k: str(v) for k, v in variables.items()}
        done = subprocess.run(words, cwd=kit.root, env=variables, capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        body = json.loads(done.stdout)
        return done.returncode, {c["name"]: c for c in body["checks"]}

    return run


@pytest.fixture
def programs(tmp_path):
    """A folder for PATH with links to what the machine has, without rsync and nvidia-smi."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("git", "ssh", "sh", "tar"):
        if program := shutil.which(name):
            (folder / name).symlink_to(program)
    return folder


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """smi(cards=…, compute_cap=…): put a stand-in on PATH that answers so."""

    def make(cards=CARD_3090, compute_cap="8.6", used="3", mig="[N/A]", listing="", cuda="12.4"):
        answers = {
            "name,memory.total": cards,
            "compute_cap": compute_cap,
            "memory.used": used,
            "mig.mode": mig,
        }
        lines = ["#!/bin/sh", 'case "$*" in']
        lines += [f"*{asked}*) cat <<'END'\n{answer}\nEND\n;;" for asked, answer in answers.items()]
        lines += [f"-L) cat <<'END'\n{listing}\nEND\n;;"]
        lines += [f"*) echo '| Driver Version: 550.54.15   CUDA Version: {cuda} |' ;;", "esac"]
        return write("\n".join(lines))

    def write(text: str):
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
        return program

    make.write = write
    for name in ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "BNB_CUDA_VERSION"):
        monkeypatch.delenv(name, raising=False)
    return make


@pytest.fixture
def look(capsys, monkeypatch):
    """Run check_gpu.py --json, in this process: (exit code, {check: its values}, the cards)."""

    def run(*arguments, env=None):
        with monkeypatch.context() as patch:
            for name, text in (env or {}).items():
                patch.setenv(name, text)
            code = check_gpu.main(["--json", *map(str, arguments)])
        body = json.loads(capsys.readouterr().out)
        return code, {c["name"]: c for c in body["checks"]}, body["gpus"]

    return run
