import numpy as np
import pytest

from pipeline.attribution.method import Method
from pipeline.clips.sampling import Sampling
from pipeline.clips.views import ViewsConfig
from pipeline.errors import StoreError
from pipeline.status import Status
from pipeline.store.conventions import VERSION, Attributions
from pipeline.store.opening import open_store
from pipeline.store.record import ModelIdentity
from pipeline.store.run_folder import store_url
from pipeline.stream.drift import DriftSettings
from pipeline.stream.drift_watch import (
    DriftWatch,
    check_comparable,
    drift_settings,
    reference_of,
    told_event,
)
from pipeline.stream.explained import Explained
from tests.analysis.stores import CLASS_NAMES, random_columns, small_layout, write_run

N_CLIPS = 240


def columns(n_rows, seed, peaked_at=None):
    """Random maps; with ``peaked_at`` half of each lies on one patch."""
    layout = small_layout(n_rows)
    made = random_columns(layout, seed)
    if peaked_at is not None:
        made["spatial"] = (made["spatial"] / 2).astype(np.float16)
        made["spatial"][:, :, peaked_at[0], peaked_at[1]] += np.float16(0.5)
    return layout, made


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    layout, made = columns(N_CLIPS, 1)
    made["status"][7] = Status.TOO_SHORT
    return write_run(tmp_path_factory.mktemp("drift") / "run", layout, made)


def record_of(url, **identity):
    """Of streams that are explained as a run was, but for what is given."""
    record = open_store(store_url(url)).record
    changed = record.identity.model_copy(update=identity)
    return record.model_copy(update={"identity": changed})


def played(watch, made, first, stream="cam"):
    for place in range(len(made["temporal"])):
        watch.shown(
            Explained(
                stream=stream,
                window=first + place,
                start_s=0.0,
                end_s=1.0,
                frame_time_s=np.zeros(4),
                spatial=made["spatial"][place].astype(np.float32),
                temporal=made["temporal"][place],
                top=((CLASS_NAMES[made["prediction"][place]], float(made["probability"][place])),),
                newest_frame_s=0.0,
                n_skipped=0,
                n_frames_dropped=0,
            )
        )


def test_an_alarm_rises_where_maps_move_and_names_windows_before_and_after(run):
    alarms = []
    # Maps that are drawn have nothing to do with those before them.
    settings = DriftSettings(correlation_windows=1)
    reference = reference_of(run, record_of(run))
    watch = DriftWatch(reference, ["cam", "door"], alarms.append, settings)
    played(watch, columns(150, 2)[1], 0)
    played(watch, columns(150, 3)[1], 0, "door")
    assert alarms == []
    played(watch, columns(60, 4, peaked_at=(0, 0))[1], 150)
    assert {alarm.stream for alarm in alarms} == {"cam"}
    first = alarms[0]
    # Each of two streams has half of the probability.
    assert first.false_alarm_probability == settings.false_alarm_probability / 2
    event = told_event(first)
    assert all(number < 150 for number in event["before"])
    assert event["after_clips"] == [f"cam-{number:08d}" for number in event["after"]]
    assert all(number >= 150 for number in event["after"])


def test_a_folder_of_sessions_stands_for_its_newest(run, tmp_path):
    layout, made = columns(N_CLIPS, 1)
    made["status"][7] = Status.TOO_SHORT
    write_run(tmp_path / "2026-05-04T12-00-00Z", layout, made)
    # One that has no window yet, as its camera is away.
    (tmp_path / "2026-05-04T13-00-00Z").mkdir()
    ours, theirs = (reference_of(url, record_of(run)) for url in (str(tmp_path), run))
    assert np.array_equal(ours.knots, theirs.knots)
    assert ours.n_clips[-1] == N_CLIPS - 1
    assert ours.correlation_s is None


