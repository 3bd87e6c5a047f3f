"""Scores against plain NumPy, a clip at a time, and the table that holds them."""

import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import dask
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import spatial, stats

from analysis import (
    class_statistics,
    describe_scores,
    group_statistics,
    open_run,
    score_run,
    scores,
)
from analysis.clip_scores import PEAKS, SCORES, gini, map_scores
from analysis.reduction import Grouping, Totals, block_tasks, tree
from analysis.sums import N_BINS
from pipeline.attribution.baselines import center_gaussian
from pipeline.attribution.measures import normalised_entropy
from pipeline.dataset.manifest import METADATA_KEYS, SCHEMA, read_manifest, write_manifest
from pipeline.errors import StoreError
from pipeline.status import Status
from pipeline.store.create import create_store
from pipeline.store.run_folder import store_url
from tests.analysis.stores import CLASS_NAMES, random_columns, small_layout, write_run
from tests.support.records import record_of

SEED = int(datetime.now(UTC).strftime("%Y%m%d"))


def random_maps(seed, n=6, times=4, height=8, width=7):
    rng = np.random.default_rng(seed)
    maps = rng.gamma(0.3, size=(n, times, height, width)) + 1e-7
    when = rng.gamma(1.0, size=(n, times)) + 1e-6
    maps = (maps / maps.sum(axis=(2, 3), keepdims=True)).astype(np.float16)
    return maps, (when / when.sum(axis=1, keepdims=True)).astype(np.float32)


def by_hand(maps, when):
    """Scores of one clip, in float64, as their descriptions say."""
    s, t = maps.astype(np.float64), when.astype(np.float64)
    joint = s * t[:, None, None]
    where = joint.sum(axis=0) / joint.sum()
    n_times, height, width = s.shape
    y, x = (np.mgrid[:height, :width] + 0.5) / np.array([height, width])[:, None, None]
    cy, cx = (where * y).sum(), (where * x).sum()
    time = (np.arange(n_times) + 0.5) / n_times
    ct = (t * time).sum()
    ordered = np.sort(where.ravel())[::-1]
    n = where.size
    pairs = np.abs(where.ravel()[:, None] - where.ravel()[None]).sum() / (2 * n)
    time_pairs = np.abs(t[:, None] - t[None]).sum() / (2 * n_times)
    hy, hx = -(-height // 4), -(-width // 4)
    inner = (slice(1, -1), slice(1, -1))
    middle = (np.abs(y - 0.5) <= 0.25) & (np.abs(x - 0.5) <= 0.25)
    furthest = np.hypot((height - 1) / height, (width - 1) / width) / 2
    cosines = [1 - spatial.distance.cosine(frame.ravel(), joint.sum(axis=0).ravel()) for frame in s]
    gaussian = center_gaussian(1, height, width)[0]
    return {
        "entropy": float(normalised_entropy(joint)),
        "spatial_entropy": stats.entropy(where.ravel()) / np.log(n),
        "temporal_entropy": stats.entropy(t) / np.log(n_times),
        "gini": pairs,
        **{
            f"top{share}_mass": ordered[: max(1, round(n * share / 100))].sum()
            for share in (5, 10, 25)
        },
        "temporal_gini": time_pairs / ((n_times - 1) / n_times),
        "peak_mass": t.max(),
        "center_y": cy,
        "center_x": cx,
        "center_time": ct,
        "spread": np.sqrt((where * ((y - cy) ** 2 + (x - cx) ** 2)).sum()) / furthest,
        "temporal_spread": np.sqrt((t * (time - ct) ** 2).sum()) / ((n_times - 1) / n_times / 2),
        "border_mass": 1 - where[inner].sum(),
        "top_left_mass": where[:hy, :hx].sum(),
        "top_right_mass": where[:hy, -hx:].sum(),
        "bottom_left_mass": where[-hy:, :hx].sum(),
        "bottom_right_mass": where[-hy:, -hx:].sum(),
        "center_mass": where[middle].sum(),
        "first_frame_mass": t[0],
        "last_frame_mass": t[-1],
        "movement": np.mean(np.abs(np.diff(s, axis=0)).sum(axis=(1, 2)) / 2),
        "stillness": (t * np.array(cosines)).sum(),
        "center_agreement": np.sqrt(where * gaussian).sum(),
    }


def test_every_score_is_what_its_description_says():
    print("seed", SEED)
    maps, when = random_maps(SEED)
    scored = map_scores(maps, when)
    assert set(scored.scores) == set(SCORES)
    for clip in range(len(maps)):
        expected = by_hand(maps[clip], when[clip])
        assert set(expected) == set(SCORES)
        for name, value in expected.items():
            # Stored shares are rounded to half precision, and so their sums are not quite 1.
            assert scored.scores[name][clip] == pytest.approx(value, abs=1e-3), name
        joint = maps[clip].astype(np.float64) * when[clip][:, None, None]
        y, x = np.unravel_index(joint.sum(axis=0).argmax(), maps.shape[2:])
        peaks = [scored.peaks[name][clip] for name in PEAKS]
        assert peaks == [when[clip].argmax(), y, x]


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    times=st.integers(1, 5),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    part=st.integers(1, 7),
)
def test_a_clips_numbers_lie_in_0_to_1_and_depend_on_it_alone(seed, times, height, width, part):
    maps, when = random_maps(seed, n=7, times=times, height=height, width=width)
    whole = map_scores(maps, when)
    alone = [map_scores(maps[i : i + part], when[i : i + part]) for i in range(0, 7, part)]
    for name in SCORES:
        values = whole.scores[name]
        assert ((values >= 0) & (values <= 1)).all(), name
        np.testing.assert_array_equal(values, np.concatenate([a.scores[name] for a in alone]))
    np.testing.assert_array_equal(whole.spatial_map, np.concatenate([a.spatial_map for a in alone]))


