"""Makes the store what a plan needs, once everything was checked."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from pipeline.run.config import AttributeConfig
from pipeline.run.plan import Plan, _check_run
from pipeline.run.resources import Machine
from pipeline.status import Status
from pipeline.store.append import append_rows, finish_append
from pipeline.store.create import create_store, open_store, store_exists
from pipeline.store.discard import discard_run
from pipeline.store.pending import reset_rows


def plan_run(config: AttributeConfig, machine: Machine | None = None) -> Plan:
    """Check a configuration against its manifest, model and target; create the store or find it.

    Parameters
    ----------
    machine
        What the run will have; None where it isn't known yet, as on a cluster that may grow.

    Raises
    ------
    StaaError
        Of the kind that names what is wrong. Nothing was started, and nothing stored is changed:
        what ``overwrite`` deletes and ``retry_failed`` resets goes once everything else was
        checked.
    """
    (plan,) = plan_runs([config], machine)
    return plan


def plan_runs(
    configs: Iterable[AttributeConfig],
    machine: Machine | None = None,
    *,
    before_changes: Callable[[], None] = lambda: None,
) -> tuple[Plan, ...]:
    """Plan several runs as `plan_run` does one: all are checked before anything is changed."""
    checked = [_check_run(config, machine) for config in configs]
    before_changes()
    return tuple(_prepare(*run) for run in checked)


def _prepare(plan: Plan, identity: dict[str, object], attributes: dict[str, object]) -> Plan:
    """Make the store what a run that was checked needs."""
    config, url = plan.config, plan.store_url
    if config.overwrite:
        discard_run(config.out)
    if not store_exists(url):
        create_store(url, plan.layout, identity, attributes)
        return plan
    group = open_store(url, mode="r+")
    if config.append:
        append_rows(group, plan.layout, {"identity": identity, "config": attributes["config"]})
    finish_append(group)
    if not config.retry_failed:
        return plan
    return replace(
        plan, retried=reset_rows(url, [s for s in Status if s.label in config.retry_failed])
    )