def test_the_windows_of_a_session_say_how_long_they_resemble_each_other(tmp_path):
    layout, made = columns(N_CLIPS, 1)
    # Of two streams, whose rows take turns; each map is shown for four windows.
    for name in ("spatial", "temporal", "prediction"):
        drawn = made[name][: N_CLIPS // 4]
        of_one = np.repeat(drawn, 4, axis=0)[: N_CLIPS // 2]
        other = np.repeat(drawn[::-1], 4, axis=0)[: N_CLIPS // 2]
        made[name] = np.stack([of_one, other], axis=1).reshape(made[name].shape)
    ids = [f"{stream}-{number:08d}" for number in range(N_CLIPS // 2) for stream in ("a", "b-1")]
    made["video_id"] = np.array(ids, made["video_id"].dtype)
    url = write_run(tmp_path / "run", layout, made)
    (tmp_path / "run" / "session.json").write_text('{"hop_s": 0.5}')
    reference = reference_of(url, record_of(url))
    assert reference.correlation_s is not None
    # Each map four times: 1 + 2 (3 + 2 + 1) / 4 windows, and what that may be wrong by.
    place = reference.scores.index("center_x")
    assert 0.5 * 3 < reference.correlation_s[place] < 0.5 * 10
    settings = drift_settings(reference, window_s=1.0, hop_s=0.1)
    assert settings.correlation_is_known
    assert settings.horizon_windows == 36_000
    np.testing.assert_allclose(
        settings.correlation_windows, np.maximum(reference.correlation_s / 0.1, 10)
    )
    assert set(drift_settings(reference, 300.0, 0.1).correlation_windows) == {3000.0}
    assert settings.threshold == 36_000 / 0.02
    assert drift_settings(reference, 1.0, 0.1, 0.1).threshold == 36_000 / 0.1


def test_a_run_that_can_not_be_compared_is_refused(run, tmp_path):
    record = record_of(run)
    with pytest.raises(StoreError, match="whose classes are others"):
        reference_of(run, record.model_copy(update={"class_names": ("a", "b")}))
    evidence = record.identity.method.model_copy(update={"name": "evidence"})
    with pytest.raises(StoreError, match="is by staa-paper, the streams are explained by evidence"):
        reference_of(run, record_of(run, method=evidence))
    with pytest.raises(StoreError, match="no store"):
        reference_of(str(tmp_path / "absent"), record)


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        ({"model": ModelIdentity(weights="0000", config={"hidden_size": 768})}, "of the model org"),
        ({"model": ModelIdentity(weights="9c1e", config={"hidden_size": 8})}, "of the model org"),
        ({"sampling": Sampling("strided", 4, 2)}, "sampling.kind is 'uniform' there and 'strided'"),
        ({"views": ViewsConfig(crops=3)}, "views.crops is 1 there and 3 here"),
        (
            {"method": Method(name="staa-paper", layers=(3,)).resolved(12, pools_mean=False)},
            r"method.layers is \[11\] there and \[3\]",
        ),
        ({"attribution_version": 1}, "attribution_version is 3 there and 1 here"),
    ],
)
def test_a_run_of_other_maps_is_refused_and_told_what_differs(run, identity, reason):
    with pytest.raises(StoreError, match=f"^drift_against: {run} .*{reason}") as refused:
        reference_of(run, record_of(run, **identity))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "method",
    [
        Method(name="staa-paper", layers="all"),
        Method(name="staa-paper", layers=(2, 11)),
        Method(name="staa-paper", heads="keep"),
        Method(name="staa-paper", frame_importance="insertion"),
    ],
)
def test_what_a_method_stores_beside_its_attribution_is_no_matter(run, method):
    reference_of(run, record_of(run, method=method.resolved(12, pools_mean=False)))


def test_other_clips_decoders_and_batches_are_no_matter(run):
    other = {"manifest": "4711", "segments": True, "decoder": "pyav", "batch_size": 7}
    check_comparable(run, record_of(run), record_of(run, **other, precision="bfloat16"))


def test_a_run_of_another_tool_is_refused_whatever_it_calls_its_method(run):
    here = record_of(run)
    theirs = Attributions(
        version=VERSION,
        method=here.method_name,
        class_specific=False,
        class_names=here.class_names,
    )
    with pytest.raises(StoreError, match="of another tool"):
        check_comparable(run, here.model_copy(update={"taken_in": theirs}), here)
