"""Devices of this machine that a model can run on."""

import torch


def n_gpus() -> int:
    """GPUs that torch sees here."""
    return torch.cuda.device_count()
