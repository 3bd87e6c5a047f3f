"""Columns of a batch: arrays by name, a row for each clip."""

from typing import Any

from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]
