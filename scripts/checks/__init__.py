"""The environment room: disks, GPUs, model files, pins and secrets, as lists of checks."""
