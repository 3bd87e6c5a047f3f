"""The stage that measures a sample of a run: frames that were decoded once, asked about many times.

Each clip is asked about by itself, so its values depend on nothing but the clip and its row, and
what it shows with some parts replaced goes through the model once, whichever metrics need it.
"""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.attribution.focus import joint_attribution
from pipeline.attribution.method import Method, Precision
from pipeline.clips.columns import Columns
from pipeline.evaluation.measures import (
    Float64Array,
    Values,
    change_profile,
    faithfulness_of_clip,
    measures_of,
    sanity_of_clip,
    time_of_clip,
)
from pipeline.evaluation.perturbation import Probe
from pipeline.evaluation.sanity import Noise, noise_of, replaced, stages
from pipeline.evaluation.shapley import shifted
from pipeline.models.attributor import is_out_of_memory, normalise, out_of_memory_with
from pipeline.models.checkpoint import Checkpoint, load_adapter
from pipeline.models.explain import explain
from pipeline.models.geometry import Geometry
from pipeline.status import Status
from pipeline.store.measured import Group
from pipeline.store.opening import open_store
from pipeline.store.rows import read_explained, read_rows
from pipeline.store.run_folder import store_url
from pipeline.store.verify import lost_attributions_error

_NOT_FINITE = "the model gave NaN or infinity"


