"""One small Ray for the whole session; jobs that a test starts like a user bring their own.

``make test`` runs the tests in two processes. All tests that start Ray go to one of them, one after
the other, since two Rays at once would share the CPUs. The rest goes to the other, file by file,
and to the first once it has no test with Ray left.

``--minutes N`` starts no test later than that, and names those that were left out. Files of slow
tests come in an order that is drawn from the date, so that a machine that is too slow for all of
them leaves out others each day.
"""

import logging
import os
import random
import shutil
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from jobs.attribute import attribute
from jobs.cli import run_job
from pipeline.run.config import AttributeJob
from pipeline.storage.retries import PATIENCE_VARIABLE
from tests.support.object_storage import (
    OWNER,
    FaultProxy,
    environment,
    fault_proxy,
    seaweedfs,
)
from tests.support.processes import kill, processes_of

# The fixtures load Ray, torch and what needs them, as most tests do without.
if TYPE_CHECKING:
    from tests.support.counting import Notes
    from tests.support.runs import Inputs

# What is meant to fail in tests doesn't get better by waiting for a minute.
os.environ.setdefault(PATIENCE_VARIABLE, "10")
# No test needs a hub, which libraries would look for again and again where there is no network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # The processes share the CPUs.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Ray's workers usually give way to all others: beside the other process they starve, and what
    # is to be there in time isn't.
    os.environ.setdefault("RAY_worker_niceness", "0")

# How long an example takes depends on what else the machine does. Each run draws other examples.
settings.register_profile("staa", settings(), deadline=None, max_examples=30)
settings.load_profile("staa")

RAY_FIXTURES = {"local_ray", "ray_folder", "cluster"}
"""Fixtures of tests that start Ray, or use the session's."""

NO_TIME_LEFT = "no time is left of --minutes"

ALLOWED_SKIPS = {
    NO_TIME_LEFT: "CI has an hour, however slow its machine is that day",
    "no folder shared/clips beside the checkout": "real clips are not part of the repository",
    "no folder shared/cases beside the checkout": "nor are cases from elsewhere",
    "the cases are kept outside of the repository": "nor are cases from elsewhere",
    "ffmpeg isn't installed": "it plays to live sources; servers of our own do so, too",
    "decord is given no transport streams": "such a clip is refused, which another test says",
    "STAA_KUBERAY_CRDS: no folder of KubeRay's CRDs": "they are downloaded by who changes cluster/",
}
"""Reasons for which a test may be skipped in CI, and why that isn't an error."""

N_CLIPS = 14
DAMAGED = {1: "missing", 3: "truncated", 6: "empty", 8: "unreadable", 13: "too_short"}
"""One row in each shard of 4, except in the third and in the last, which is short."""

LONG = {0: 3000, 5: 1500}
"""Frames in long clips, which are still being decoded when later batches are done."""


DAY_VARIABLE = "STAA_TEST_DAY"
"""Day whose order slow tests have, a number: both processes have it from the first."""

LAST_START = pytest.StashKey[float]()
"""Time of `time.monotonic` after which no test is started."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=float, default=float("inf"), help="start no test later")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LAST_START] = time.monotonic() + 60 * config.getoption("minutes")
    os.environ.setdefault(DAY_VARIABLE, str(datetime.now(UTC).toordinal()))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if time.monotonic() >= item.config.stash[LAST_START]:
        pytest.skip(NO_TIME_LEFT)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that were left out: pytest's own summary only counts them."""
    skipped = terminalreporter.stats.get("skipped", [])
    left_out = [report.nodeid for report in skipped if NO_TIME_LEFT in str(report.longrepr)]
    if left_out:
        terminalreporter.section(f"{len(left_out)} tests left out: {NO_TIME_LEFT}")
        terminalreporter.write("\n".join([*sorted(left_out), ""]))


