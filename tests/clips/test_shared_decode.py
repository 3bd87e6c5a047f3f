"""One pass over a file for several models: each gets what it would get by itself."""

import random
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from pipeline.clips.frames_folder import FramesIdentity, open_parts
from pipeline.clips.loader import ClipLoader
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.clips.shared_decode import SharedReader
from pipeline.clips.views import View, Views, ViewsConfig
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import read_manifest, write_manifest
from pipeline.status import Status
from tests.support import counting
from tests.support.clips import numbered_frames, write_mp4
from tests.support.recordings import damaged, noisy_frames
from tests.support.stand_ins import DECODE as STAND_IN

N_CLIPS = 4


def views_of(n_samples, stride, edge, crop):
    sampling = Sampling("strided", n_samples, stride=stride)
    return Views.of_config(ViewsConfig(clips=2), sampling, Preprocessing(edge, crop=crop))


MODELS = {
    "four": (views_of(4, 3, 40, (32, 48)), (32, 48)),
    "eight": (views_of(8, 2, 60, (48, 48)), (48, 48)),
    "six": (views_of(6, 1, 40, (40, 40)), (40, 40)),
}
ROWS = np.arange(2 * N_CLIPS)

pytestmark = pytest.mark.usefixtures("notes")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    for clip in range(N_CLIPS):
        # The first is too short for one of the models.
        n_frames = 7 if clip == 0 else 20 + clip
        write_mp4(folder / f"{clip}.mp4", numbered_frames(n_frames, height=64, width=80))
    return folder


@pytest.fixture
def manifest(made, tmp_path):
    clips = shutil.copytree(made, tmp_path / "clips")
    write_manifest(build_manifest(layout="files", clips=str(clips)), str(tmp_path / "m.parquet"))
    return read_manifest(str(tmp_path / "m.parquet"))


@pytest.fixture
def parts(manifest, tmp_path):
    identities = {
        name: FramesIdentity.of_run(views, size, "pyav", False)
        for name, (views, size) in MODELS.items()
    }
    opened = open_parts(
        str(tmp_path / "cache"),
        list(identities.values()),
        manifest,
        n_views=2,
        batch_size=4,
        max_bytes=10**9,
    )
    return {name: opened[identity] for name, identity in identities.items()}


def loaded(manifest, name, **more):
    views, size = MODELS[name]
    table = manifest.take(views.video(ROWS))
    columns = {column: table[column].to_numpy() for column in table.column_names}
    given = {"root": manifest.root, "views": views, "input_size": size, "class_of_label": {}}
    return ClipLoader(**given | {"decode": counting.DECODE} | more)(columns | {"row": ROWS})


def readers(parts, *names):
    return tuple(SharedReader(*MODELS[name], parts[name]) for name in names)


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)


def test_a_file_is_decoded_once_for_all_models(manifest, parts, notes):
    expected = {name: loaded(manifest, name) for name in MODELS}
    notes.taken()
    shared = readers(parts, "eight", "six")
    assert_same(loaded(manifest, "four", shared=shared), expected["four"])
    assert set(notes.taken().values()) == {1}
    for name in ("eight", "six"):
        assert_same(loaded(manifest, name, cache=parts[name]), expected[name])
    # What failed for a model is looked at again by it alone.
    assert expected["eight"]["status"].tolist()[:2] == [Status.TOO_SHORT] * 2
    assert notes.n_passes() == 1


def test_what_is_cached_already_is_not_decoded_again_for_others(manifest, parts, notes):
    loaded(manifest, "six", cache=parts["six"])
    notes.taken()
    loaded(manifest, "four", shared=readers(parts, "six"))
    lines = notes.path.read_text().splitlines()
    # The two views of the first model alone.
    assert {line.split()[1] for line in lines} == {"2"}
    assert len(lines) == N_CLIPS


