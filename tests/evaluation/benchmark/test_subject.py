"""Maps of a subject: made when they are asked for, of what they say, with what they cost."""

import numpy as np
import pytest
import torch

from pipeline.evaluation.benchmark.subject import Explained, counted_passes
from pipeline.evaluation.methods.explainer import explain
from tests.evaluation.benchmark.subjects import hand_set_subject

pytestmark = pytest.mark.usefixtures("one_thread")


def test_maps_are_those_of_the_method_for_labels_and_for_rivals():
    subject, _, _ = hand_set_subject()
    explained, scenes = Explained(subject, "evidence"), subject.double
    labels, rivals = (torch.from_numpy(each) for each in (scenes.labels, scenes.rivals))
    of_labels = explain("evidence", subject.adapter, scenes.pixel_values, labels)
    of_rivals = explain("evidence", subject.adapter, scenes.pixel_values, rivals)
    np.testing.assert_allclose(explained.single, of_labels, atol=1e-6)
    np.testing.assert_allclose(explained.double, torch.cat([of_labels, of_rivals]), atol=1e-6)
    assert explained.single is explained.single


def test_a_random_model_gives_other_maps_of_the_class_and_is_as_before_afterwards():
    subject, _, _ = hand_set_subject()
    with torch.inference_mode():
        before = subject.adapter.predict(subject.single.pixel_values)
    specific, blind = (Explained(subject, name) for name in ("evidence", "staa"))
    one, two, three = specific.of_random_classifiers
    for other in (specific.single, two, three):
        assert np.abs(one - other).max() > 1e-3
    for maps in blind.of_random_classifiers:
        np.testing.assert_array_equal(maps, blind.single)
    assert np.abs(blind.of_random_blocks - blind.single).max() > 1e-6
    with torch.inference_mode():
        assert torch.equal(subject.adapter.predict(subject.single.pixel_values), before)


@pytest.mark.parametrize(
    ("method", "n_forward"),
    [("random", 0), ("staa", 1), ("Input x Gradient", 1), ("occlusion", 151)],
)
def test_forward_passes_are_counted(method, n_forward):
    subject, _, _ = hand_set_subject(2)
    cost = Explained(subject, method).cost
    # Occlusion asks of 6 times 5 x 5 windows of each clip, and of the clip itself.
    assert cost.n_forward == n_forward
    assert cost.forward_seconds > 0
    assert cost.ratio == cost.seconds / cost.forward_seconds
    with counted_passes(subject.adapter) as seen:
        pass
    assert seen == [0]


def test_the_first_clips_have_the_values_of_all_and_share_what_was_asked():
    subject, _, _ = hand_set_subject()
    part = subject.first(2)
    assert part.single.n_clips == part.double.n_clips == 2
    assert subject.first(4) is subject
    np.testing.assert_allclose(part.shapley, subject.shapley[:2])
    asked = subject.single.probe.n_forward
    removed = np.zeros((1, 4, 6, 36), np.bool_)
    removed[:, :, 1] = True
    whole = subject.single.probe.logits(removed, "mean")
    np.testing.assert_array_equal(part.single.probe.logits(removed[:, :2], "mean"), whole[:, :2])
    assert part.single.probe.n_forward == 0
    assert subject.single.probe.n_forward == asked + 4
