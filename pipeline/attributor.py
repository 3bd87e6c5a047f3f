"""The model's stage: uint8 frames in, the store's columns out."""

import numpy as np
import torch
from torch import Tensor

from pipeline.config import Method, Precision
from pipeline.load import Columns
from pipeline.models.registry import Checkpoint, load_adapter
from pipeline.preprocess import Preprocessing
from pipeline.staa import spatial_temporal
from pipeline.status import Status


class Attributor:
    """Holds a model on a device and explains batches; one lives in each actor of the pool.

    Parameters
    ----------
    device
        ``cpu`` or ``cuda``.
    n_threads
        Torch's threads, on a CPU; results are the same bit for bit only for the same number.
    n_ranks
        How many of the most probable classes to keep.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        method: Method,
        *,
        device: str,
        precision: Precision,
        n_threads: int,
        n_ranks: int,
    ) -> None:
        if device == "cpu":
            torch.set_num_threads(n_threads)
        self._device = torch.device(device)
        self._dtype = getattr(torch, precision)
        self._adapter = load_adapter(checkpoint, device=device, dtype=self._dtype)
        self._checkpoint = checkpoint
        self._method = method
        self._n_ranks = n_ranks

    def __call__(self, batch: Columns) -> Columns:
        """Explain a batch as `ClipLoader` gives it: its columns but ``frames``, and the model's."""
        return self.explain(self.to_device(batch["frames"]), batch)

    def to_device(self, frames: np.ndarray) -> Tensor:
        """Copy frames to the model's device: (clips, T, height, width, 3) uint8."""
        # A copy also on a CPU: Ray's arrays are read-only, which torch would warn of.
        return torch.tensor(frames, device=self._device)

    @torch.inference_mode()
    def explain(self, frames: Tensor, batch: Columns) -> Columns:
        """Explain a batch whose frames are on the device.

        Clips that failed go through the model as zeros: every batch has the same shape, so a clip's
        numbers don't depend on whether its neighbours could be decoded.
        """
        pixel_values = normalise(frames, self._checkpoint.preprocessing, self._dtype)
        explanation = self._adapter.explain(pixel_values, self._method)
        probabilities = explanation.logits.float().softmax(dim=-1)
        spatial, temporal = spatial_temporal(explanation.joint)
        finite = probabilities.isfinite().all(dim=-1) & temporal.isfinite().all(dim=-1)
        top = probabilities.topk(self._n_ranks, dim=-1)
        geometry = self._checkpoint.geometry
        grid = (-1, geometry.n_times, geometry.height, geometry.width)
        columns = {name: values for name, values in batch.items() if name != "frames"} | {
            "spatial": spatial.half().reshape(grid).cpu().numpy(),
            "temporal": temporal.cpu().numpy(),
            "prediction": top.indices[:, 0].int().cpu().numpy(),
            "probability": top.values[:, 0].cpu().numpy(),
            "label_probability": _probability_of(probabilities, batch["label"]),
            "top_classes": top.indices.int().cpu().numpy(),
            "top_probabilities": top.values.cpu().numpy(),
        }
        return _mark_failures(columns, finite.cpu().numpy())


def normalise(frames: Tensor, preprocessing: Preprocessing, dtype: torch.dtype) -> Tensor:
    """Rescale and normalise on the frames' device.

    Parameters
    ----------
    frames
        (clips, T, height, width, 3) uint8.

    Returns
    -------
    (clips, T, 3, height, width) of ``dtype``
    """
    mean = torch.tensor(preprocessing.image_mean, device=frames.device)
    std = torch.tensor(preprocessing.image_std, device=frames.device)
    offset = 1.0 if preprocessing.offset else 0.0
    # (x * rescale - offset - mean) / std as one multiplication and one addition.
    scaled = frames.float().mul_(preprocessing.rescale_factor / std).sub_((mean + offset) / std)
    return scaled.permute(0, 1, 4, 2, 3).to(dtype).contiguous()


def _probability_of(probabilities: Tensor, label: np.ndarray) -> np.ndarray:
    index = torch.from_numpy(np.maximum(label, 0)).long().to(probabilities.device)
    chosen = probabilities.gather(1, index[:, None])[:, 0].cpu().numpy()
    result: np.ndarray = np.where(label >= 0, chosen, np.float32("nan"))
    return result


def _mark_failures(columns: Columns, finite: np.ndarray) -> Columns:
    """Give fill values to what has no attribution, and a status to what the model failed on."""
    ok = columns["status"] == Status.OK
    broke = ok & ~finite
    columns["status"] = np.where(broke, np.uint8(Status.MODEL_ERROR), columns["status"])
    columns["message"] = np.where(broke, "the model gave NaN or infinity", columns["message"])
    failed = ~(ok & finite)
    for name in ("spatial", "temporal", "probability", "label_probability", "top_probabilities"):
        columns[name] = columns[name].copy()
        columns[name][failed] = np.nan
    for name in ("prediction", "top_classes"):
        columns[name] = columns[name].copy()
        columns[name][failed] = -1
    return columns
