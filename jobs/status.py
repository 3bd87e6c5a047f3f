"""Say how far a run is: ``python -m jobs.status --help``."""

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import Field
from pydantic_settings import CliPositionalArg

from jobs.cli import run_job
from pipeline.base_config import FrozenConfig
from pipeline.status import Status
from pipeline.text import printable

if TYPE_CHECKING:
    from pipeline.store.state import RunState


class StatusConfig(FrozenConfig):
    """Say what of a run is done, pending and failed, also while it is going on.

    The exit code is 0 whenever the store could be read, and 2 if not; `complete` in the JSON says
    whether a row is pending.
    """

    run: CliPositionalArg[str]
    """Folder of the run, any fsspec URL."""
    as_json: bool = Field(default=False, validation_alias="json")
    """Print one JSON object."""


def status(config: StatusConfig) -> int:
    """Read the store and print what it says."""
    from pipeline.store.state import read_state

    state = read_state(config.run)
    print(json.dumps(state.to_json(), indent=2) if config.as_json else _text(state))
    return 0


def _text(state: "RunState") -> str:
    summary, model = state.summary, state.model
    n_done = summary.n_rows - summary.n_pending
    revision = f", revision {model['revision']}" if model["revision"] else ""
    others = "".join(
        f", {count} {code.label}"
        for code, count in summary.counts.items()
        if code in (Status.REMOVED, Status.UNUSED)
    )
    lines = {
        "run": f"{state.run} in {state.store}",
        "model": f"{model['name']} ({model['family']}{revision}, weights {_short(model)})",
        "manifest": f"{state.manifest['url']} ({state.manifest['digest'][:8]})",
        "sampling": _facts(state.sampling),
        "views": _facts(state.views),
        "method": _facts(state.method),
        "rows": f"{n_done} of {summary.n_rows} done ({n_done / summary.n_rows:.1%}), "
        f"{summary.n_pending} pending, {summary.n_failed} failed{others}",
        "shards": f"{state.n_shards_done} of {state.n_shards} done",
        "written": _when(state.last_written),
        **({"pace": str(state.pace)} if state.pace else {}),
    }
    text = [printable(f"{key:<10}{value}") for key, value in lines.items()]
    for code, example in state.examples.items():
        text.append(f"  {code.label:<12} {summary.counts[code]:>8}  for example row {example.row}")
        # Ids and messages may hold the newlines of file names.
        told = " ".join(f"{example.video_id}: {example.message}".split())
        text.append(f"    {printable(told)}")
    return "\n".join(text)


def _short(model: dict[str, Any]) -> str:
    return str(model["weights_digest"])[:8]


def _facts(values: dict[str, Any]) -> str:
    named = (f"{key}={value}" for key, value in values.items() if value is not None)
    return " ".join(named)


def _when(written: datetime | None) -> str:
    if written is None:
        return "never"
    seconds = max(0, (datetime.now(UTC) - written).total_seconds())
    hours, rest = divmod(int(seconds), 3600)
    ago = f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
    return f"{written:%Y-%m-%d %H:%M:%S} UTC, {ago} ago"


if __name__ == "__main__":
    sys.exit(run_job(StatusConfig, status, verb="status"))
