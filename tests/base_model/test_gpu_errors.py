"""Full memory and a lost GPU are known in every library's words; other errors are neither."""

import errno

import pytest

from base_model import gpu_errors
from kit import console

pytestmark = pytest.mark.remote_env
FULL = [
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronous"),
    RuntimeError("CUDA driver error: out of memory"),  # expandable segments
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("ncclUnhandledCudaError: Last error: Cuda failure 2 'out of memory'"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED"),
    MemoryError(),
]
HOST = [
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
    RuntimeError("unable to mmap 5 bytes from file <x>: Cannot allocate memory (12)"),
    RuntimeError("std::bad_alloc"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]
LOST = [
    "CUDA error: unspecified launch failure",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: no CUDA-capable device is detected",
    "No CUDA GPUs are available",
    "CUDA unknown error - this may be due to an incorrectly set up environment",
    "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
    "CUDA driver initialization failed, you might not have a CUDA gpu.",
    "ncclUnhandledCudaError: Last error: Cuda failure 719 'unspecified launch failure'",
]


@pytest.mark.parametrize("error", [*FULL, *HOST], ids=str)
def test_full_memory_is_known_in_every_librarys_words(error):
    assert gpu_errors.memory_is_full(error) and not gpu_errors.gpu_is_lost(error)


@pytest.mark.parametrize("error", HOST, ids=str)
def test_the_machines_memory_is_told_from_the_gpus(error):
    assert gpu_errors.host_memory_is_full(error)
    assert not gpu_errors.host_memory_is_full(FULL[0])


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape '[2, 3]' is invalid for input of size 5"),
        RuntimeError("CUDA error: device-side assert triggered"),
        ValueError("CUDA error: out of memory"),
        OSError(errno.ENOENT, "No such file or directory"),
    ],
)
def test_other_errors_are_neither(error):
    assert not gpu_errors.memory_is_full(error) and not gpu_errors.gpu_is_lost(error)


@pytest.mark.parametrize("words", LOST)
def test_a_lost_gpu_is_one_line_in_every_librarys_words(words):
    assert gpu_errors.gpu_is_lost(RuntimeError(words))
    assert not gpu_errors.memory_is_full(RuntimeError(words))
    problem = gpu_errors.lost_gpu(RuntimeError(words))
    assert words.rstrip(".") in str(problem) and "start the same again" in problem.remedy
    assert gpu_errors.lost_gpu(problem, "--resume").remedy.endswith("; --resume")


def test_an_error_that_was_raised_from_another_is_that_one():
    import torch

    error = KeyError("layer 3")
    error.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    assert gpu_errors.memory_is_full(error)
    problem = console.Problem("said already")
    problem.__cause__ = error
    assert not gpu_errors.memory_is_full(problem)


@pytest.mark.parametrize(("free", "full"), [(1 << 20, True), (8 << 30, False)])
def test_a_handle_that_is_not_made_means_full_memory_on_a_full_card(free, full, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 24 << 30))
    words = "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"
    assert gpu_errors.memory_is_full(RuntimeError(words)) is full
