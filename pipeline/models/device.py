"""The devices that this process sees."""

import torch


def n_gpus() -> int:
    """Count the GPUs that torch can use here."""
    return torch.cuda.device_count()