class Model:
    """The model of a run, in its precision: what it predicts, and its maps by the run's method.

    Parameters
    ----------
    batch_size
        Maps that are computed at a time, at most; fewer, where the device lacks memory.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        method: Method,
        *,
        device: str,
        precision: Precision,
        batch_size: int,
    ) -> None:
        self.is_of_class = method.explains_class
        self.n_explained = 0
        self._adapter = load_adapter(checkpoint, device=device)
        self._device, self._dtype = torch.device(device), getattr(torch, precision)
        # Classes are given, whichever the run has explained; which times matter isn't asked here.
        self._method = method.model_copy(update={"target": "label", "frame_importance": None})
        self._batch_size = batch_size
        self._block_noise: Noise | None = None

    @property
    def grid(self) -> Geometry:
        """Grid of times and patches."""
        return self._adapter.grid

    def predict(self, pixel_values: Tensor, /) -> Tensor:
        """Logits of clips, float32."""
        with self._autocast():
            return self._adapter.predict(pixel_values.to(self._dtype)).float()

    def maps(
        self, pixel_values: Tensor, classes: NDArray[np.integer], /
    ) -> tuple[Float64Array, Float64Array]:
        """Give maps (clips, T, P) of given classes, and logits (clips, classes).

        Raises
        ------
        RuntimeError, MemoryError
            If not even one clip fits into the device's memory.
        """
        maps, logits, start = [], [], 0
        while start < len(pixel_values):
            part = slice(start, start + self._batch_size)
            given = torch.as_tensor(classes[part], dtype=torch.int64, device=self._device)
            try:
                with torch.inference_mode(), self._autocast():
                    explained = explain(
                        self._adapter, pixel_values[part].to(self._dtype), self._method, given
                    )
            except (MemoryError, RuntimeError) as error:
                if len(given) == 1 or not is_out_of_memory(error):
                    raise
                self._batch_size = len(given) // 2
                continue
            maps.append(explained.attribution.double().cpu().numpy())
            logits.append(explained.logits.double().cpu().numpy())
            start += len(given)
            self.n_explained += len(given)
        return np.concatenate(maps), np.concatenate(logits)

    def with_classifier_of_noise(self, seed: int, /) -> AbstractContextManager[None]:
        """While open, the classifier is noise."""
        return replaced(noise_of(self._adapter.model, seed, n_stages=1))

    def with_blocks_of_noise(self) -> AbstractContextManager[None]:
        """While open, all but the embeddings is noise: the same for all clips, drawn once."""
        model = self._adapter.model
        if self._block_noise is None:
            self._block_noise = noise_of(model, 0, n_stages=len(stages(model)) - 1)
        return replaced(self._block_noise)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self._device.type, dtype=self._dtype, enabled=self._dtype != torch.float32
        )


@dataclass(frozen=True)
class _Stored:
    """What the run has of a clip."""

    row: int
    attribution: NDArray[np.floating]
    """(time, y, x)"""
    temporal: NDArray[np.floating]
    """(time,)"""
    target: int
    digest: NDArray[np.uint8] | None
    importance: NDArray[np.floating] | None


class MeasureClips:
    """Holds the model on a device, and measures batches of a run's clips.

    Parameters
    ----------
    run_url
        The run whose attributions are measured.
    run_rows
        (rows,): its row of each row that comes.
    method
        By which the run was attributed.
    groups
        What is measured.
    batch_size
        Versions of a clip in a forward pass, at most; fewer, where the device lacks memory.
    n_random
        Random orders that each figure of faithfulness is held against.
    timed
        As `pipeline.models.attributor.Attributor` has it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        run_url: str,
        run_rows: NDArray[np.int64],
        *,
        method: Method,
        groups: Collection[Group],
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
        self._model = Model(
            checkpoint, method, device=device, precision=precision, batch_size=batch_size
        )
        self._preprocessing = checkpoint.preprocessing
        self._store = open_store(store_url(run_url))
        self._measures = measures_of(groups, self._store.layout)
        self._run_rows, self._groups = run_rows, groups
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
        for measure in self._measures:
            fill = np.nan if measure.dtype == "float32" else -1
            columns[measure.name] = np.full((n_clips, *measure.shape), fill, measure.dtype)
        rows = self._run_rows[batch["row"]]
        columns["run_row"][:] = rows
        chosen = np.flatnonzero(batch["status"] == Status.OK)
        if not len(chosen):
            return columns
        for clip, stored in zip(chosen, self._stored(rows[chosen]), strict=True):
            digest = stored.digest
            if digest is not None and (digest != batch["clip_digest"][clip]).any():
                columns["status"][clip] = Status.MISSING
                columns["message"][clip] = "the file isn't the one that the run has read"
                continue
            values = self._measured(batch["frames"][clip], stored)
            if isinstance(values, str):
                columns["status"][clip] = Status.MODEL_ERROR
                columns["message"][clip] = values
                continue
            for name, value in values.items():
                columns[name][clip] = value
        return columns

    def _stored(self, rows: NDArray[np.int64]) -> list[_Stored]:
        """Read what the run has of some of its rows; raises StoreError if that is lost."""
        optional = self._store.layout.optional
        read = partial(read_rows, self._store, rows=rows)
        spatial, temporal = read_explained(self._store, rows)
        joint = joint_attribution(spatial, temporal)
        target = read("target" if "target" in optional else "prediction")
        if (target < 0).any():
            # A clip that was explained was explained for a class.
            raise lost_attributions_error(self._store.url)
        nothing = [None] * len(rows)
        digest = read("clip_digest") if "clip_digest" in optional else nothing
        importance = read("frame_importance") if "frame_importance" in optional else nothing
        return [
            _Stored(int(row), *of_row)
            for row, *of_row in zip(
                rows, joint, temporal, target.tolist(), digest, importance, strict=True
            )
        ]

    def _measured(self, frames: NDArray[np.uint8], stored: _Stored) -> dict[str, Any] | str:
        """Values of one clip, by its measures; or why it has none."""
        n_explained = self._model.n_explained
        try:
            with self._timed("transfer"):
                on_device = torch.tensor(frames[None], device=self._device)
            with self._timed("forward"):
                pixels = normalise(on_device, self._preprocessing, torch.float32)
                probes, values = self._asked(pixels, stored)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return out_of_memory_with(1)
        if values is None or not all(np.isfinite(value).all() for value in values.values()):
            return _NOT_FINITE
        n_forward = sum(probe.n_forward for probe in probes)
        n_forward += self._model.n_explained - n_explained
        return {**values, "target": stored.target, "n_forward": n_forward}

    def _asked(self, pixels: Tensor, stored: _Stored) -> tuple[list[Probe], Values | None]:
        """Probes of a clip and what they have told; None if the model's answer isn't finite."""
        target, values = stored.target, Values()
        if "sanity" in self._groups:
            told = sanity_of_clip(self._model, pixels, stored.attribution, target, seed=stored.row)
            if told is None:
                return [], None
            values |= told
        if not {"faithfulness", "time"} & set(self._groups):
            return [], values
        probe = Probe(self._model, pixels, batch_size=self._batch_size)
        if not np.isfinite(probe.clean_logits()).all():
            return [probe], None
        probes = [probe]
        if "faithfulness" in self._groups:
            values |= faithfulness_of_clip(
                probe, stored.attribution, target, n_random=self._n_random, seed=stored.row
            )
        if "time" in self._groups:
            moved = Probe(self._model, shifted(pixels), batch_size=probe.batch_size)
            probes.append(moved)
            values |= time_of_clip(
                probe,
                moved,
                target,
                change=change_profile(self._model, pixels),
                temporal=stored.temporal,
                importance=stored.importance,
            )
        # The next clip is as large.
        self._batch_size = probes[-1].batch_size
        return probes, values
