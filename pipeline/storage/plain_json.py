"""Values as JSON has them: NumPy's become Python's own, and what isn't finite becomes null."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def plain(value: Any, number: Callable[[float], float]) -> Any:
    """Give mappings, sequences, arrays and scalars, at any depth, as JSON has them.

    Parameters
    ----------
    number
        Rounds a finite number.

    Returns
    -------
    Plain values; what is none of these stays as it is
    """
    if isinstance(value, Mapping):
        return {str(name): plain(part, number) for name, part in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(part, number) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return number(value) if math.isfinite(value) else None
    return value
