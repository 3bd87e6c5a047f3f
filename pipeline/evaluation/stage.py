"""The stage that measures faithfulness: frames that were decoded once, asked about many times.

Each clip is asked about by itself, so its values depend on nothing but the clip, and what it shows
with some parts replaced goes through the model once, whichever metrics need it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.attribution.focus import joint_attribution
from pipeline.attribution.method import Precision
from pipeline.clips.columns import Columns
from pipeline.evaluation import published
from pipeline.evaluation.faithfulness import (
    FRACTIONS,
    cam_entropy,
    drops,
    gap,
    random_drops,
    random_gap,
)
from pipeline.evaluation.perturbation import FILLS, UNITS, Probe
from pipeline.models.attributor import is_out_of_memory, normalise, out_of_memory_with
from pipeline.models.checkpoint import Checkpoint, load_adapter
from pipeline.models.geometry import Geometry
from pipeline.status import Status
from pipeline.store.opening import open_store
from pipeline.store.run_folder import store_url
from pipeline.store.schema import Measure

_BY_FILL, _UNITS, _SHARES = ("fill",), ("fill", "unit"), ("fill", "share")
_NOT_FINITE = "the model gave NaN or infinity"
_OF_RANDOM = "the same of random orders, which is to be taken off"

MEASURES = (
    Measure("run_row", (), (), "row of the run that the clip is", "int64"),
    Measure("target", (), (), "class that was asked about", "int64"),
    Measure("n_forward", (), (), "clips that went through the model for this one", "int64"),
    Measure("gap", _UNITS, (len(FILLS), len(UNITS)), "insertion AUC less deletion AUC"),
    Measure("random_gap", _UNITS, (len(FILLS), len(UNITS)), _OF_RANDOM),
    *(
        Measure(name, _SHARES, (len(FILLS), len(FRACTIONS)), what)
        for name, what in (
            ("removed", "fall of the probability without the highest patches"),
            ("random_removed", _OF_RANDOM),
            ("kept", "fall of the probability with the highest patches alone"),
            ("random_kept", _OF_RANDOM),
        )
    ),
    Measure("cam_entropy", _BY_FILL, (len(FILLS),), "entropy gained with the map's core alone"),
    Measure("paper_faithfulness", _BY_FILL, (len(FILLS),), "change without the upper half"),
    Measure("paper_tau", _BY_FILL, (len(FILLS),), "Kendall's tau-b of share removed and change"),
)
"""What is measured of each clip; ``fill``, ``unit`` and ``share`` are in the order of `FILLS`,
`UNITS` and `FRACTIONS`."""


class _Asked:
    """A model as a probe asks it, in the run's precision."""

    def __init__(self, checkpoint: Checkpoint, device: str, dtype: torch.dtype) -> None:
        self._adapter = load_adapter(checkpoint, device=device)
        self._device, self._dtype = torch.device(device), dtype

    @property
    def grid(self) -> Geometry:
        return self._adapter.grid

    def predict(self, pixel_values: Tensor, /) -> Tensor:
        with torch.autocast(
            self._device.type, dtype=self._dtype, enabled=self._dtype != torch.float32
        ):
            return self._adapter.predict(pixel_values.to(self._dtype)).float()


