"""Copies between a host and its device: frames ahead of their batch, and results in one piece."""

from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.clips.columns import Columns


class Staging:
    """Brings the frames of batches to a device, those of the next while one is computed.

    On a GPU they go through two page-locked buffers, which take turns, by a stream of their own. On
    a CPU they are copied when they are asked for.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # With the frames themselves: while they are kept, no others can be at their address.
        self._ahead: tuple[NDArray[np.uint8], Tensor, torch.cuda.Event] | None = None
        self._turn = 0
        if device.type == "cuda":
            # torch gives these classes no types.
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._buffers: list[Tensor] = [torch.empty(0, dtype=torch.uint8)] * 2
            self._copied = [torch.cuda.Event() for _ in range(2)]  # type: ignore[no-untyped-call]

    def send_ahead(self, frames: NDArray[np.uint8]) -> None:
        """Begin to copy frames that `on_device` will be asked for next."""
        if self._device.type == "cuda":
            self._ahead = None
            # Where memory is short, the batch that is computed goes first.
            with suppress(torch.OutOfMemoryError):
                self._ahead = (frames, *self._sent(frames))

    def on_device(self, frames: NDArray[np.uint8]) -> Tensor:
        """Copy of frames on the device, made now unless they were sent ahead."""
        if self._device.type != "cuda":
            # Copy: Ray's arrays are read-only, and torch would warn about that.
            return torch.tensor(frames, device=self._device)
        ahead, self._ahead = self._ahead, None
        if ahead is None or _key(ahead[0]) != _key(frames):
            ahead = (frames, *self._sent(frames))
        _, sent, copied = ahead
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(copied)
        # So that its memory isn't given to another before this stream has read it.
        sent.record_stream(stream)
        return sent

    def _sent(self, frames: NDArray[np.uint8]) -> tuple[Tensor, torch.cuda.Event]:
        self._turn = 1 - self._turn
        copied = self._copied[self._turn]
        # What the buffer held before has left it.
        copied.synchronize()
        if self._buffers[self._turn].shape != frames.shape:
            self._buffers[self._turn] = host_buffer(frames.shape)
        buffer = self._buffers[self._turn]
        np.copyto(buffer.numpy(), frames)
        with torch.cuda.stream(self._stream):
            sent = buffer.to(self._device, non_blocking=True)
            copied.record(self._stream)
        return sent, copied


def host_buffer(shape: tuple[int, ...]) -> Tensor:
    """Make a buffer of uint8 on the host: page-locked where the host has such memory left.

    A batch isn't halved for want of it, as it is for want of the device's memory.
    """
    try:
        return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
    except RuntimeError:
        return torch.empty(shape, dtype=torch.uint8)


def to_host(columns: dict[str, Tensor]) -> Columns:
    """Copy tensors of one device to the host, by one copy of all of them; bits are the same."""
    # Larger items first, so that each begins at a multiple of its item's size.
    names = sorted(columns, key=lambda name: -columns[name].element_size())
    # Cloned: a tensor of one item counts as contiguous whatever its strides are.
    packed = [
        columns[name].clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8)
        for name in names
    ]
    data = torch.cat(packed).cpu().numpy()
    ends = np.cumsum([len(part) for part in packed]).tolist()
    found = {}
    for name, part, end in zip(names, packed, ends, strict=True):
        tensor = columns[name]
        dtype = torch.empty(0, dtype=tensor.dtype).numpy().dtype
        found[name] = data[end - len(part) : end].view(dtype).reshape(tuple(tensor.shape))
    return {name: found[name] for name in columns}


def _key(frames: NDArray[np.uint8]) -> tuple[int, tuple[int, ...]]:
    """Tells frames from others that are there at the same time."""
    return frames.__array_interface__["data"][0], frames.shape


def narrow_weights(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Keep the weights of matrix products in the precision that autocast brings them to each time.

    Bits are the same wherever these weights are read by such products alone.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d):
            module.to(dtype)
