"""A full-size model over real clips, on Ray: what can be decoded is explained, the rest named."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from transformers import (
    TimesformerConfig,
    TimesformerForVideoClassification,
    VideoMAEImageProcessorPil,
)

from jobs.attribute import attribute
from jobs.cli import run_job
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import write_manifest
from pipeline.run.config import AttributeJob
from pipeline.status import Status
from tests.support.clips import REAL_CLIPS, pyav_frames, write_audio

N_FRAMES = 8
BROKEN = {
    "audio.mp4": Status.UNREADABLE,
    "empty.mp4": Status.EMPTY,
    "half.mp4": Status.TRUNCATED,
    "text.mp4": Status.UNREADABLE,
    "gone.mp4": Status.MISSING,
}


def save_base_timesformer(folder: Path) -> None:
    """Write facebook/timesformer-base-finetuned-k400's architecture, with random weights."""
    torch.manual_seed(0)
    config = TimesformerConfig(num_labels=400)
    assert (config.num_frames, config.image_size, config.hidden_size) == (N_FRAMES, 224, 768)
    TimesformerForVideoClassification(config).save_pretrained(folder)
    VideoMAEImageProcessorPil(
        size={"shortest_edge": 224},
        crop_size={"height": 224, "width": 224},
        image_mean=[0.45, 0.45, 0.45],
        image_std=[0.225, 0.225, 0.225],
    ).save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.skipif(
    REAL_CLIPS[0].values[0] is None, reason="no folder shared/clips beside the checkout"
)
def test_a_full_size_model_accounts_for_every_real_clip(local_ray, tmp_path):
    real = [parameter.values[0] for parameter in REAL_CLIPS]
    clips = tmp_path / "clips"
    clips.mkdir()
    for path in real:
        shutil.copyfile(path, clips / path.name)
    write_audio(clips / "audio.mp4")
    (clips / "empty.mp4").touch()
    (clips / "text.mp4").write_text("not a video\n")
    whole = next(path for path in real if path.suffix == ".mp4").read_bytes()
    (clips / "half.mp4").write_bytes(whole[: len(whole) // 2])
    listing = tmp_path / "clips.txt"
    names = sorted([path.name for path in real] + list(BROKEN))
    listing.write_text("\n".join(names))
    manifest = str(tmp_path / "manifest.parquet")
    table = build_manifest(layout="list", clips=str(clips), annotations=str(listing))
    write_manifest(table, manifest)
    save_base_timesformer(tmp_path / "model")

    flags = [
        *("--manifest", manifest, "--model", str(tmp_path / "model")),
        *("--out", str(tmp_path / "run"), "--batch-size", "2", "--rows-per-shard", "8"),
        *("--n-models", "1", "--max-failed-fraction", "0.5"),
    ]
    assert run_job(AttributeJob, attribute, verb="attribute", argv=flags) == 0

    ds = xr.open_zarr(tmp_path / "run" / "attributions.zarr", consolidated=False).load()
    status = dict(zip(names, ds["status"].values.tolist(), strict=True))
    # PyAV says which clips have too few frames for the model.
    short = [path.name for path in real if len(pyav_frames(path)) < N_FRAMES]
    expected = BROKEN | dict.fromkeys(short, Status.TOO_SHORT)
    assert {name: Status(code) for name, code in status.items() if code != Status.OK} == expected
    ok = ds.isel(clip=ds["status"].values == Status.OK)
    assert ok["spatial"].shape == (len(real) - len(short), N_FRAMES, 14, 14)
    spatial = ok["spatial"].values.astype(np.float64)
    np.testing.assert_allclose(spatial.sum(axis=(2, 3)), 1, atol=1e-3)
    np.testing.assert_allclose(ok["temporal"].values.sum(axis=1), 1, atol=1e-5)
    assert (np.diff(ok["frame_index"].values, axis=1) > 0).all()
    assert ok["probability"].notnull().all()
