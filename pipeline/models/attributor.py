"""The model's stage: uint8 frames in, the store's columns out."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.attribution.evidence import best_classes
from pipeline.attribution.method import Method, Precision
from pipeline.attribution.staa import spatial_temporal
from pipeline.clips.columns import Columns
from pipeline.clips.preprocess import Preprocessing
from pipeline.models.adapter import Adapter
from pipeline.models.checkpoint import Checkpoint, load_adapter
from pipeline.models.compiler import check_compiler
from pipeline.models.explain import Explanation, explain
from pipeline.models.transfer import Staging, narrow_weights, to_host
from pipeline.status import Status
from pipeline.store.schema import StoreLayout

_LOGGER = logging.getLogger(__name__)

_MODEL_ARRAYS = frozenset(
    (
        *("spatial", "temporal", "layer_spatial", "layer_temporal"),
        *("head_spatial", "head_temporal", "prediction", "probability", "label_probability"),
        *("top_classes", "top_probabilities", "target", "signed"),
        *("runner_up_spatial", "runner_up_temporal", "frame_importance", "pooled"),
    )
)
"""The store's arrays that the model fills, if the layout has them."""


_FINITE = frozenset(
    (
        *("temporal", "layer_temporal", "head_temporal", "runner_up_temporal"),
        *("signed", "frame_importance"),
    )
)
"""Arrays that hold numbers for each clip that the model has explained."""

