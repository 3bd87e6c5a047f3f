"""Simulated runs with planted effects, drawn from the day's seed, as an audit reads them."""

from datetime import UTC, datetime

import pytest

from tests.analysis.simulated_runs import ALL, simulated


@pytest.fixture(scope="package")
def day_seed():
    seed = int(datetime.now(UTC).strftime("%Y%m%d"))
    print("seeds from", seed)
    return seed


@pytest.fixture(scope="package")
def planted(day_seed):
    """One run in which every kind is planted, and what an audit reads of it."""
    run = simulated(day_seed, ALL)
    return run, run.evidence()


@pytest.fixture(scope="package")
def clean(day_seed):
    """What an audit reads of the clean twin."""
    return simulated(day_seed).evidence()