class MeasureFaithfulness:
    """Holds the model on a device, and measures batches of a run's clips.

    Parameters
    ----------
    run_url
        The run whose attributions are measured.
    run_rows
        (rows,): its row of each row that comes.
    batch_size
        Versions of a clip in a forward pass, at most; fewer, where the device lacks memory.
    n_random
        Random orders that each figure is held against.
    timed
        As `pipeline.models.attributor.Attributor` has it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        run_url: str,
        run_rows: NDArray[np.int64],
        *,
        device: str,
        precision: Precision,
        batch_size: int,
        n_random: int,
        n_threads: int,
        timed: Callable[
            [Literal["transfer", "forward"]], AbstractContextManager[None]
        ] = lambda part: nullcontext(),
    ) -> None:
        if device == "cpu":
            torch.set_num_threads(n_threads)
        self._device = torch.device(device)
        self._model = _Asked(checkpoint, device, getattr(torch, precision))
        self._preprocessing = checkpoint.preprocessing
        self._store = open_store(store_url(run_url))
        self._run_rows = run_rows
        self._batch_size, self._n_random = batch_size, n_random
        self._timed = timed

    def __call__(self, batch: Columns) -> Columns:
        """Measure the clips of a batch that were decoded; NaN for the others.

        A clip whose file isn't the one any more that the run has read fails as ``missing``, and one
        that the model gives no finite answer to, or that doesn't fit into memory alone, as
        ``model_error``.
        """
        n_clips = len(batch["row"])
        columns: Columns = {name: batch[name] for name in ("row", "video_id")}
        columns |= {name: batch[name].copy() for name in ("status", "message")}
        for measure in MEASURES:
            fill = np.nan if measure.dtype == "float32" else -1
            columns[measure.name] = np.full((n_clips, *measure.shape), fill, measure.dtype)
        rows = self._run_rows[batch["row"]]
        columns["run_row"][:] = rows
        chosen = np.flatnonzero(batch["status"] == Status.OK)
        if not len(chosen):
            return columns
        stored = self._stored(rows[chosen])
        for clip, (attribution, target, digest) in zip(chosen, stored, strict=True):
            if digest is not None and (digest != batch["clip_digest"][clip]).any():
                columns["status"][clip] = Status.MISSING
                columns["message"][clip] = "the file isn't the one that the run has read"
                continue
            values = self._measured(batch["frames"][clip], attribution, target)
            if isinstance(values, str):
                columns["status"][clip] = Status.MODEL_ERROR
                columns["message"][clip] = values
                continue
            for name, value in values.items():
                columns[name][clip] = value
        return columns

    def _stored(
        self, rows: NDArray[np.int64]
    ) -> list[tuple[NDArray[np.floating], int, NDArray[np.uint8] | None]]:
        """Attribution (time, y, x), class and digest of some of the run's rows."""
        optional = self._store.layout.optional
        names = ["spatial", "temporal", "target" if "target" in optional else "prediction"]
        if "clip_digest" in optional:
            names.append("clip_digest")
        read = [self._store.array(name).get_orthogonal_selection((rows,)) for name in names]
        joint = joint_attribution(read[0], read[1])
        digests = read[3] if len(read) > 3 else [None] * len(rows)
        return list(zip(joint, read[2].tolist(), digests, strict=True))

    def _measured(
        self, frames: NDArray[np.uint8], attribution: NDArray[np.floating], target: int
    ) -> dict[str, NDArray[np.float64] | int] | str:
        """Values of one clip, by `MEASURES`; or why it has none."""
        try:
            with self._timed("transfer"):
                on_device = torch.tensor(frames[None], device=self._device)
            with self._timed("forward"):
                pixels = normalise(on_device, self._preprocessing, torch.float32)
                probe = Probe(self._model, pixels, batch_size=self._batch_size)
                if not np.isfinite(probe.clean_logits()).all():
                    return _NOT_FINITE
                values = faithfulness_of_clip(probe, attribution, target, n_random=self._n_random)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return out_of_memory_with(1)
        # The next clip is as large.
        self._batch_size = probe.batch_size
        if not all(np.isfinite(value).all() for value in values.values()):
            return _NOT_FINITE
        return {**values, "target": target, "n_forward": probe.n_forward}


def faithfulness_of_clip(
    probe: Probe, attribution: NDArray[np.floating], target: int, *, n_random: int
) -> dict[str, NDArray[np.float64] | int]:
    """Give the values of `MEASURES` that a probe of one clip has.

    Parameters
    ----------
    attribution
        (time, y, x)
    """
    maps = np.asarray(attribution, np.float64).reshape(1, len(attribution), -1)
    classes = np.array([target])

    def ties() -> np.random.Generator:
        # The same for each, so that versions are the same, and asked about once.
        return np.random.default_rng(0)

    def of_fills(
        of_fill: Callable[[Literal["blur", "median", "mean"]], object],
    ) -> NDArray[np.float64]:
        return np.array([of_fill(fill) for fill in FILLS], np.float64)

    own = [drops(probe, maps, classes, fill=fill, generator=ties()) for fill in FILLS]
    chance = [random_drops(probe, classes, fill=fill, seed=0, n_random=n_random) for fill in FILLS]
    return {
        "gap": of_fills(
            lambda fill: [
                gap(probe, maps, classes, unit=unit, fill=fill, generator=ties())[0]
                for unit in UNITS
            ]
        ),
        "random_gap": of_fills(
            lambda fill: [
                random_gap(probe, classes, unit=unit, fill=fill, seed=0, n_random=n_random)[0]
                for unit in UNITS
            ]
        ),
        "removed": np.stack([each.removed[:, 0] for each in own]),
        "kept": np.stack([each.kept[:, 0] for each in own]),
        "random_removed": np.stack([each.removed[:, 0] for each in chance]),
        "random_kept": np.stack([each.kept[:, 0] for each in chance]),
        "cam_entropy": of_fills(
            lambda fill: cam_entropy(probe, maps, fill=fill, generator=ties())[0]
        ),
        "paper_faithfulness": of_fills(
            lambda fill: published.faithfulness(probe, maps, classes, fill=fill, generator=ties())[
                0
            ]
        ),
        "paper_tau": of_fills(
            lambda fill: published.monotonicity(probe, maps, classes, fill=fill, generator=ties())[
                0
            ]
        ),
    }
