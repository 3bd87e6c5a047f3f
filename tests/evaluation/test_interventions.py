"""Interventions on the model set by hand, whose every contribution is known."""

from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis.audit import interventions as planning
from pipeline.clips.preprocess import Preprocessing
from pipeline.evaluation.interventions import (
    Intervener,
    Intervention,
    Outcome,
    OutcomeFolder,
    around,
    changed_clip,
    in_parts,
)
from pipeline.evaluation.perturbation import FILLS
from pipeline.models.timesformer import Timesformer
from pipeline.status import Status
from pipeline.synthetic.hand_set_model import (
    FRAME_OF_CLASS,
    N_TIMES,
    SIDE,
    contributions,
    hand_set_clips,
    hand_set_model,
)

pytestmark = pytest.mark.usefixtures("one_thread")
SEED = int(datetime.now(UTC).strftime("%Y%m%d"))


@pytest.fixture(scope="module")
def known():
    print("seed", SEED)
    clips = hand_set_clips(4, seed=SEED)
    return Timesformer(hand_set_model()), clips, contributions(clips.pixel_values)


def test_what_is_planned_can_be_carried_out():
    """The audit names actions and fills as they are here, and loads nothing of it."""
    assert planning.FILLS == FILLS


@given(
    size=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    data=st.data(),
    seed=st.integers(0, 2**31),
)
def test_as_many_patches_around_a_place_are_chosen_and_none_of_it(size, data, seed):
    place = np.zeros(size, bool)
    y0, x0 = (data.draw(st.integers(0, side - 1)) for side in size)
    y1 = data.draw(st.integers(y0 + 1, size[0]))
    x1 = data.draw(st.integers(x0 + 1, size[1]))
    place[y0:y1, x0:x1] = True
    if 2 * place.sum() > place.size:
        return
    chosen = around(place, seed)
    assert chosen.sum() == place.sum()
    assert not (chosen & place).any()
    np.testing.assert_array_equal(chosen, around(place, seed))


def test_what_surrounds_the_middle_lies_on_one_side_of_it_and_that_is_drawn():
    place = np.zeros((14, 14), bool)
    place[3:11, 3:11] = True
    sides = set()
    for seed in range(40):
        y, x = (np.argwhere(around(place, seed)) - 6.5).mean(axis=0)
        assert np.hypot(y, x) > 2
        sides.add((bool(y > 0), bool(x > 0)))
    assert len(sides) == 4


def test_around_a_place_patches_are_replaced_at_its_times(known):
    model, clips, _ = known
    clip = clips.pixel_values[:1]
    what = Intervention(0, 0, "surround", "mean", time=(1, 3), y=(2, 5), x=(2, 5), seed=SEED)
    changed = changed_clip(clip, what, model.grid)
    size = model.grid.patch_size
    inside = slice(2 * size, 5 * size)
    assert (changed[..., inside, inside] == clip[..., inside, inside]).all()
    for frame in range(N_TIMES):
        n_changed = int((changed[0, frame] != clip[0, frame]).any(dim=0).sum())
        assert (n_changed > 0) == (frame in (1, 2))
        assert n_changed <= 9 * size**2


def test_a_place_is_replaced_and_nothing_else(known):
    model, clips, _ = known
    clip = clips.pixel_values[:1]
    what = Intervention(0, 0, "replace", "mean", time=(1, 3), y=(0, 2), x=(4, 6))
    changed = changed_clip(clip, what, model.grid)
    size = model.grid.patch_size
    inside = np.zeros(clip.shape[-2:], bool)
    inside[: 2 * size, 4 * size : 6 * size] = True
    for frame in range(N_TIMES):
        same = (changed[0, frame] == clip[0, frame]).all(dim=0).numpy()
        if frame not in (1, 2):
            assert same.all()
            continue
        assert same[~inside].all()
        colours = changed[0, frame][:, torch.from_numpy(inside)]
        torch.testing.assert_close(colours, clip.mean(dim=(1, 3, 4))[0, :, None].expand_as(colours))


