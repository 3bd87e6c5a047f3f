"""One cell of the leaderboard, a method on a subject: measured, kept in a file, and read again.

A cell is one Parquet file, a row for each clip and a column for each metric, which is written as a
whole: that it is there is the mark that it is done. Metrics that a later call asks for are added.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import ModelError, RunMismatchError, StoreError, reason_of
from pipeline.evaluation.benchmark.metrics import METRICS
from pipeline.evaluation.benchmark.subject import Cost, Explained, Subject
from pipeline.storage.files import read_bytes, write_bytes

Float64Array = NDArray[np.float64]

VERSION = 1
"""Raised when the same method, metric and clips would give other values."""
_KEY = b"staa-benchmark"


@dataclass(frozen=True)
class Cell:
    """What was measured of a method on a subject."""

    model: str
    seed: int
    method: str
    values: Mapping[str, Float64Array] = field(default_factory=dict)
    """(clips,) of each metric; NaN where it is undefined."""
    cost: Cost | None = None
    reason: str = ""
    """Why the method can't explain the model; empty if it can."""
    is_for_good: bool = False
    """Whether the reason is one of the model, as its family; what a method gave may be mended."""

    @property
    def is_done(self) -> bool:
        """Whether nothing is tried again: nobody can measure what can't be explained."""
        return bool(self.reason) and self.is_for_good

    def lacks(self, metrics: Iterable[str]) -> tuple[str, ...]:
        """Metrics that aren't measured yet."""
        return () if self.is_done else tuple(name for name in metrics if name not in self.values)

    def is_to_be_measured(self, metrics: Iterable[str]) -> bool:
        """Whether a metric or the cost isn't measured yet, or the last try was refused."""
        if self.is_done:
            return False
        return bool(self.reason) or self.cost is None or bool(self.lacks(metrics))


def cell_url(out: str, model: str, seed: int, method: str) -> str:
    """Where a cell is kept below a benchmark's folder."""
    # Grad-CAM and Grad-CAM++ are two files.
    name = re.sub(r"[^a-z0-9]+", "-", method.lower().replace("+", "p"))
    return f"{out.rstrip('/')}/values/{model}/{seed}/{name}.parquet"


def measure(cell: Cell, subject: Subject, metrics: Iterable[str]) -> Cell:
    """Measure what a cell lacks; a method that can't explain the model is named with the reason."""
    explained = Explained(subject, cell.method)
    try:
        cost = explained.cost
        values = {name: METRICS[name].of(explained) for name in cell.lacks(metrics)}
    except (ModelError, ValueError) as error:
        is_for_good = isinstance(error, ModelError)
        return replace(cell, reason=reason_of(error), is_for_good=is_for_good)
    return replace(cell, values={**cell.values, **values}, cost=cell.cost or cost, reason="")


def write_cell(url: str, cell: Cell, identity: Mapping[str, Any]) -> None:
    """Write a cell as a whole.

    Parameters
    ----------
    identity
        What the values depend on, beside model, seed and method.
    """
    facts = {
        "version": VERSION,
        "identity": dict(identity),
        "cell": [cell.model, cell.seed, cell.method],
        "cost": cell.cost and asdict(cell.cost),
        "reason": cell.reason,
        "is_for_good": cell.is_for_good,
    }
    table = pa.table({name: pa.array(values) for name, values in cell.values.items()})
    table = table.replace_schema_metadata({_KEY: json.dumps(facts)})
    written = pa.BufferOutputStream()
    pq.write_table(table, written)
    write_bytes(url, memoryview(written.getvalue()))


def read_cell(out: str, model: str, seed: int, method: str, identity: Mapping[str, Any]) -> Cell:
    """Read a cell; one that isn't there has no values.

    Raises
    ------
    RunMismatchError
        If it was measured of something else; names the first difference.
    StoreError
        If it can't be read.
    """
    url = cell_url(out, model, seed, method)
    try:
        table = pq.read_table(pa.BufferReader(read_bytes(url)))
        facts = json.loads(table.schema.metadata[_KEY])
        there = {"version": facts["version"], **facts["identity"]}
        cost = facts["cost"] and Cost(**facts["cost"])
        values = {name: table[name].to_numpy() for name in table.column_names}
        reason = facts["reason"]
        # Of an earlier release it isn't known, and it is tried once more.
        is_for_good = bool(facts.get("is_for_good"))
        cell = Cell(model, seed, method, values, cost, reason, is_for_good)
    except FileNotFoundError:
        return Cell(model, seed, method)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"out: {url} can't be read: {reason_of(error)}; delete it, and it is measured again"
        ) from error
    here = {"version": VERSION, **json.loads(json.dumps(dict(identity)))}
    for key in sorted({*here, *there}):
        if here.get(key) != there.get(key):
            raise RunMismatchError(
                f"out: {url} was measured with {key}={there.get(key)!r}, and this call has "
                f"{here.get(key)!r}: choose another folder, or delete that one"
            )
    return cell