def test_nothing_is_decoded_for_others_where_the_model_itself_has_its_frames(
    manifest, parts, notes
):
    loaded(manifest, "four", cache=parts["four"])
    notes.taken()
    shared = readers(parts, "six")
    loaded(manifest, "four", cache=parts["four"], shared=shared)
    assert notes.n_passes() == 0
    assert shared[0].cache.holds(ROWS, np.ones((len(ROWS), 16), np.uint8)).tolist() == [False] * 8


def test_what_hangs_on_anothers_frames_is_not_this_models_timeout(manifest, parts, tmp_path):
    """The decoder hangs where all views are read at once, and not for those of one model."""
    for clip in (tmp_path / "clips").iterdir():
        clip.write_bytes(b"STAND-IN hang-for 6")
    alone = loaded(manifest, "four", decode=STAND_IN)
    assert alone["status"].tolist() == [Status.OK] * 8
    shared = readers(parts, "six")
    both = loaded(
        manifest, "four", decode=STAND_IN, shared=shared, decode_timeout_s=0.3, cache=parts["four"]
    )
    assert_same(both, alone)


CASE = Path(__file__).resolve().parents[3] / "shared" / "cases" / "rot_n60_bad57.mp4"
SIZE = (48, 64)
PIXELS = Preprocessing(shortest_edge=48, crop=SIZE)


def damaged_behind(tmp_path, seed):
    """Bytes of a clip like the case, and which of its 60 frames is damaged, near the end."""
    path = write_mp4(tmp_path / "twin.mp4", noisy_frames(), g="250", bf="0", sc_threshold="0")
    frame = seed.randrange(57, 60)
    return damaged(path, frame, seed.choice(["zeros", "noise"]), seed), frame


@pytest.mark.parametrize(
    "twin",
    [
        pytest.param(
            None,
            marks=pytest.mark.skipif(
                not CASE.exists(), reason="no folder shared/cases beside the checkout"
            ),
        ),
        0,
        1,
        2,
    ],
)
def test_damage_behind_ones_samples_and_amid_anothers_is_the_others_alone(tmp_path, twin):
    seed = f"{date.today()} {twin}"
    print(f"seed {seed}")
    data, bad = (
        (CASE.read_bytes(), 57) if twin is None else damaged_behind(tmp_path, random.Random(seed))
    )
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(data)
    table = build_manifest(layout="files", clips=str(tmp_path / "clips"))
    write_manifest(table, str(tmp_path / "m.parquet"))
    manifest = read_manifest(str(tmp_path / "m.parquet"))
    samplings = {
        # Up to frame 56, up to the damaged one, and every frame.
        "before": Sampling("uniform", 8),
        "at": Sampling("strided", bad + 1, stride=1, position=0.0, target_fps=30),
        "all": Sampling("uniform", 60),
    }
    views = {name: Views((View(sampling, PIXELS),)) for name, sampling in samplings.items()}
    identities = {n: FramesIdentity.of_run(v, SIZE, "pyav", False) for n, v in views.items()}
    parts = open_parts(
        str(tmp_path / "cache"),
        list(identities.values()),
        manifest,
        n_views=1,
        batch_size=1,
        max_bytes=10**9,
    )
    rows = {name: table[name].to_numpy() for name in table.column_names} | {"row": np.arange(1)}

    def outcome(name, **more):
        given = {"root": manifest.root, "views": views[name], "input_size": SIZE}
        columns = ClipLoader(**given, class_of_label={}, **more)(rows)
        return columns

    alone = {name: outcome(name) for name in views}
    assert alone["before"]["status"].tolist() == [Status.OK]
    assert alone["before"]["frame_index"][0][-1] == 56
    for name in ("at", "all"):
        assert alone[name]["status"].tolist() == [Status.TRUNCATED]
        assert f"frame {bad} of 60 can't be decoded" in alone[name]["message"][0]
    for name in views:
        others = [other for other in views if other != name]
        shared = tuple(
            SharedReader(views[other], SIZE, parts[identities[other]]) for other in others
        )
        assert_same(outcome(name, shared=shared), alone[name])
        for other in others:
            assert_same(outcome(other, cache=parts[identities[other]]), alone[other])