def in_the_days_order(items: list[pytest.Item], day: int) -> list[pytest.Item]:
    """Draw the order of files from the day; tests of a file stay together and in their order."""
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    names = sorted(files)
    random.Random(day).shuffle(names)
    return [item for name in names for item in files[name]]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the tests that need Ray to one of two processes, first, as they take longest.

    The other tests of a file stay together, so that what they share is made once.
    """
    if config.option.markexpr == "slow":
        items[:] = in_the_days_order(items, int(os.environ[DAY_VARIABLE]))
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    with_ray, others = [], []
    for item in items:
        needs_ray = bool(RAY_FIXTURES & set(getattr(item, "fixturenames", ())))
        group = "ray" if needs_ray else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
        (with_ray if needs_ray else others).append(item)
    items[:] = with_ray + others


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI, turn a skip for a reason that isn't listed into an error."""
    report = yield
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if reason not in ALLOWED_SKIPS:
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {reason!r}, which tests/conftest.py does not allow"
    return report


@dataclass(frozen=True)
class FinishedRun:
    """A run of `jobs.attribute`; a test that would change it copies its folder."""

    inputs: "Inputs"
    out: Path
    damaged: dict[int, str]
    """Status to expect, by row; the other rows are ok."""
    exit_code: int
    stdout: str
    stderr: str


@contextmanager
def logging_restored() -> Iterator[logging.Logger]:
    """Give the pipeline's logger; its handlers and its level are afterwards what they were."""
    logger = logging.getLogger("pipeline")
    handlers, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture(scope="module", autouse=True)
def logging_of_a_module() -> Iterator[None]:
    """Leave no file of tests with the logging that a job of another has set up."""
    with logging_restored():
        yield


@pytest.fixture
def pipeline_logger() -> Iterator[logging.Logger]:
    """The pipeline's logger without handlers; what it had, it has again after the test."""
    with logging_restored() as logger:
        logger.handlers.clear()
        yield logger


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    import ray

    ray.init(
        address="local",
        # More CPUs than there are: else Ray Data would decode batches one by one, and so in order.
        num_cpus=8,
        object_store_memory=300_000_000,
        include_dashboard=False,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Endpoint of the tests' own S3 server."""
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def shared_proxy(s3_server: str) -> Iterator[FaultProxy]:
    with fault_proxy(s3_server) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared_proxy: FaultProxy) -> FaultProxy:
    """Proxy before the S3 server, without faults at first."""
    shared_proxy.reset()
    return shared_proxy


@pytest.fixture
def s3(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The proxy, with this process as a patient user of the bucket behind it."""
    monkeypatch.setenv(PATIENCE_VARIABLE, "60")
    with environment(monkeypatch, OWNER.environment(proxy.endpoint)):
        yield proxy


@pytest.fixture(scope="session")
def finished_run(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    from tests.support.runs import write_inputs

    folder = tmp_path_factory.mktemp("finished")
    inputs = write_inputs(folder, N_CLIPS, DAMAGED, LONG)
    out = folder / "run"
    stdout, stderr = StringIO(), StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        exit_code = run_job(AttributeJob, attribute, verb="attribute", argv=inputs.flags(out))
    return FinishedRun(inputs, out, DAMAGED, exit_code, stdout.getvalue(), stderr.getvalue())


@pytest.fixture
def ray_folder() -> Iterator[str]:
    """Folder for a Ray of the test's own, removed after the test with all its processes."""
    # Not below tmp_path, as the names of Ray's sockets may have 107 characters at most.
    folder = tempfile.mkdtemp(prefix="ray-")
    yield folder
    while left := processes_of(folder):
        kill(left)
        time.sleep(0.1)
    shutil.rmtree(folder)


@pytest.fixture
def notes() -> "Notes":
    """What `tests.support.counting` notes in this test: how often each file was decoded."""
    from tests.support import counting

    notes = counting.notes()
    notes.taken()
    return notes


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch with as many threads as a run gives it: with more, the last bits may differ."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)
