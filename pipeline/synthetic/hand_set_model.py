"""A TimeSformer with weights written by hand, so that each token's contribution is known exactly.

Each class is a colour (a channel of RGB) in one frame: its logit is the sum, over the patches of
that frame, of how much of the patch has that colour. The same colour in another frame counts for
nothing, and neither does another colour in that frame. So the truth is neither "what is coloured"
nor "what moves", and it is a number for each token and class.

How it is done: the patch embedding takes the mean of each colour into a channel of its own, the
time embedding marks each class's frame, and the MLP of the first block, relu(colour + frame - 1),
writes the product of both into a third channel. In the second block CLS attends to all tokens alike
and reads that channel; the classifier scales it. What a LayerNorm would mix is kept apart: each
channel has a twin of the opposite sign, so that a token's mean is 0, and two constant channels are
so much larger than all others that its deviation is the same for all tokens, to 1e-6.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import TimesformerConfig, TimesformerForVideoClassification

N_TIMES = 6
SIDE = 6
"""Rows and columns of patches."""
PATCH_SIZE = 8
FRAME_OF_CLASS = (1, 4, 2)
"""Frame whose colour counts, by class; class 0 is red, 1 green, 2 blue."""
GAIN = 2.0
"""Logit of a patch that is covered whole."""

_N_CLASSES = len(FRAME_OF_CLASS)
_CONSTANT = 1000.0
_COLOUR, _FRAME, _HIT = (2 + 2 * _N_CLASSES * group for group in range(3))
"""First channel of each group; a class has two channels in each, the second being the twin."""
_WIDTH = 2 + 3 * 2 * _N_CLASSES


@dataclass(frozen=True)
class HandSetClips:
    """Clips for the model set by hand."""

    pixel_values: Tensor
    """(clips, T, 3, height, width) float32, 0 to 1."""
    labels: NDArray[np.int64]
    """(clips,): the class with the highest logit."""
    runners_up: NDArray[np.int64]
    """(clips,): a class that the clip shows as well, with a lower logit."""


def hand_set_model() -> TimesformerForVideoClassification:
    """Build the model; see the module."""
    config = TimesformerConfig(
        image_size=SIDE * PATCH_SIZE,
        patch_size=PATCH_SIZE,
        num_frames=N_TIMES,
        hidden_size=_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=1,
        intermediate_size=_N_CLASSES,
        hidden_act="relu",
        num_labels=_N_CLASSES,
        id2label={0: "red", 1: "green", 2: "blue"},
        label2id={"red": 0, "green": 1, "blue": 2},
    )
    model = TimesformerForVideoClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        # What LayerNorm divides by.
        deviation = _CONSTANT * math.sqrt(2 / _WIDTH)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.fill_(deviation)
        embeddings = model.timesformer.embeddings
        embeddings.position_embeddings[..., 0] = _CONSTANT
        embeddings.position_embeddings[..., 1] = -_CONSTANT
        first, second = model.timesformer.encoder.layer
        values = second.attention.attention.qkv.weight[2 * _WIDTH :]
        for index, frame in enumerate(FRAME_OF_CLASS):
            colour, marked, hit = (group + 2 * index for group in (_COLOUR, _FRAME, _HIT))
            for sign, twin in ((1.0, 0), (-1.0, 1)):
                projection = embeddings.patch_embeddings.projection.weight
                projection[colour + twin, index] = sign / PATCH_SIZE**2
                embeddings.time_embeddings[0, frame, marked + twin] = sign
                first.output.dense.weight[hit + twin, index] = sign
                values[hit + twin, hit + twin] = 1.0
                second.attention.output.dense.weight[hit + twin, hit + twin] = 1.0
            first.intermediate.dense.weight[index, colour] = 1.0
            first.intermediate.dense.weight[index, marked] = 1.0
            first.intermediate.dense.bias[index] = -1.0
            # CLS has the mean over frames of its mean over a frame's patches and itself.
            model.classifier.weight[index, hit] = GAIN * N_TIMES * (SIDE**2 + 1)
    return model


def contributions(pixel_values: Tensor) -> NDArray[np.float64]:
    """Give what each token adds to each class's logit, from the pixels alone.

    Parameters
    ----------
    pixel_values
        (clips, T, 3, height, width), 0 to 1.

    Returns
    -------
    (clips, classes, T, P) float64; sums to the logits over (T, P)
    """
    patches = pixel_values.double().unfold(3, PATCH_SIZE, PATCH_SIZE)
    covered = patches.unfold(4, PATCH_SIZE, PATCH_SIZE).mean(dim=(-1, -2)).numpy()
    result = np.zeros((len(covered), _N_CLASSES, N_TIMES, SIDE**2))
    for index, frame in enumerate(FRAME_OF_CLASS):
        result[:, index, frame] = GAIN * covered[:, frame, index].reshape(len(covered), -1)
    return result


def hand_set_clips(n_clips: int, seed: int) -> HandSetClips:
    """Draw clips: squares of three colours on black, of which most don't count.

    Each clip has 4 to 6 patches of its class's colour in the class's frame, half of them covered in
    part, 1 to 3 of another class's in that class's, and decoys: the right colour in wrong frames.

    Returns
    -------
    Clips whose labels the model gets right
    """
    generator = np.random.default_rng([seed, 201])
    size = SIDE * PATCH_SIZE
    pixels = np.zeros((n_clips, N_TIMES, 3, size, size), np.float32)
    labels = generator.integers(0, _N_CLASSES, n_clips)
    others = (labels + generator.integers(1, _N_CLASSES, n_clips)) % _N_CLASSES
    for clip, (label, other) in enumerate(zip(labels, others, strict=True)):
        for index, count in ((label, generator.integers(4, 7)), (other, generator.integers(1, 4))):
            for frame in range(N_TIMES):
                is_counted = frame == FRAME_OF_CLASS[index]
                n_squares = count if is_counted else generator.integers(0, 4)
                places = generator.choice(SIDE**2, n_squares, replace=False)
                for number, place in enumerate(places):
                    side = PATCH_SIZE if number % 2 == 0 else int(generator.integers(5, PATCH_SIZE))
                    top, left = (PATCH_SIZE * step for step in divmod(int(place), SIDE))
                    square = (slice(top, top + side), slice(left, left + side))
                    pixels[clip, frame, index][square] = 1.0
    return HandSetClips(torch.from_numpy(pixels), labels, others)
