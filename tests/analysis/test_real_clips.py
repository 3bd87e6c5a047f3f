"""Scores of ten real clips, of which two have something that gives them away."""

from pathlib import Path

import pytest

import pipeline.synthetic
from analysis import scores
from pipeline.attribution.method import Method
from pipeline.clips.views import ViewsConfig
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import write_manifest
from pipeline.run.config import AttributeConfig, SamplingConfig
from pipeline.run.plan import plan_run
from pipeline.run.prepare import prepare
from pipeline.run.serial import execute_serially

CLIPS = Path(__file__).resolve().parents[3] / "shared" / "clips" / "k400"
TITLE_CARD, CORNER_LOGO = "0rKdvMAQWGs", "4p4eqetk4R8"
"""A black title card for most of its length; a logo in the corner at the top right."""
MODEL = Path(pipeline.synthetic.__file__).parent / "checkpoints" / "shortcuts"
CORNERS = ["top_left_mass", "top_right_mass", "bottom_left_mass", "bottom_right_mass"]


@pytest.mark.slow
@pytest.mark.skipif(not CLIPS.exists(), reason="no folder shared/clips beside the checkout")
def test_a_title_card_and_a_logo_are_among_the_first_three_of_ten_by_their_scores(
    one_thread, tmp_path
):
    """A model that has never seen a real clip shows them: by evidence weighed by change."""
    names = sorted(path.name for path in CLIPS.glob("*.mp4"))
    assert len(names) == 10
    listing = tmp_path / "clips.txt"
    listing.write_text("\n".join(names))
    manifest = str(tmp_path / "clips.parquet")
    table = build_manifest(layout="list", clips=str(CLIPS), annotations=str(listing))
    write_manifest(table, manifest)
    config = AttributeConfig(
        manifest=manifest,
        model=str(MODEL),
        out=str(tmp_path / "run"),
        sampling=SamplingConfig(kind="uniform"),
        method=Method(name="evidence", clamp="sum", change_weighted=True),
        # The middle of the wide clip with the logo doesn't show it, the right end does.
        views=ViewsConfig(crops=3),
    )
    plan = plan_run(config)
    prepare(plan)
    execute_serially(plan)

    by_video = scores(str(tmp_path / "run")).groupby("video_id", observed=True)
    concentration = by_video["temporal_gini"].mean().sort_values(ascending=False)
    assert TITLE_CARD in concentration.index[:3]
    corners = by_video[CORNERS].max()
    assert CORNER_LOGO in corners.max(axis=1).sort_values(ascending=False).index[:3]
    assert corners.loc[CORNER_LOGO].idxmax() == "top_right_mass"
