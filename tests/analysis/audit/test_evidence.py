"""What an audit reads of a run: a row for each video and label."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from analysis.audit.audit import audit
from analysis.audit.evidence import per_video, read_evidence
from pipeline.errors import StoreError
from tests.analysis.simulated_runs import CLASS_NAMES, simulated
from tests.analysis.stores import write_run


def test_views_of_a_video_count_once(day_seed):
    run = simulated(day_seed, ("logo",), clips_per_class=20)
    evidence = run.evidence()
    twice = np.repeat(np.arange(len(evidence.table)), 2)
    doubled = type(evidence)(
        **{
            **vars(evidence),
            "table": evidence.table.iloc[twice].reset_index(drop=True),
            "maps": evidence.maps[twice],
            "when": evidence.when[twice],
        }
    )
    back = per_video(doubled)
    assert len(back.table) == len(evidence.table)
    np.testing.assert_allclose(back.maps, evidence.maps, rtol=1e-6)
    assert [f.key for f in audit(back)] == [f.key for f in audit(evidence)]


def test_what_a_frame_weighs_is_its_importance_where_a_run_has_stored_it(day_seed, tmp_path):
    layout, columns = simulated(day_seed, clips_per_class=10).columns()
    importance = np.random.default_rng(day_seed).dirichlet(
        np.ones(layout.n_times), len(columns["status"])
    )
    columns["frame_importance"] = importance.astype(np.float32)
    layout = replace(layout, optional=(*layout.optional, "frame_importance"))
    url = write_run(tmp_path / "run", layout, columns, class_names=CLASS_NAMES)
    evidence = read_evidence(url)
    ok = evidence.table["row"].to_numpy()
    np.testing.assert_array_equal(evidence.frame_weight, columns["frame_importance"][ok])
    np.testing.assert_allclose(evidence.score("first_frame_mass"), importance[ok, 0], rtol=1e-6)
    np.testing.assert_allclose(evidence.score("last_frame_mass"), importance[ok, -1], rtol=1e-6)
    assert not np.allclose(evidence.when, evidence.frame_weight)


@pytest.fixture
def small_run(tmp_path, day_seed):
    layout, columns = simulated(day_seed, clips_per_class=10).columns()

    def write(**others):
        return write_run(tmp_path / "run", layout, columns, class_names=CLASS_NAMES, **others)

    return layout, write


def test_a_run_without_an_ok_clip_is_refused(small_run):
    layout, write = small_run
    url = write(pending_shards=tuple(range(layout.n_shards)))
    with pytest.raises(StoreError, match="no clip is ok, so there is nothing to audit"):
        read_evidence(url)


def test_an_attribution_that_was_lost_is_told(small_run, tmp_path):
    _, write = small_run
    url = write()
    assert len(read_evidence(url).table) == 10 * len(CLASS_NAMES)
    shutil.rmtree(tmp_path / "run" / "attributions.zarr" / "temporal" / "c" / "0")
    with pytest.raises(StoreError, match=r"no attribution|c/0"):
        read_evidence(url)
