"""What nvidia-smi prints: a driver cannot be had here."""

CARD_3090 = "NVIDIA GeForce RTX 3090, 24576, 550.54.15"
CARD_H100 = "NVIDIA H100 80GB HBM3, 81559, 550.54.15"

MESSAGES = {
    12: "Failed to initialize NVML: Shared library libnvidia-ml.so couldn't be found",
    18: "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 550.54",
    9: "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure "
    "that the latest NVIDIA driver is installed and running.",
    6: "No devices were found",
    15: "Unable to determine the device handle for GPU 0000:01:00.0: GPU is lost.  Reboot the "
    "system to recover this GPU",
    16: "Unable to determine the device handle for GPU 0000:01:00.0: GPU requires reset",
    4: "Failed to initialize NVML: Insufficient Permissions",
    8: "Unable to initialize GPU: external power cables are not properly attached",
    10: "NVIDIA kernel detected an interrupt issue with a GPU",
    13: "Failed to initialize NVML: Function Not Found",
    14: "WARNING: infoROM is corrupted at gpu 0000:01:00.0",
    255: "Failed to initialize NVML: Unknown Error",
}
