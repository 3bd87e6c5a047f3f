"""Damaged inputs are read or refused in one line: no traceback, no hang, whatever the damage.

In process, at the boundary that answers, 300 of a kind: manifests and annotation files are in
``tests/dataset/test_mutations.py``, settings in ``tests/jobs/test_settings.py``, model folders in
``tests/models/test_checkpoint_files.py``; clips and stores are here. By command, 8 of each kind
are here, and as many as one likes in ``tests/system/study_of_hostile_inputs.py``. The seed is the
day's.
"""

import shutil
from collections import Counter
from random import Random

import numpy as np
import pytest

from analysis import open_run
from pipeline.clips.decode import Reading
from pipeline.clips.decoder_process import ExpendableDecoder
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.errors import StaaError
from pipeline.status import DecodeError, Status
from pipeline.store.opening import open_store
from pipeline.store.run_folder import store_url
from pipeline.store.state import read_state
from pipeline.store.verify import repair_store, verify_store
from tests.support.clips import write_mp4
from tests.support.hostile_inputs import KINDS, World, answers, damage_store
from tests.support.mutations import mutated_bytes, seed_of_the_day
from tests.support.runs import random_frames

N_MUTATED = 300
N_COMMANDS = 8
TIMEOUT_S = 20.0


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World.make(tmp_path_factory.mktemp("world"))


def test_clips_are_decoded_or_named(tmp_path):
    random = Random(seed_of_the_day())
    sampling, preprocessing = Sampling("uniform", 3), Preprocessing(crop=(16, 16))
    clips = []
    for suffix in ("mp4", "mkv"):
        write_mp4(tmp_path / f"clip.{suffix}", random_frames(9, seed=0))
        clips.append((tmp_path / f"clip.{suffix}").read_bytes())
    decoder = ExpendableDecoder(memory_bytes=1_000_000_000)
    outcomes = Counter()
    try:
        for _ in range(N_MUTATED):
            data = mutated_bytes(random.choice(clips), random)
            frames = np.zeros((3, 16, 16, 3), np.uint8)
            reading = Reading(sampling, preprocessing)
            (outcome,) = decoder.decode_into([frames], data, [reading], timeout_s=TIMEOUT_S)
            if isinstance(outcome, DecodeError):
                assert "\n" not in outcome.message
                assert len(outcome.message) < 300
                outcomes[outcome.status] += 1
            else:
                outcomes[Status.OK] += 1
    finally:
        decoder.close()
    print(outcomes)
    assert not outcomes[Status.TIMEOUT]
    assert min(outcomes[Status.OK], N_MUTATED - outcomes[Status.OK]) > N_MUTATED / 20, outcomes


@pytest.mark.parametrize("count", [20, pytest.param(N_MUTATED, marks=pytest.mark.slow)])
def test_stores_are_read_as_they_were_or_refused_and_repaired(world, tmp_path, count):
    random = Random(seed_of_the_day())
    whole = open_run(str(world.folder / "run")).compute()
    outcomes = Counter()
    for number in range(count):
        run = tmp_path / f"run-{number}"
        shutil.copytree(world.folder / "run" / "attributions.zarr", run / "attributions.zarr")
        damaged = damage_store(run, random)
        outcomes[_outcome(run, whole, damaged)] += 1
        shutil.rmtree(run)
    print(outcomes)
    assert outcomes["refused"] > count / 4, outcomes


def _outcome(run, whole, damaged):
    """What becomes of a damaged store at each of its readers."""
    try:
        read_state(str(run))
        ds = open_run(str(run), check=True).compute()
    except StaaError as error:
        told = str(error)
        assert "\n" not in told, damaged
        assert len(told.replace(str(run), "")) < 600, damaged
        return _after_repair(run, damaged)
    # What isn't seen hasn't changed a value: the damage was in what nobody reads.
    for name in whole.data_vars:
        if name == "status" and (ds["status"] == Status.PENDING).any():
            # A lost commit mark: its rows are computed again.
            return "pending"
        np.testing.assert_array_equal(ds[name].values, whole[name].values, err_msg=str(damaged))
    return "read"


def _after_repair(run, damaged):
    try:
        store = open_store(store_url(str(run)), mode="r+")
    except StaaError:
        # Of its record nothing can be made again.
        assert damaged.parent.name == "attributions.zarr", damaged
        return "refused"
    repair_store(store, verify_store(store))
    assert verify_store(open_store(store_url(str(run)))) == [], damaged
    return "refused"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_commands_answer_in_one_line(world, tmp_path, kind):
    codes, wrong = answers(world, kind, tmp_path, seed_of_the_day(), range(N_COMMANDS))
    print(codes)
    for number, answer in wrong:
        print(number, answer.fault, answer.command, answer.stderr[-2000:], sep="\n")
    assert not wrong
