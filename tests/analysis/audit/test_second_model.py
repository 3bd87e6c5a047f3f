"""Label suspects tried by the answers of a second model, which are simulated here."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.audit.audit import audit
from analysis.audit.finding import Finding, ranked
from analysis.audit.second_model import prove_suspects, read_answers
from pipeline.clips.views import ViewsConfig
from pipeline.errors import StoreError
from pipeline.status import Status
from tests.analysis.simulated_runs import ALL, CLASS_NAMES, simulated
from tests.analysis.stores import CLASS_NAMES as SMALL_CLASSES
from tests.analysis.stores import random_columns, small_layout, write_run


@pytest.fixture(scope="module")
def planted(day_seed):
    """A run in which labels are swapped among classes that maps tell apart."""
    run = simulated(day_seed, ALL, apart=True)
    return run, run.evidence()


@pytest.fixture(scope="module")
def found(planted):
    _, evidence = planted
    return audit(evidence)


@pytest.fixture(scope="module")
def suspects(found):
    return [finding for finding in found if finding.kind == "label_suspect"]


def answers_of(run):
    """Answers of a second model that knows what is shown."""
    label = run.label.copy()
    for row, true in run.planted.swapped.items():
        label[row] = true
    names = np.array(CLASS_NAMES)[label]
    video = [f"sim{row:05d}" for row in range(len(label))]
    prediction = pd.Categorical(names, categories=CLASS_NAMES)
    return pd.DataFrame({"prediction": prediction, "probability": 0.9}, index=video)


def state_of(found):
    return {f.subject[0]: f.proof.state for f in found if f.kind == "label_suspect"}


def test_a_second_model_confirms_swapped_labels_and_no_others(planted, found, suspects):
    run, _ = planted
    assert suspects
    assert {*state_of(found).values()} == {"not tried"}
    # The first model's own mistake, as no run of a day need have one.
    right = next(row for row in range(len(run.label)) if row not in run.planted.swapped)
    labelled, other = (CLASS_NAMES[(run.label[right] + step) % len(CLASS_NAMES)] for step in (0, 1))
    mistake = replace(suspects[0], subject=(f"sim{right:05d}", labelled, other))
    proven = prove_suspects([*found, mistake], answers_of(run))
    swapped = {f"sim{row:05d}": CLASS_NAMES[true] for row, true in run.planted.swapped.items()}
    for finding in proven:
        if finding.kind == "label_suspect":
            agrees = swapped.get(finding.subject[0]) == finding.subject[2]
            assert finding.proof.state == ("confirmed" if agrees else "not confirmed")
            assert finding.proof.n_clips == 1
    assert state_of(proven)[f"sim{right:05d}"] == "not confirmed"
    others = [finding for finding in found if finding.kind != "label_suspect"]
    assert [finding for finding in proven if finding.kind != "label_suspect"] == others


def test_an_unsure_second_model_confirms_nothing_and_a_missing_video_is_not_tried(
    planted, suspects
):
    run, _ = planted
    first, video = suspects[0], suspects[0].subject[0]
    answers = answers_of(run)
    says = pd.Categorical([first.subject[2]] * len(answers), categories=CLASS_NAMES)
    unsure = answers.assign(prediction=says, probability=0.4)
    assert state_of(prove_suspects(suspects, unsure))[video] == "not confirmed"
    assert "(40%)" in prove_suspects([first], unsure)[0].proof.note
    absent = unsure.drop(index=video)
    another = replace(first, subject=("sim00000", *first.subject[1:]))
    assert state_of(prove_suspects([first, another], absent))[video] == "not tried"
    with pytest.raises(StoreError, match="an answer for none of the 1 label suspects"):
        prove_suspects([first], absent)
    assert prove_suspects([], absent) == []
    stranger = answers.assign(prediction=pd.Categorical(["other"] * len(answers)))
    with pytest.raises(StoreError, match="the same videos and classes"):
        prove_suspects([first], stranger)


def test_confirmed_suspects_are_ranked_first_and_kept_as_they_are(planted, found, suspects):
    run, _ = planted
    # The second model says what is suspected, whatever is shown.
    answers = answers_of(run)
    for finding in suspects:
        answers.loc[finding.subject[0], "prediction"] = finding.subject[2]
    proven = ranked(prove_suspects(found, answers))
    assert {f.kind for f in proven[: len(suspects)]} == {"label_suspect"}
    assert Finding.from_json(proven[0].to_json()) == proven[0]


def test_answers_are_those_of_ok_clips_and_of_the_surest_view(tmp_path):
    status = np.full(8, Status.OK, np.uint8)
    status[[2, 3]] = Status.EMPTY
    columns = random_columns(
        small_layout(8), status=status, video_id=np.repeat(["a", "b", "c", "d"], 2).astype(object)
    )
    columns["probability"][[0, 1, 4, 5]] = [0.2, 0.7, 0.6, 0.6]
    run = write_run(tmp_path, small_layout(8), columns, views=ViewsConfig(crops=2))
    answers = read_answers(run)
    assert sorted(answers.index) == ["a", "c", "d"]
    names = np.array(SMALL_CLASSES)[columns["prediction"]]
    assert answers.loc["a"].tolist() == [names[1], pytest.approx(0.7)]
    assert answers.loc["c", "prediction"] == names[4]
    with pytest.raises(StoreError):
        read_answers(str(tmp_path / "nothing"))
