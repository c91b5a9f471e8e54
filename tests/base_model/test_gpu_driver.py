"""A driver that hangs, and GPUs that torch does not see, are one line each."""

import os
import stat
import sys
import types

import pytest

from base_model import gpu_driver
from checks import gpu
from kit import console

LOST = "Unable to determine the device handle for GPU 0000:01:00.0: GPU is lost."


@pytest.fixture(autouse=True)
def afresh(monkeypatch):
    for made in (gpu_driver.require_answer, gpu_driver.failures):
        made.cache_clear()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """smi(text, code): a stand-in for nvidia-smi on PATH that says so."""

    def make(text, code):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho '{text}'\nexit {code}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return make


@pytest.fixture
def torch_sees(monkeypatch):
    """torch_sees(n): a torch that sees n GPUs."""

    def see(count):
        cuda = types.SimpleNamespace(is_available=lambda: count > 0)
        torch = types.SimpleNamespace(cuda=cuda, __version__="2.10.0")
        monkeypatch.setitem(sys.modules, "torch", torch)

    return see


def test_a_driver_that_hangs_is_one_line(smi, monkeypatch):
    smi(LOST, 15)
    monkeypatch.setattr(gpu, "CUDA_QUESTION", ["sleep", "600"])
    monkeypatch.setattr(gpu, "DRIVER_SECONDS", 0.1)
    with pytest.raises(console.Problem, match="cuInit does not come back.*reboot the host"):
        gpu_driver.require_answer()


def test_using_the_stack_once_does_not_hang_with_the_driver(smi, monkeypatch, capsys):
    from checks import smoke

    smi(LOST, 15)
    monkeypatch.setattr(gpu, "CUDA_QUESTION", ["sleep", "600"])
    monkeypatch.setattr(gpu, "DRIVER_SECONDS", 0.1)
    assert smoke.main(["remote"]) == 1
    out = capsys.readouterr().out
    assert "cuInit does not come back" in out and "reboot the host" in out


def test_a_driver_that_answers_and_a_machine_without_one_are_good(smi, monkeypatch, tmp_path):
    smi("", 0)
    monkeypatch.setattr(gpu, "CUDA_QUESTION", ["true"])
    gpu_driver.require_answer()
    monkeypatch.setattr(gpu, "find_smi", lambda: None)
    monkeypatch.setattr(gpu, "CUDA_QUESTION", ["sleep", "600"])
    gpu_driver.require_answer.cache_clear()
    gpu_driver.require_answer()


def test_gpus_that_torch_does_not_see_are_missed_with_the_drivers_reason(smi, torch_sees):
    smi(LOST, 15)
    torch_sees(0)
    problem = gpu_driver.unseen()
    assert "a GPU has fallen off the bus" in problem.text
    assert "reboot the host" in problem.remedy and "CUDA_VISIBLE_DEVICES=-1" in problem.remedy


@pytest.mark.parametrize(
    ("seen", "visible", "there"), [(1, None, True), (0, "-1", True), (0, "", True), (0, "0", False)]
)
def test_nothing_is_missed_where_one_is_seen_hidden_or_never_was(
    seen, visible, there, smi, torch_sees, monkeypatch
):
    smi(LOST, 15)
    torch_sees(seen)
    monkeypatch.setattr(gpu, "driver_is_there", lambda: there)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_driver.unseen() is None
