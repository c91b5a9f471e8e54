"""Tables about NVIDIA GPUs: errors and their remedies, what torch needs, memory classes."""

from __future__ import annotations

import dataclasses
import re

BF16_FROM, WHEEL_FROM, WHEEL_TO = 8.0, 7.0, 12.9  # compute capability: bf16; torch's wheels
_CONTAINER = "in a container: start it with --gpus all"


@dataclasses.dataclass(frozen=True)
class DriverFailure:
    """One known failure: an exit code or a pattern in the output, what it means, and its fix."""

    code: int | None
    pattern: str
    found: str
    fix: str


# nvidia-smi prints its messages on stdout. The exit code decides; where it is not in the table,
# the first pattern that matches does.
SMI_FAILURES = (
    DriverFailure(
        12,
        r"couldn't find libnvidia-ml|NVML.*(not found|couldn't be found)|libnvidia-ml\.so",
        "nvidia-smi finds no driver library (libnvidia-ml.so)",
        f"install the NVIDIA driver, 525.60.13 or newer; {_CONTAINER}, and with "
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    ),
    DriverFailure(
        18,
        r"[Dd]river/library version mismatch",
        "the loaded kernel module and the driver's libraries are of two versions",
        "reboot the host (an update replaced the driver under the running one); "
        "in a container: restart it",
    ),
    DriverFailure(
        9,
        r"couldn't communicate with the NVIDIA driver",
        "no NVIDIA driver is loaded",
        "sudo modprobe nvidia, or reboot; after a kernel update install the driver again; "
        "on a rented host take another one",
    ),
    DriverFailure(
        6,
        r"No devices were found",
        "the driver runs and finds no GPU",
        f"rent a host with a GPU; {_CONTAINER}; sudo dmesg | grep -i xid says whether one failed",
    ),
    DriverFailure(
        15,
        r"GPU is lost|fallen off the bus",
        "a GPU has fallen off the bus",
        "reboot the host; if it comes again the card or its power is broken: take another host",
    ),
    DriverFailure(
        16,
        r"requires reset",
        "a GPU has failed and must be reset",
        "sudo nvidia-smi --gpu-reset -i INDEX while nothing runs on it, or reboot the host",
    ),
    DriverFailure(
        4,
        r"Insufficient Permissions",
        "you may not use the GPU (insufficient permissions)",
        "ls -l /dev/nvidia*: join the group that owns them (sudo usermod -aG video $(id -un))",
    ),
    DriverFailure(
        8,
        r"external power",
        "a GPU lacks its external power cable",
        "plug it in; on a rented host take another one",
    ),
    DriverFailure(
        10,
        r"interrupt",
        "the kernel sees a GPU's interrupts fail",
        "reboot the host; sudo dmesg | grep -i nvrm says more",
    ),
    DriverFailure(
        13,
        r"Function Not Found",
        "the driver's library is older than nvidia-smi",
        "reinstall the driver so that both are of one version",
    ),
    DriverFailure(
        14,
        r"infoROM is corrupted",
        "a GPU's infoROM is corrupted",
        "the card still computes, its health data do not hold: ask the provider for another",
    ),
    DriverFailure(
        255,
        r"Unknown Error",
        "the driver answers with an unknown error",
        "in a container: restart it (it loses its GPU when the host reloads systemd); else reboot; "
        "sudo dmesg | grep -i xid says more",
    ),
)
# What cuInit returns where nvidia-smi is content and CUDA is not.
CUDA_FAILURES = (
    DriverFailure(
        100,
        "",
        "CUDA sees no device",
        "unset CUDA_VISIBLE_DEVICES; ls /dev/nvidia*; " + _CONTAINER,
    ),
    DriverFailure(
        802,
        "",
        "error 802: the system is not initialised, the NVLink switches have no fabric manager",
        "sudo systemctl restart nvidia-fabricmanager (of the driver's version), or another host",
    ),
    DriverFailure(
        803,
        "",
        "error 803: libcuda and the loaded driver do not fit each other",
        "take the compat folder out of LD_LIBRARY_PATH; restart the container; reboot the host",
    ),
    DriverFailure(
        804,
        "",
        "error 804: the image's CUDA compat libraries do not work on this card",
        "take /usr/local/cuda*/compat out of LD_LIBRARY_PATH, or use an image for the host's CUDA",
    ),
    DriverFailure(
        34,
        "",
        "error 34: a stub libcuda is loaded instead of the driver's",
        "take the folder named stubs out of LD_LIBRARY_PATH",
    ),
    DriverFailure(999, "", "error 999: unknown", "reboot the host, or take another one"),
    DriverFailure(
        None,
        "",
        "libcuda.so.1 does not load: nvidia-smi works, CUDA programs will not",
        "in a container: start it with NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    ),
)
# From this torch on (the lock's pin), its default wheel is for that CUDA and needs that driver.
TORCH_NEEDS = (((2, 11), "13", "580.65.06"), ((2, 1), "12", "525.60.13"))
CUDA_WANTED = (12, 1)
# MiB from, MiB to (below), name, and what to do about it ('' = nothing). What fits on a card is the
# plan's to say: it depends on the base model and the settings.
MEMORY_CLASSES = (
    (
        0,
        10_000,
        "below 10 GB",
        "python scripts/lora_trainer.py --estimate says whether the configured model fits",
    ),
    (10_000, 22_000, "below the 24 GB class", ""),
    (22_000, 26_000, "24 GB class", ""),
    (26_000, 78_000, "between the 24 GB and 80 GB classes", ""),
    (78_000, 90_000, "80 GB class", ""),
    (90_000, 1 << 40, "above the 80 GB class", ""),
)
# Cards that use the host's memory as theirs; nvidia-smi says [N/A] for their memory.
UNIFIED_MEMORY = re.compile(r"\b(GB10|Orin|Thor|Xavier|Tegra|Jetson|DGX Spark)\b", re.I)
# What nvidia-smi prints in place of the values of a card that has failed.
FAILED_CARD = re.compile(r"requires? reset|GPU is lost|fallen off", re.I)
# Libraries that torch's wheel brings; a copy in LD_LIBRARY_PATH is loaded instead.
SHADOWS = re.compile(
    r"lib(cudart|cublas|cudnn|nccl|nvrtc|cusparse|cusolver|cufft|curand|nvJitLink)\w*\.so"
)
