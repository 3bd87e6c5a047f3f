"""An auditor's questions, each asked in one to three lines as one would in a notebook."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from scipy import stats

from analysis import (
    Threshold,
    class_names,
    class_statistics,
    findings,
    focused_attribution,
    for_netcdf,
    group_statistics,
    open_run,
    overall_statistics,
    scores,
    show_clip,
)
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import read_manifest, write_manifest
from pipeline.storage.zarr_store import zarr_location
from pipeline.store.run_folder import metrics_url
from tests.analysis.simulated_runs import ALL, CLASS_NAMES, FLASH, LOGO, STATIC, simulated
from tests.analysis.stores import CLASS_NAMES as STORE_CLASSES
from tests.analysis.stores import random_columns, small_layout, write_run

SEED = int(datetime.now(UTC).strftime("%Y%m%d"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    print("seed", SEED)
    layout, columns = simulated(SEED, ALL, apart=True).columns()
    return write_run(tmp_path_factory.mktemp("run") / "a", layout, columns, class_names=CLASS_NAMES)


@pytest.fixture(scope="module")
def with_everything(tmp_path_factory):
    """A small run with columns of its manifest, metrics, layers, heads and times of frames."""
    folder = tmp_path_factory.mktemp("everything")
    rng = np.random.default_rng(SEED)
    n = 24
    names = np.array([f"clip{row}" for row in range(n)])
    manifest = pd.DataFrame(
        {
            "video_id": names,
            "path": [f"{name}.mp4" for name in names],
            "label": np.resize(STORE_CLASSES, n),
            "split": np.resize(["train", "val", "val"], n),
            "camera": np.resize(["left", "right"], n),
        }
    )
    manifest.to_csv(folder / "clips.csv", index=False)
    table = build_manifest(layout="table", clips=str(folder), annotations=str(folder / "clips.csv"))
    write_manifest(table, str(folder / "clips.parquet"))
    layout = replace(
        small_layout(n), n_layers=2, n_heads=3, optional=("frame_time",), rows_per_shard=8
    )
    maps = {
        f"{prefix}_{name}": rng.random((n, *shape, *rest)).astype(dtype)
        for prefix, shape in (("layer", (2,)), ("head", (2, 3)))
        for name, rest, dtype in (("spatial", (2, 3, 5), "float16"), ("temporal", (2,), "float32"))
    }
    columns = random_columns(
        layout, frame_time=np.tile(np.arange(4.0) + 0.5, (n, 1)).astype(np.float32), **maps
    )
    url = write_run(
        folder / "run",
        layout,
        columns,
        layers=(3, 11),
        manifest=str(folder / "clips.parquet"),
        digest=read_manifest(str(folder / "clips.parquet")).digest,
    )
    metrics = zarr.create_group(
        zarr_location(metrics_url(url)), attributes={"identity": open_run(url).attrs["identity"]}
    )
    for name in ("gap", "mask_share_attribution", "mask_covered"):
        metrics.create_array(name, data=rng.uniform(0.1, 1, n).astype(np.float32))
    return url


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    layout, columns = simulated(SEED).columns()
    return write_run(tmp_path_factory.mktemp("run") / "b", layout, columns, class_names=CLASS_NAMES)


def test_map_of_a_class_and_where_it_differs_from_the_rest(run):
    statistics = class_statistics(open_run(run)).compute()
    of_class = statistics.spatial_map.sel({"class": CLASS_NAMES[LOGO]})
    difference = of_class - overall_statistics(statistics).spatial_map
    assert np.unravel_index(int(difference.argmax()), difference.shape) == (0, 7)


def test_right_against_wrong_and_by_confusion_pair(run):
    by_correct = group_statistics(open_run(run), ["correct"])
    pairs = group_statistics(open_run(run), ["label", "prediction"])
    assert by_correct["correct"].values.tolist() == [0, 1]
    assert int(pairs["n"].sum()) == 600


def test_median_and_5_to_95_percent_of_entropy_by_class(run):
    spread = scores(run).groupby("label", observed=True).entropy.quantile([0.05, 0.5, 0.95])
    assert spread.unstack().shape == (10, 3)


def test_clips_unlike_their_class(run):
    odd = scores(run).nsmallest(5, "class_agreement")[["video_id", "label", "class_agreement"]]
    assert len(odd) == 5


def test_border_and_corner_share_and_who_looks_at_the_first_frame(run):
    shares = scores(run).groupby("label", observed=True)[["top_right_mass", "first_frame_mass"]]
    assert shares.mean().idxmax().tolist() == [CLASS_NAMES[LOGO], CLASS_NAMES[FLASH]]


def test_is_it_a_still(run):
    assert (
        scores(run).groupby("label", observed=True).stillness.median().idxmax()
        == (CLASS_NAMES[STATIC])
    )


def test_which_classes_look_alike(run):
    maps = np.sqrt(class_statistics(open_run(run)).spatial_map.compute().values.reshape(10, -1))
    alike = pd.DataFrame(maps @ maps.T, CLASS_NAMES, CLASS_NAMES)
    np.testing.assert_allclose(np.diag(alike), 1, atol=1e-3)


def test_model_a_against_b(run, other):
    a_b = class_statistics(open_run([run, other])).compute()
    change = (a_b.spatial_map.sel(run=run) - a_b.spatial_map.sel(run=other)).max(("y", "x"))
    assert str(change["class"][int(change.argmax())].item()) == CLASS_NAMES[LOGO]


def test_is_the_difference_significant_over_all_classes(run):
    table = scores(run)
    p = [
        stats.mannwhitneyu(part, table.first_frame_mass.drop(part.index)).pvalue
        for _, part in table.groupby("label", observed=True).first_frame_mass
    ]
    assert stats.false_discovery_control(p).argmin() == FLASH


def test_find_a_video_and_what_it_got(run):
    found = scores(run).query("video_id == 'sim00017'")
    ds = open_run(run).isel(clip=found.index)
    assert class_names(ds).values.tolist() == found["label"].tolist()


def test_confident_mistakes(run):
    mistakes = scores(run).query("correct == False").nlargest(10, "probability")
    assert (mistakes.label != mistakes.prediction).all()


def test_label_suspects_and_near_duplicates(run):
    found = findings(run)
    duplicates = found[found.kind == "near_duplicate"]
    assert len(duplicates) == 12
    assert {"label_suspect", "near_duplicate"} <= set(found.kind)


def test_only_confident_clips_and_after_otsu(run):
    ds = open_run(run)
    confident = class_statistics(ds.where(ds.probability > 0.8)).compute()
    focused = focused_attribution(ds.isel(clip=slice(5)), Threshold(kind="otsu")).compute()
    assert 0 < int(confident.n_clips.sum()) < 600
    assert (focused == 0).any()


def test_a_table_for_others(run, tmp_path):
    scores(run).to_csv(tmp_path / "scores.csv")
    assert len(pd.read_csv(tmp_path / "scores.csv")) == 600


def test_show_a_clip(run):
    shown = show_clip(open_run(run), 17)
    assert shown.caption.startswith("sim00017: ")
    assert "<img" in shown._repr_html_()


def test_at_which_second_the_model_looks(with_everything):
    when = scores(with_everything).groupby("label", observed=True).peak_s.median()
    assert when.between(0.5, 6).all()


def test_by_split_or_any_column_of_the_manifest(with_everything):
    by_split = scores(with_everything).groupby(["split", "camera"], observed=True).entropy.mean()
    assert by_split.index.get_level_values("camera").unique().tolist() == ["left", "right"]


def test_faithfulness_by_class(with_everything):
    by_class = scores(with_everything).groupby("label", observed=True).gap.mean()
    assert by_class.notna().all()


def test_who_misses_the_object(with_everything):
    missed = scores(with_everything).nsmallest(3, "lift")[["video_id", "path", "label", "lift"]]
    assert len(missed) == 3


def test_by_layer_and_head(with_everything):
    ds = open_run(with_everything)
    late = ds.layer_spatial.sel(layer=11).mean(("clip", "time"))
    by_head = ds.head_spatial.sel(layer=3).mean(("clip", "time")).compute()
    assert late.dims == ("y", "x")
    assert by_head.dims == ("head", "y", "x")


def test_netcdf_for_others(with_everything, tmp_path):
    for_netcdf(open_run(with_everything).isel(clip=slice(3))).to_netcdf(tmp_path / "run.nc")
    assert xr.open_dataset(tmp_path / "run.nc").sizes["clip"] == 3