def test_extremes_have_a_defined_answer():
    uniform = np.full((1, 4, 8, 8), 1 / 64, np.float16)
    even = np.full((1, 4), 0.25, np.float32)
    flat = {name: value[0] for name, value in map_scores(uniform, even).scores.items()}
    assert flat["entropy"] == pytest.approx(1)
    assert flat["stillness"] == pytest.approx(1)
    assert flat["gini"] == flat["movement"] == flat["temporal_gini"] == 0
    point = np.zeros((1, 4, 8, 8), np.float16)
    point[0, :, 0, 0] = 1
    once = np.array([[0, 0, 0, 1]], np.float32)
    sharp = {name: value[0] for name, value in map_scores(point, once).scores.items()}
    assert sharp["entropy"] == pytest.approx(0, abs=1e-6)
    assert sharp["top_left_mass"] == sharp["last_frame_mass"] == sharp["temporal_gini"] == 1
    lost = uniform.copy()
    lost[0, 2, 3, 3] = np.nan
    assert all(np.isnan(value[0]) for value in map_scores(lost, even).scores.values())
    assert gini(np.array([[1.0, 0.0, 0.0, 0.0]]))[0] == pytest.approx(3 / 4)


def manifest_of(tmp_path, n):
    table = pa.table(
        {
            "video_id": [f"clip{row}" for row in range(n)],
            "path": [f"{row}.mp4" for row in range(n)],
            "label": pa.array([None] * n, pa.string()),
            "start_time": pa.array([None] * n, pa.float64()),
            "end_time": pa.array([None] * n, pa.float64()),
            "split": ["train" if row % 3 else "val" for row in range(n)],
        },
        schema=SCHEMA.with_metadata(
            dict(zip(METADATA_KEYS, ("1", "file:///clips", "files"), strict=True))
        ),
    )
    url = str(tmp_path / "clips.parquet")
    write_manifest(table, url)
    return url, read_manifest(url).digest


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("scored")
    layout = replace(small_layout(23), optional=("frame_time",))
    status = np.full(23, Status.OK, np.uint8)
    status[[2, 9]] = Status.EMPTY
    seconds = np.arange(4) / 25 + np.arange(23)[:, None]
    columns = random_columns(layout, SEED % 1000, status=status, frame_time=seconds)
    columns["label"][5] = -1
    manifest, digest = manifest_of(tmp_path, 23)
    url = write_run(tmp_path / "run", layout, columns, manifest=manifest, digest=digest)
    return url, columns, score_run(url)