_OUT_OF_MEMORY = (
    *("can't allocate memory", "could not create a primitive"),
    *("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
    # cuBLAS without room for its handle, and cuDNN without room for a convolution's workspace.
    *("CUBLAS_STATUS_NOT_INITIALIZED", "unable to find an engine"),
)
"""What torch's allocator on a CPU, oneDNN, and CUDA's libraries say in a plain RuntimeError."""

_HALF_MAX = float(torch.finfo(torch.float16).max)

_OF_ATTENTION_ALONE = ("staa", "staa-paper", "space", "residual", "rollout")
"""Methods that read no weights beside the model's own pass."""

Timed = Callable[[Literal["transfer", "forward"]], AbstractContextManager[None]]
"""Returns a context that times one part of a forward pass."""


class Attributor:
    """Holds a model on a device and explains batches; one lives in each actor of the pool.

    Parameters
    ----------
    layout
        Sizes of the store that the columns are for.
    device
        ``cpu`` or ``cuda``.
    precision
        Below float32, the forward pass runs under autocast. The weights of its matrix products are
        kept in that precision for methods of attention alone; others, and whatever tells which
        times matter, read them in float32.
    compile_model
        Run the model through torch.compile. Attention is captured within the compiled graph.
    n_threads
        Torch's threads, on a CPU; results are equal bit for bit only with the same number.
    timed
        Times copying the frames to the device, and all that follows.

    Raises
    ------
    ModelError
        As `load_adapter` says.
    ConfigError
        If the model is to be compiled and this machine lacks what that needs.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        method: Method,
        layout: StoreLayout,
        *,
        device: str,
        precision: Precision,
        n_threads: int,
        compile_model: bool = False,
        explain_with: Callable[[Adapter, Tensor, Method, Tensor | None], Explanation] = explain,
        timed: Timed = lambda part: nullcontext(),
    ) -> None:
        if device == "cpu":
            torch.set_num_threads(n_threads)
        if compile_model:
            check_compiler(device)
        self._device = torch.device(device)
        self._dtype: torch.dtype = getattr(torch, precision)
        self._adapter = load_adapter(checkpoint, device=device)
        of_attention_alone = method.name in _OF_ATTENTION_ALONE and method.frame_importance is None
        if self._dtype != torch.float32 and of_attention_alone:
            narrow_weights(self._adapter.model, self._dtype)
        if compile_model:
            self._adapter.model.compile()
        self._preprocessing = checkpoint.preprocessing
        self._method = method
        self._class = checkpoint.class_of(method)
        self._explain_with, self._timed = explain_with, timed
        self._templates = {
            name: spec for name, spec in layout.arrays().items() if name in _MODEL_ARRAYS
        }
        self._clips_at_once: int | None = None
        self._staging = Staging(self._device)
        self._expected: NDArray[np.uint8] | None = None

    def expect(self, frames: NDArray[np.uint8] | None) -> None:
        """Tell which frames come behind the next call's, to be copied while those are computed."""
        self._expected = frames

    def __call__(self, batch: Columns) -> Columns:
        """Explain a batch of `ClipLoader`: its columns without ``frames``, and the model's.

        Clips that failed go through the model as zeros: every batch has the same shape, so a clip's
        numbers don't depend on whether its neighbours could be decoded. A batch in which all clips
        failed skips the model.

        A batch too large for the device's memory is halved until it fits, down to single clips, and
        so are the batches after it. A remainder goes by itself: 5 clips go as 2, 2 and 1. Passes of
        another size may differ in the last bits. A clip fails, as ``model_error``, only if it
        doesn't fit alone.
        """
        n_clips = len(batch["row"])
        columns = {name: values for name, values in batch.items() if name != "frames"} | {
            name: np.full((n_clips, *spec.shape), spec.fill_value, spec.dtype)
            for name, spec in self._templates.items()
        }
        for name in ("status", "message"):
            columns[name] = columns[name].copy()
        start = 0 if (batch["status"] == Status.OK).any() else n_clips
        while start < n_clips:
            stop = min(start + (self._clips_at_once or n_clips), n_clips)
            clips = slice(start, stop)
            explained = self._explain(batch["frames"][clips], batch["label"][clips])
            if explained is not None:
                _fill(columns, np.arange(start, stop), explained)
            elif stop - start > 1:
                self._clips_at_once = (stop - start) // 2
                _LOGGER.warning(
                    "%s; trying %d", out_of_memory_with(stop - start), self._clips_at_once
                )
                continue
            else:
                _fail(columns, np.arange(start, stop), out_of_memory_with(1))
            start = stop
        return columns

    def _explain(self, frames: NDArray[np.uint8], label: NDArray[np.int32]) -> Columns | None:
        """Columns of the model for some clips; None if the device has no room for them."""
        try:
            with torch.inference_mode():
                with self._timed("transfer"):
                    on_device = self._staging.on_device(frames)
                # The time ends when the results are on the host, so it includes the device's work.
                with self._timed("forward"):
                    return self._columns(on_device, label)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Return outside the handler: the error's traceback keeps the tensors that fill the memory.
        return None

    def _columns(self, frames: Tensor, label: NDArray[np.int32]) -> Columns:
        pixel_values = normalise(frames, self._preprocessing, self._dtype)
        with torch.autocast(
            self._device.type, dtype=self._dtype, enabled=self._dtype != torch.float32
        ):
            explanation = self._explain_with(
                self._adapter, pixel_values, self._method, self._classes(label, frames.device)
            )
        probabilities = explanation.logits.float().softmax(dim=-1)
        # By their logits, as the class that is explained: different ones may have one probability.
        top_classes = best_classes(explanation.logits, self._templates["top_classes"].shape[0])
        top_probabilities = probabilities.gather(1, top_classes)
        columns = {
            **self._attribution("", explanation.attribution),
            "prediction": top_classes[:, 0],
            "probability": top_probabilities[:, 0],
            "label_probability": _probability_of(probabilities, label),
            "top_classes": top_classes,
            "top_probabilities": top_probabilities,
        }
        if "layer_spatial" in self._templates:
            columns |= self._attribution("layer_", explanation.joint)
        if explanation.head_joint is not None:
            columns |= self._attribution("head_", explanation.head_joint)
        if explanation.target is not None:
            columns["target"] = explanation.target
        if explanation.signed is not None:
            # Clamp: a part too large for half precision would count as a fault of the model.
            signed = explanation.signed.clamp(-_HALF_MAX, _HALF_MAX).half()
            columns["signed"] = signed.reshape(-1, *self._templates["signed"].shape)
        if "pooled" in self._templates and explanation.pooled is not None:
            columns["pooled"] = explanation.pooled.clamp(-_HALF_MAX, _HALF_MAX).half()
        if explanation.frame_importance is not None:
            columns["frame_importance"] = explanation.frame_importance
        if explanation.runner_up is not None:
            columns |= self._attribution("runner_up_", explanation.runner_up)
        if self._expected is not None:
            # The device has its work by now, and computes meanwhile.
            self._staging.send_ahead(self._expected)
        return to_host(columns)

    def _classes(self, label: NDArray[np.int32], device: torch.device) -> Tensor | None:
        """Class to explain in each clip, (clips,): -1 for the prediction; None for all of these."""
        if self._method.target == "label":
            return torch.tensor(label, dtype=torch.int64, device=device)
        if self._class is not None:
            return torch.full((len(label),), self._class, device=device)
        return None

    def _attribution(self, prefix: str, joint: Tensor) -> dict[str, Tensor]:
        """Spatial and temporal part of (clips, ..., T, P), as the store holds them."""
        spatial, temporal = spatial_temporal(joint)
        shape = self._templates[f"{prefix}spatial"].shape
        return {
            f"{prefix}spatial": spatial.half().reshape(-1, *shape),
            f"{prefix}temporal": temporal,
        }


def normalise(frames: Tensor, preprocessing: Preprocessing, dtype: torch.dtype) -> Tensor:
    """Rescale and normalise on the frames' device, in one pass over them.

    Parameters
    ----------
    frames
        (clips, T, height, width, 3) uint8.

    Returns
    -------
    (clips, T, 3, height, width) of ``dtype``, computed in float32
    """
    mean = torch.tensor(preprocessing.image_mean, device=frames.device)
    std = torch.tensor(preprocessing.image_std, device=frames.device)
    offset = 1.0 if preprocessing.offset else 0.0
    channels_first = frames.permute(0, 1, 4, 2, 3)
    # (x * rescale - offset - mean) / std as one multiplication and one addition.
    return torch.addcmul(
        (-(mean + offset) / std)[:, None, None],
        channels_first,
        (preprocessing.rescale_factor / std)[:, None, None],
        out=torch.empty(channels_first.shape, dtype=dtype, device=frames.device),
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether a forward pass failed for want of the device's or the host's memory."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        reason in str(error) for reason in _OUT_OF_MEMORY
    )


def out_of_memory_with(n_clips: int) -> str:
    """Say with how many clips it did."""
    return f"out of memory with {n_clips} clip{'s' if n_clips > 1 else ''} in a forward pass"


def _fill(columns: Columns, clips: NDArray[np.intp], explained: Columns) -> None:
    """Fill in the model's results for clips that were decoded; NaN is a failure of the model."""
    ok = columns["status"][clips] == Status.OK
    finite = np.isfinite(explained["probability"])
    # Where each S sums to 1 by itself, what isn't a number shows in T.
    for name in explained.keys() & _FINITE:
        finite &= np.isfinite(explained[name]).reshape(len(clips), -1).all(axis=1)
    for name, values in explained.items():
        columns[name][clips[ok & finite]] = values[ok & finite]
    _fail(columns, clips[~finite], "the model gave NaN or infinity")


def _fail(columns: Columns, clips: NDArray[np.intp], message: str) -> None:
    """Record the model's failure on clips that were decoded."""
    failed = clips[columns["status"][clips] == Status.OK]
    columns["status"][failed] = Status.MODEL_ERROR
    columns["message"][failed] = message


def _probability_of(probabilities: Tensor, label: NDArray[Any]) -> Tensor:
    """Probability of each clip's label: (clips,), NaN where it is unknown (-1)."""
    index = torch.tensor(label, dtype=torch.int64, device=probabilities.device)[:, None]
    chosen = probabilities.gather(1, index.clamp(min=0))
    return torch.where(index >= 0, chosen, torch.nan)[:, 0]
