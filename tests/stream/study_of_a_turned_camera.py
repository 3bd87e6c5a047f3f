"""What a camera on its side changes in the streams from files that have no up and no down.

``python -m tests.stream.study_of_a_turned_camera`` explains ten minutes of a usual stream, of
another one, and of one that is turned from its start. It prints the mean normal score of the other
two by the first, and how well a classifier that is trained on their windows tells turned ones from
usual ones: the area under its ROC curve, over four parts of the streams that it wasn't trained on.
At 0.5 nothing is there to be found. ``--sky`` does the same under a sky.
"""

import argparse
import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.status import Status
from pipeline.store.opening import open_store
from pipeline.store.run_folder import store_url
from pipeline.stream.drift_watch import PROBABILITY, reference_of
from pipeline.stream.scores import window_scores
from pipeline.stream.sessions import urls_of
from tests.stream.drift_in_files import USUAL_S, USUAL_SEED, explain

N_PARTS = 4
TURNED = "camera on its side"


def windows(folder):
    """Columns of the windows of a folder's one session."""
    (url,) = urls_of(str(folder))
    store = open_store(store_url(url))
    done = store.array("status")[:] == Status.OK
    names = ("spatial", "temporal", "prediction", "probability", "top_classes", "top_probabilities")
    return {name: store.array(name)[:][done] for name in names}


def normal_scores(reference, class_names, columns):
    """Mean normal scores of windows."""
    found = []
    for place, prediction in enumerate(columns["prediction"]):
        scores, where = window_scores(columns["spatial"][place], columns["temporal"][place])
        group = reference.group_of(class_names[prediction])
        scores |= {PROBABILITY: columns["probability"][place]}
        scores |= reference.map_scores(group, where)
        values = np.array([scores[name] for name in reference.scores[:-1]])
        found.append(reference.normal_scores(group, values)[0])
    return dict(zip(reference.scores, np.nanmean(found, axis=0), strict=True))


def told_apart(usual, turned):
    """Area under the ROC curve for what of windows is given, (windows, values) each."""
    areas = []
    for part in range(N_PARTS):
        rows = [len(each) * np.array([part, part + 1]) // N_PARTS for each in (usual, turned)]
        is_held_out = [np.zeros(len(each), bool) for each in (usual, turned)]
        for held_out, (first, end) in zip(is_held_out, rows, strict=True):
            held_out[first:end] = True
        held_out = np.concatenate(is_held_out)
        values = np.concatenate([usual, turned])
        is_turned = np.repeat([0, 1], [len(usual), len(turned)])
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
        model.fit(values[~held_out], is_turned[~held_out])
        areas.append(roc_auc_score(is_turned[held_out], model.decision_function(values[held_out])))
    return float(np.mean(areas))


def maps(columns):
    """Roots of the maps summed over time: (windows, patches)."""
    joint = columns["spatial"].astype(np.float32) * columns["temporal"][:, :, None, None]
    return np.sqrt(joint.sum(axis=1).reshape(len(joint), -1))


def answers(columns):
    """The best classes, in order, and the logarithms of their probabilities."""
    return np.column_stack(
        [columns["top_classes"], np.log(columns["top_probabilities"].astype(np.float32) + 1e-4)]
    )


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sky", action="store_true")
    options = parser.parse_args()
    streams = {"usual": (USUAL_SEED, None), "other": (1100, None), "turned": (100, TURNED)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stream, (seed, drift) in streams.items():
            with contextlib.redirect_stdout(io.StringIO()):
                explain(folder, stream, USUAL_S, seed, drift, sky=options.sky, drift_at_s=0.0)
        (url,) = urls_of(str(folder / "usual"))
        record = open_store(store_url(url)).record
        reference = reference_of(url, record)
        found = {stream: windows(folder / stream) for stream in streams}
    for stream in ("other", "turned"):
        means = normal_scores(reference, record.class_names, found[stream])
        print(stream, {score: round(float(mean), 2) for score, mean in means.items()})
    for what in (maps, answers):
        usual = np.concatenate([what(found["usual"]), what(found["other"])])
        print(f"by {what.__name__}: area {told_apart(usual, what(found['turned'])):.2f}")


if __name__ == "__main__":
    main()
