"""Columns of a batch: arrays by name, a row for each clip."""

from typing import Any

from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]

DIGEST_BYTES = 16
"""Length of the column ``clip_digest``."""
