"""A subject for the tests of the benchmark: the model set by hand, whose truth is known."""

import numpy as np

from pipeline.evaluation.benchmark.subject import Scenes, Subject
from pipeline.evaluation.perturbation import Probe
from pipeline.synthetic.hand_set_model import contributions
from tests.evaluation.models import hand_set


def hand_set_subject(n_clips=4, seed=0):
    """The subject, and true contributions to labels and to rivals: (clips, T, P) each."""
    adapter, clips, _ = hand_set(n_clips, seed)
    of_classes, rows = contributions(clips.pixel_values), np.arange(n_clips)
    of_label, of_rival = (of_classes[rows, each] for each in (clips.labels, clips.runners_up))
    shape = (n_clips, adapter.grid.n_times, adapter.grid.height, adapter.grid.width)
    covered, rival_covered = (
        (each > 0).astype(np.float32).reshape(shape) for each in (of_label, of_rival)
    )
    probe = Probe(adapter, clips.pixel_values, batch_size=64)
    scenes = Scenes(
        clips.pixel_values, clips.labels, covered, clips.runners_up, rival_covered, probe, seed
    )
    return Subject("by hand", adapter, scenes, scenes, seed), of_label, of_rival