def test_the_table_has_a_row_for_each_row_beside_the_manifests_columns(scored):
    url, columns, result = scored
    table = scores(url)
    assert result.notes == ()
    assert len(table) == 23
    assert table["video_id"].tolist() == columns["video_id"].tolist()
    assert table["path"].tolist() == [f"{row}.mp4" for row in range(23)]
    assert table["split"].tolist() == ["train" if row % 3 else "val" for row in range(23)]
    names = [CLASS_NAMES[label] if label >= 0 else None for label in columns["label"]]
    assert table["label"].astype(object).where(table["label"].notna(), None).tolist() == names
    assert table["status"].tolist() == [Status(code).label for code in columns["status"]]
    ok = columns["status"] == 1
    expected = map_scores(columns["spatial"][ok], columns["temporal"][ok])
    for name in SCORES:
        assert table.loc[~ok, name].isna().all()
        np.testing.assert_array_equal(
            table.loc[ok, name], expected.scores[name].astype(np.float32), err_msg=name
        )
    # Tubelets of two frames: a time step begins with the first of them.
    first = 2 * columns["temporal"][ok].argmax(axis=1)
    assert table.loc[ok, "peak_frame"].tolist() == first.tolist()
    seconds = columns["frame_time"][np.flatnonzero(ok), first]
    np.testing.assert_array_equal(table.loc[ok, "peak_s"], seconds)
    assert table.loc[~ok, "peak_s"].isna().all()
    assert pd.isna(table.loc[5, "correct"])
    right = columns["label"] == columns["prediction"]
    assert (
        table.loc[ok, "correct"].dropna().tolist() == right[ok & (columns["label"] >= 0)].tolist()
    )
    assert set(describe_scores().index) <= set(table.columns)
    assert list(scores(url, ["gini"]).columns) == ["gini"]
    with pytest.raises(StoreError, match="has no column 'ginny': it has row"):
        scores(url, ["ginny"])


def test_agreement_is_with_the_classs_other_clips(scored):
    url, columns, _ = scored
    table = scores(url)
    ok = columns["status"] == 1
    joint = columns["spatial"].astype(np.float64) * columns["temporal"][:, :, None, None]
    maps = joint.sum(axis=1).reshape(23, -1)
    for row in np.flatnonzero(ok & (columns["label"] >= 0)):
        others = ok & (columns["label"] == columns["label"][row])
        others[row] = False
        expected = np.sqrt(maps[row] * maps[others].mean(axis=0)).sum()
        assert table.loc[row, "class_agreement"] == pytest.approx(min(expected, 1), abs=2e-3)
    assert np.isnan(table.loc[5, "class_agreement"])
    assert np.isfinite(table.loc[5, "dataset_agreement"])


def test_a_table_of_a_run_that_has_gone_on_is_refused(scored, tmp_path):
    _, columns, _ = scored
    layout = replace(small_layout(23), optional=("frame_time",))
    url = write_run(tmp_path / "run", layout, columns, pending_shards=(1,))
    notes = score_run(url).notes
    assert len(notes) == 1
    assert "can't read manifest clips.parquet" in notes[0]
    assert scores(url)["status"].tolist()[4:8] == ["pending"] * 4
    zarr.open_group(f"{url}/attributions.zarr", mode="r+")["status"][4:8] = Status.EMPTY
    with pytest.raises(StoreError, match="of other rows than the run has now, 23 of 23"):
        scores(url)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_sums_by_any_columns_are_those_of_pandas(scored, data):
    url, _, _ = scored
    by = data.draw(
        st.lists(st.sampled_from(["label", "prediction", "correct"]), unique=True, min_size=1)
    )
    clips = data.draw(st.lists(st.integers(0, 22), unique=True, min_size=1))
    ds = open_run(url).isel(clip=clips).chunk(clip=data.draw(st.integers(1, 9)))
    grouped = group_statistics(ds, by)
    table = scores(url).iloc[clips]
    table = table[table["status"] == "ok"]
    keys = {
        "label": table["label_index"],
        "prediction": table["prediction_index"],
        "correct": table["correct"].astype("float").fillna(-1).astype(int),
    }
    expected = table.groupby([keys[name] for name in by])
    assert grouped["n"].values.tolist() == expected.size().tolist()
    for name in ("entropy", "gini", "probability", "label_probability"):
        one = grouped.sel(score=name)
        np.testing.assert_allclose(one["mean"], expected[name].mean(), rtol=1e-5)
        np.testing.assert_allclose(one["std"], expected[name].std(ddof=0), atol=1e-6)
        for q in (0.05, 0.5, 0.95):
            # Within a bin of a value that as many lie below, as the quantile asks for.
            below = expected[name].quantile(q, interpolation="lower")
            above = expected[name].quantile(q, interpolation="higher")
            found = one[f"q{int(100 * q):02d}"].values
            assert (found >= below - 1.001 / N_BINS).all()
            assert (found <= above + 1.001 / N_BINS).all()