def test_frames_are_frozen_shuffled_and_kept(known):
    model, clips, _ = known
    clip = clips.pixel_values[:1]
    frozen = changed_clip(clip, Intervention(0, 0, "freeze"), model.grid)
    assert all(torch.equal(frozen[0, t], clip[0, N_TIMES // 2]) for t in range(N_TIMES))
    shuffled = changed_clip(clip, Intervention(0, 0, "shuffle", seed=3), model.grid)
    assert not torch.equal(shuffled, clip)
    torch.testing.assert_close(shuffled.sum(dim=1), clip.sum(dim=1))
    assert torch.equal(shuffled, changed_clip(clip, Intervention(0, 0, "shuffle", seed=3), None))
    assert torch.equal(changed_clip(clip, Intervention(0, 0), model.grid), clip)
    with pytest.raises(ValueError, match="fill: None"):
        changed_clip(clip, Intervention(0, 0, "replace"), model.grid)


def test_shuffled_frames_are_in_another_order_however_few():
    for n_frames in (2, 3):
        clip = torch.arange(n_frames, dtype=torch.float32)[None, :, None, None, None]
        for seed in range(20):
            shuffled = changed_clip(clip, Intervention(0, 0, "shuffle", seed=seed), None)
            assert not torch.equal(shuffled, clip)
            assert sorted(shuffled.flatten().tolist()) == list(range(n_frames))
    single = torch.ones(1, 1, 1, 1, 1)
    assert torch.equal(changed_clip(single, Intervention(0, 0, "shuffle"), None), single)


@pytest.fixture(scope="module")
def intervener(known):
    """Of the model set by hand, over clips of which the third can't be read any more."""
    model, clips, _ = known
    frames = (255 * clips.pixel_values).round().byte().permute(0, 1, 3, 4, 2).numpy()
    status = np.full(4, Status.OK, np.uint8)
    status[2] = Status.MISSING

    def load_rows(rows):
        return {
            "frames": frames[rows],
            "status": status[rows],
            "message": np.array(["clips/2.mp4 is gone"] * len(rows), object),
        }

    plain = Preprocessing(None, crop=None, image_mean=(0, 0, 0), image_std=(1, 1, 1))
    return Intervener(model, plain, load_rows, device="cpu", batch_size=3)


def test_what_is_taken_away_is_missed_by_what_it_contributed(known, intervener):
    _, clips, true = known
    side = SIDE // 2
    wanted = [
        Intervention(row, target, "replace", "mean", (t, t + 1), (0, side), (0, SIDE))
        for row in (0, 1, 3)
        for target in (0, 1, 2)
        for t in (FRAME_OF_CLASS[target], 0)
    ]
    for one, outcome in zip(wanted, intervener(wanted), strict=True):
        logits = true[one.row].sum(axis=(1, 2))
        # What the mean colour, which takes the place, contributes itself.
        mean = clips.pixel_values[one.row].mean(dim=(0, 2, 3)).numpy()
        upper = slice(0, side * SIDE)
        for index, frame in enumerate(FRAME_OF_CLASS):
            if one.time[0] == frame:
                logits[index] += (
                    2.0 * side * SIDE * mean[index] - true[one.row, index, frame, upper].sum()
                )
        expected = np.exp(logits - logits.max())
        expected /= expected.sum()
        assert outcome.probability == pytest.approx(expected[one.target], abs=5e-3)


def test_answers_do_not_depend_on_the_batch(intervener):
    wanted = [Intervention(row, 0, "shuffle", seed=seed) for row in (0, 1) for seed in range(4)]
    together = intervener(wanted)
    for one, outcome in zip(wanted, together, strict=True):
        (alone,) = intervener([one])
        assert alone.probability == pytest.approx(outcome.probability, abs=1e-6)


def test_a_clip_that_cannot_be_read_any_more_says_why(intervener):
    wanted = [Intervention(1, 0), Intervention(2, 0), Intervention(2, 1), Intervention(3, 0)]
    outcomes = intervener(wanted)
    assert [outcome.probability is None for outcome in outcomes] == [False, True, True, False]
    assert outcomes[1].message == "missing: clips/2.mp4 is gone"


@given(
    rows=st.lists(st.integers(0, 9), max_size=30).map(sorted),
    clips_per_part=st.integers(1, 4),
)
def test_parts_hold_whole_clips_in_order(rows, clips_per_part):
    wanted = [Intervention(row, 0) for row in rows]
    parts = in_parts(wanted, clips_per_part)
    assert [at for part in parts for at in part] == list(range(len(rows)))
    held = [{rows[at] for at in part} for part in parts]
    assert all(1 <= len(of_part) <= clips_per_part for of_part in held)
    assert sum(map(len, held)) == len(set(rows))


def test_outcomes_are_kept_by_part_and_those_of_another_plan_are_not_read(tmp_path):
    wanted = [Intervention(0, 0), Intervention(1, 0, "replace", "blur", (0, 1), (0, 1), (0, 1))]
    folder = OutcomeFolder.of_plan(str(tmp_path), wanted, "run")
    outcomes = [Outcome(0.25), Outcome(None, "missing: gone")]
    assert folder.read(range(2)) is None
    folder.write(range(2), outcomes)
    assert folder.read(range(2)) == outcomes
    assert OutcomeFolder.of_plan(str(tmp_path), wanted, "run") == folder
    for other in (
        OutcomeFolder.of_plan(str(tmp_path), wanted[:1], "run"),
        OutcomeFolder.of_plan(str(tmp_path), wanted, "another run"),
    ):
        assert other.read(range(2)) is None
    (file,) = tmp_path.glob("*/*.json")
    for damage in (b"", b"[1, 2]", b"{}", file.read_bytes()[:-5], b'[{"probability": 0.5}]'):
        file.write_bytes(damage)
        assert folder.read(range(2)) is None
