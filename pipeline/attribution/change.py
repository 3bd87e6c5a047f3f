"""Change: how far each token of a clip is from that of the clip's median frame."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def median_frame(clips: Tensor) -> Tensor:
    """Median of each pixel over a clip's frames: (clips, frames, ...) to (clips, 1, ...).

    For an even number of frames it is the mean of the two in the middle.
    """
    n_frames = clips.shape[1]
    ordered = clips.sort(dim=1).values
    low, high = (n_frames - 1) // 2, n_frames // 2
    return (ordered[:, low : low + 1] + ordered[:, high : high + 1]) / 2


def token_change(clips: Tensor, projection: nn.Conv2d | nn.Conv3d) -> Tensor:
    """Embedding of each token less that of the median frame in its place, z - zmed.

    The projection is linear in the pixels, and positions and bias are the same in both: it is the
    projection of the difference, without bias.

    Parameters
    ----------
    clips
        (clips, frames, 3, height, width), normalised.
    projection
        From patches or tubelets to tokens.

    Returns
    -------
    (clips, width, T, P) float32
    """
    difference = clips.float() - median_frame(clips.float())
    weight, stride = projection.weight.float(), projection.stride
    with torch.autocast(clips.device.type, enabled=False):
        if difference.ndim == weight.ndim:
            tokens = F.conv3d(difference.transpose(1, 2), weight, None, stride)
        else:
            of_frames = F.conv2d(difference.flatten(0, 1), weight, None, stride)
            tokens = on_clips(of_frames, len(clips))
    return tokens.flatten(3)


def on_clips(projected: Tensor, n_clips: int) -> Tensor:
    """Bring what a projection gives to (clips, width, T, rows, columns), of frames or of clips."""
    if projected.ndim == 5:
        return projected
    return projected.reshape(n_clips, -1, *projected.shape[1:]).transpose(1, 2)


def change(clips: Tensor, projection: nn.Conv2d | nn.Conv3d) -> Tensor:
    """Norm of z - zmed of each token, see `token_change`: (clips, T, P) float32."""
    distance: Tensor = token_change(clips, projection).norm(dim=1)
    return distance
