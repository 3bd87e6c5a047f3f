"""Which times matter: against the untouched eager models, and known answers."""

import numpy as np
import pytest
import torch

from pipeline.attribution.method import Method
from pipeline.models.explain import explain
from pipeline.models.frame_importance import (
    FRAME_IMPORTANCE,
    N_INSERTIONS,
    by_insertion,
    segment_numbers,
)
from tests.evaluation.models import hand_set
from tests.models.test_evidence import NAMES, pair


@pytest.mark.parametrize("importance", FRAME_IMPORTANCE)
@pytest.mark.parametrize("method", ["evidence", "staa-paper", "rollout"])
def test_it_stands_beside_any_method(method, importance, tmp_path):
    two = pair("timesformer divided", tmp_path)
    clips = two.clips(2)
    with torch.inference_mode():
        explanation = explain(
            two.adapter,
            clips,
            Method(name=method, frame_importance=importance),
            torch.tensor([2, -1]),
        )
        alone = explain(two.adapter, clips, Method(name=method), torch.tensor([2, -1]))
    best = explanation.logits.argmax(-1)
    assert explanation.target.tolist() == [2, int(best[1])]
    expected = FRAME_IMPORTANCE[importance](two.adapter, clips, explanation.target)
    torch.testing.assert_close(explanation.frame_importance, expected)
    torch.testing.assert_close(expected.sum(1), torch.ones(2))
    assert torch.equal(explanation.attribution, alone.attribution)


@pytest.mark.parametrize("name", NAMES)
def test_inserted_times_are_the_eager_models_log_odds_above_the_least(name, tmp_path):
    two = pair(name, tmp_path)
    clips, classes = two.clips(2), torch.tensor([1, 3])
    grid = two.adapter.grid
    assert grid.n_times <= N_INSERTIONS
    still = np.median(clips.numpy(), axis=1, keepdims=True).repeat(clips.shape[1], axis=1)
    odds = np.empty((2, grid.n_times))
    for time in range(grid.n_times):
        seen = still.copy()
        frames = slice(time * grid.frames_per_time, (time + 1) * grid.frames_per_time)
        seen[:, frames] = clips[:, frames]
        with torch.no_grad():
            logits = two.eager(**{two.input_name: torch.from_numpy(seen)}).logits
        # Frames that are classified one by one are averaged.
        p = logits.reshape(2, -1, logits.shape[-1]).mean(1).double().softmax(-1)
        p = p[torch.arange(2), classes].numpy()
        odds[:, time] = np.log(p / (1 - p))
    gains = odds - odds.min(axis=1, keepdims=True)
    got = by_insertion(two.adapter, clips, classes)
    np.testing.assert_allclose(got, gains / gains.sum(axis=1, keepdims=True), atol=2e-3)


def test_where_one_frame_counts_alone_it_stands_out():
    model, clips, true = hand_set(6)
    got = by_insertion(model, clips.pixel_values, torch.from_numpy(clips.labels))
    assert (got.argmax(1).numpy() == true.sum(axis=2).argmax(axis=1)).all()
    highest = got.sort(1, descending=True).values
    # Others have what one in which a rival's colour stands is below them.
    assert (highest[:, 0] > 2 * highest[:, 1]).all()


def test_a_still_clip_has_no_time_that_matters(tmp_path):
    two = pair("timesformer divided", tmp_path)
    clips = two.clips(2)[:, :1].expand(-1, two.adapter.grid.n_frames, -1, -1, -1)
    got = by_insertion(two.adapter, clips, torch.tensor([0, 1]))
    torch.testing.assert_close(got, torch.full_like(got, 1 / got.shape[1]))


def test_more_times_than_passes_are_grouped_where_least_changes(tmp_path):
    two = pair("timesformer divided", tmp_path, num_frames=9)
    clips = two.clips(2)
    # Times 3, 4 and 5 are almost those of the median frame.
    clips[:, 3:6] = clips.median(dim=1, keepdim=True).values + 0.01 * clips[:, 3:6]
    seen = []
    predict = two.adapter.predict
    two.adapter.predict = lambda pixels: seen.append(len(pixels)) or predict(pixels)
    got = by_insertion(two.adapter, clips, torch.tensor([0, 1]))
    assert seen == [2] * N_INSERTIONS
    assert (got[:, 3:6] == got[:, 3:4]).all()
    torch.testing.assert_close(got.sum(1), torch.ones(2))


def test_neighbours_that_change_least_are_one_segment():
    changes = torch.tensor([5.0, 1.0, 2.0, 9.0, 1.5, 1.0])
    assert segment_numbers(changes, 6).tolist() == [0, 1, 2, 3, 4, 5]
    assert segment_numbers(changes, 5).tolist() == [0, 1, 2, 3, 4, 4]
    assert segment_numbers(changes, 4).tolist() == [0, 1, 1, 2, 3, 3]
    assert segment_numbers(changes, 3).tolist() == [0, 0, 0, 1, 2, 2]
    assert segment_numbers(changes, 1).tolist() == [0] * 6
