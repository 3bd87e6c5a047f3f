"""Columns of shards that aren't whole yet: tasks end in any order, and a shard is written once."""

import threading
from collections import defaultdict

import numpy as np

from pipeline.clips.columns import Columns
from pipeline.store.schema import StoreLayout


class ShardGathering:
    """Keeps the columns of tasks until those of their whole shard are there.

    A clip that takes long holds up its own shard alone: those behind it are written meanwhile.
    """

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        # By shard, and by the first row of the task.
        self._parts: defaultdict[int, dict[int, Columns]] = defaultdict(dict)

    def add(self, columns: Columns) -> list[Columns]:
        """Take in the columns of a task, of one shard's consecutive rows.

        Returns
        -------
        The columns of all tasks of the shard, in the order of their rows, if this was the last that
        was missing; else nothing. They are kept until `forget`, so that a task that is done again
        gets the same answer.
        """
        first_row = int(columns["row"][0])
        shard = first_row // self._layout.rows_per_shard
        with self._lock:
            parts = self._parts[shard]
            parts[first_row] = columns
            if sum(len(part["row"]) for part in parts.values()) < len(
                self._layout.shard_rows(shard)
            ):
                return []
            return [parts[row] for row in sorted(parts)]

    def forget(self, first_row: int) -> None:
        """Let go of a shard that is written."""
        with self._lock:
            self._parts.pop(first_row // self._layout.rows_per_shard, None)

    @property
    def n_rows(self) -> int:
        """Rows that are kept now."""
        with self._lock:
            return sum(
                len(part["row"]) for parts in self._parts.values() for part in parts.values()
            )


def concatenated(parts: list[Columns]) -> Columns:
    """Columns of consecutive batches as one."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
