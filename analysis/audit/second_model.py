"""Label suspects tried by a second model, whose answer may contradict the label, too.

A model that has learnt a shortcut, or a label by heart, is wrong in its own way. Another one, which
was trained on other clips or from another start, shares little of that. So a suspect is tried by
the answers of another run over the same videos; nothing is computed here.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.audit.finding import Finding, Proof
from analysis.runs import class_names, ok, open_run, record_of
from pipeline.errors import StoreError

_LEAST_PROBABILITY = 0.5
"""Least probability that the second model gives to the suspected class, as for the first."""


def read_answers(run_url: str) -> pd.DataFrame:
    """Read what a run's model says of each video whose clip is ok; of several views the surest.

    A video of which the run has several segments has no answer: a finding names the video alone.

    Returns
    -------
    DataFrame by ``video_id`` with ``prediction``, the class's name, a categorical over all classes
    of the model, and ``probability``

    Raises
    ------
    StoreError
        When there is no run.
    """
    run = open_run(run_url)
    ds = ok(run)
    ids = run["video_id"].values.astype(object)
    segment = record_of(run).views.video(run["clip"].values)
    n_segments = pd.Series(segment).groupby(ids).nunique()
    answers = pd.DataFrame(
        {
            "video_id": ds["video_id"].values.astype(object),
            "prediction": pd.Categorical(
                class_names(ds, "prediction").values, categories=run["class"].values
            ),
            "probability": ds["probability"].values.astype(np.float64),
        }
    )
    answers = answers[answers["video_id"].map(n_segments) == 1]
    surest = answers.sort_values("probability", ascending=False, kind="stable")
    return surest.drop_duplicates("video_id").set_index("video_id")


def prove_suspects(findings: Sequence[Finding], answers: pd.DataFrame) -> list[Finding]:
    """Add a second model's answers to the label suspects among findings.

    A suspect is confirmed if the second model predicts the suspected class, too, with a probability
    of a half or more. If it predicts anything else, it isn't confirmed. It stays not tried where
    the second run has no answer for the video, or its model doesn't know the suspected class.
    Classes are compared by name, so the second model may know others besides.

    Parameters
    ----------
    answers
        Of `read_answers`, of a run by another model.

    Raises
    ------
    StoreError
        When the second run has an answer for none of the suspects, as over another dataset, or of
        a model with other classes.
    """
    known = set(answers["prediction"].cat.categories)

    def can_be_tried(finding: Finding) -> bool:
        return finding.subject[0] in answers.index and finding.subject[2] in known

    suspects = [finding for finding in findings if finding.kind == "label_suspect"]
    if suspects and not any(map(can_be_tried, suspects)):
        raise StoreError(
            f"the second model's run has an answer for none of the {len(suspects)} label suspects, "
            f"such as {suspects[0].subject[0]}: expected a run over the same videos and classes"
        )
    return [
        finding.with_proof(_proof(finding, answers))
        if finding.kind == "label_suspect" and can_be_tried(finding)
        else finding
        for finding in findings
    ]


def _proof(finding: Finding, answers: pd.DataFrame) -> Proof:
    video, _, suspected = finding.subject
    says = str(answers["prediction"][video])
    probability = float(answers["probability"][video])
    agrees = says == suspected and probability >= _LEAST_PROBABILITY
    return Proof(
        state="confirmed" if agrees else "not confirmed",
        n_clips=1,
        note=f"A second model says {says!r} ({probability:.0%}).",
    )
