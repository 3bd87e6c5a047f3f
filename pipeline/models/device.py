"""The devices that this process sees."""

import torch


def n_gpus() -> int:
    """Count the GPUs that torch can use here."""
    return torch.cuda.device_count()


def device_of(asked_for: str) -> str:
    """Device to run on for ``auto``, ``cpu`` or ``cuda``; ``auto`` takes a GPU if there is one."""
    return asked_for if asked_for != "auto" else ("cuda" if n_gpus() else "cpu")