def test_the_same_bits_from_any_scheduler_and_by_manifest_columns(scored):
    url, _, _ = scored
    ds = open_run(url, shards_per_chunk=1)
    tasks = block_tasks(ds, (Grouping(("label",)), Grouping(("prediction", "correct"))))
    results = [dask.compute(tree(tasks), scheduler=one)[0] for one in ("sync", "threads")]
    for first, second in zip(*(result.sums for result in results), strict=True):
        assert first.keys.equals(second.keys)
        np.testing.assert_array_equal(first.total, second.total)
        np.testing.assert_array_equal(first.histogram, second.histogram)
    by_split = score_run(url, by=[Grouping(("split", "label"))]).totals.sums[-1]
    table = scores(url)
    expected = table[table["status"] == "ok"].groupby(["split", "label_index"]).size()
    assert by_split.n.tolist() == expected.tolist()
    assert [tuple(key) for key in by_split.keys] == [tuple(key) for key in expected.index]
    with pytest.raises(StoreError, match="by: 'colour' is neither an array of the run nor"):
        score_run(url, by=[Grouping(("colour",))])


def test_merging_is_associative_and_commutative_but_for_rounding(scored):
    url, _, _ = scored
    tasks = block_tasks(open_run(url, shards_per_chunk=1), (Grouping(("label",)),))
    blocks = dask.compute(*tasks)
    forwards = Totals.of(blocks)
    backwards = Totals.of([Totals.of(blocks[3:]), Totals.of(blocks[:3][::-1])])
    assert forwards.coverage == backwards.coverage
    np.testing.assert_array_equal(forwards.sums[0].n, backwards.sums[0].n)
    np.testing.assert_array_equal(forwards.sums[0].histogram, backwards.sums[0].histogram)
    np.testing.assert_allclose(forwards.sums[0].total, backwards.sums[0].total, atol=1e-12)


def test_the_graph_has_few_tasks_whatever_the_number_of_clips(tmp_path):
    for n_rows, most in ((240_000, 2_000), (10_000_000, 20_000)):
        layout = replace(small_layout(n_rows, rows_per_shard=256), height=14, width=14, n_times=8)
        url = str(tmp_path / str(n_rows))
        # The template of a store, without a shard.
        create_store(store_url(url), record_of(layout, class_names=CLASS_NAMES))
        ds = open_run(url)
        tasks = block_tasks(ds, (Grouping(("label",)),), keep_scores=True)
        assert len(tree(tasks).__dask_graph__()) + len(tasks) < most
    assert len(class_statistics(open_run(str(tmp_path / "240000"))).__dask_graph__()) < 2_000


@pytest.mark.slow
def test_a_cluster_of_processes_gives_the_same_bits(scored, tmp_path):
    """In a process of its own, since a cluster leaves threads and child processes behind."""
    url, _, _ = scored
    code = (
        "import sys, numpy as np, dask\n"
        "from distributed import Client, LocalCluster\n"
        "from analysis import open_run\n"
        "from analysis.reduction import Grouping, block_tasks, tree\n"
        "if __name__ == '__main__':\n"
        "    ds = open_run(sys.argv[1], shards_per_chunk=1)\n"
        "    make = lambda: tree(block_tasks(ds, (Grouping(('label',)),)))\n"
        "    here = dask.compute(make(), scheduler='sync')[0].sums[0]\n"
        "    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as c,"
        " Client(c):\n"
        "        there = dask.compute(make())[0].sums[0]\n"
        "    np.testing.assert_array_equal(here.total, there.total)\n"
        "    np.testing.assert_array_equal(here.squares, there.squares)\n"
        "    np.testing.assert_array_equal(here.histogram, there.histogram)\n"
    )
    script = tmp_path / "cluster.py"
    script.write_text(code)
    command = [sys.executable, str(script), url]
    environment = {"PYTHONPATH": ":".join(sys.path)}
    subprocess.run(command, check=True, env={**os.environ, **environment}, timeout=300)
