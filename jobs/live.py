"""Explain streams as they play: ``python -m jobs.live --help``."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.cli import run_job, writing
from pipeline.errors import ConfigError
from pipeline.logs import set_up_logging
from pipeline.stream.config import LiveConfig
from pipeline.text import printable, without_credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.dataset.manifest import Manifest
    from pipeline.models.checkpoint import Checkpoint
    from pipeline.store.record import RunRecord
    from pipeline.stream.alarm import Alarm
    from pipeline.stream.drift_watch import DriftWatch
    from pipeline.stream.engine import Engine
    from pipeline.stream.events import Events
    from pipeline.stream.explained import Viewer
    from pipeline.stream.recording import Recording
    from pipeline.stream.reference import Reference
    from pipeline.stream.session import Session
    from pipeline.stream.source import Source
    from pipeline.stream.viewer.server import Running
    from pipeline.stream.windows import WindowPlan

# A name, and no secret.
TOKEN_VARIABLE = "STAA_LIVE_TOKEN"  # noqa: S105
"""Variable of the environment with the token that viewers give."""


@dataclass(frozen=True)
class _Model:
    """A model, and how windows are cut for it."""

    checkpoint: Checkpoint
    plan: WindowPlan
    record_of: Callable[[Manifest, str], RunRecord]
    """Record of a session in a folder, over a manifest."""


@dataclass
class _Live:
    """What runs, for the summary at the end."""

    engine: Engine
    recording: Recording | None
    page: Running | None
    begun_s: float = field(default_factory=time.monotonic)


def live(config: LiveConfig) -> int:
    """Explain until every source has ended, or until ctrl-C.

    0 then, or 1 if a file couldn't be read to its end.
    """
    from pipeline.stream.memory import memory_of_process

    as_json = config.log_format == "json"
    set_up_logging(config.log_format, logging.INFO if as_json else logging.WARNING)
    sources = _sources(config)
    _check_page(config)
    # Behind what the command line says: it loads torch.
    model = _model(config)
    # All frames of a window are kept, whichever of them the model is to see.
    model.plan.check_memory(len(sources), memory_of_process())
    with ExitStack() as held:
        running = _start(config, sources, model, held)
        _tell_start(config, sources, model, running)
        try:
            running.engine.run()
        finally:
            _tell_end(running)
        return 1 if running.engine.broken_off else 0


def _sources(config: LiveConfig) -> list[Source]:
    from pipeline.stream.source import SourceError, parse_source

    sources = [parse_source(text) for text in config.sources]
    for source in (each for each in sources if each.kind == "network"):
        try:
            source.resolved()
        except SourceError as error:
            # It would be tried again for ever.
            raise ConfigError(f"source: {error}") from error
    for name, count in Counter(source.name for source in sources).items():
        if count > 1:
            raise ConfigError(
                f"sources: {count} of them are called {name!r}; give names, as in a=first.mp4 "
                "b=second.mp4"
            )
    if config.fast and (other := [s.name for s in sources if s.kind != "file"]):
        raise ConfigError(f"fast: {other[0]} is no file, and plays at its own speed")
    return sources


def _check_page(config: LiveConfig) -> None:
    if not config.page.show:
        return
    try:
        from pipeline.stream.viewer.guard import check_token
    except ImportError as error:
        raise ConfigError(
            f"page.show: needs {error.name}, which the extra 'live' installs: pip install "
            "'.[live]'; or go without a page by --no-page.show"
        ) from error
    check_token(config.page.host, os.environ.get(TOKEN_VARIABLE))


def _model(config: LiveConfig) -> _Model:
    from pipeline.clips.views import Views, ViewsConfig
    from pipeline.models.checkpoint import read_checkpoint
    from pipeline.run.plan import check_model, chosen_sampling, run_record
    from pipeline.run.resources import Sizes
    from pipeline.stream.windows import WindowPlan, window_of

    checkpoint = read_checkpoint(config.model, config.revision)
    as_run = config.as_run(manifest="manifest", out=config.out or "out")
    check_model(as_run, checkpoint)
    sampling = chosen_sampling(as_run, checkpoint)
    (view,) = Views.of_config(ViewsConfig(), sampling, checkpoint.preprocessing)
    plan = WindowPlan(
        view.sampling,
        view.preprocessing,
        checkpoint.geometry.input_size,
        window_of(sampling, config.window),
        config.hop,
    )
    sizes = Sizes(config.batch_size, config.rows_per_shard)
    views = Views((view,))

    def record_of(manifest: Manifest, out: str) -> RunRecord:
        run = config.as_run(manifest=manifest.url, out=out)
        return run_record(run, manifest, checkpoint, sampling, views, sizes)

    return _Model(checkpoint, plan, record_of)


def _start(config: LiveConfig, sources: Sequence[Source], model: _Model, held: ExitStack) -> _Live:
    """Make ready all that runs, and have it closed with ``held``."""
    from pipeline.models.attributor import Attributor
    from pipeline.models.device import device_of
    from pipeline.stream.engine import Engine, Settings
    from pipeline.stream.events import Events
    from pipeline.stream.health import Patience
    from pipeline.stream.metrics import StreamMetrics, registry_of

    record = model.record_of(_no_manifest(), "out")
    # Whoever names a run that can't be compared has nothing opened or written.
    reference = _reference(config, record)
    with writing("out", config.out or ""):
        events = Events(_events_path(config.out))
    recording = _recording(config, sources, model, events, held)
    explain = Attributor(
        model.checkpoint,
        config.method,
        record.layout,
        device=device_of(config.device),
        precision=config.precision,
        n_threads=config.threads,
        compile_model=config.compile_model,
    )
    engines: list[Engine] = []
    metrics = StreamMetrics(
        # It may be asked before the engine is there.
        lambda: engines[0].states() if engines else [],
        lambda: (recording.n_written, recording.n_lost) if recording else (0, 0),
    )
    page = _page(config, sources, registry_of(metrics))
    if page is not None:
        held.callback(page.stop)
    viewers: list[Viewer] = [page.viewer] if page is not None else []
    if reference is not None:
        viewers.append(_drift_watch(config, sources, model.plan, reference, events, page))
    patience = config.patience
    engine = Engine(
        sources,
        model.plan,
        explain,
        model.checkpoint.class_names,
        viewers=viewers,
        recorder=recording,
        event=events.tell,
        settings=Settings(
            config.batch_size,
            paced=not config.fast,
            patience=Patience(patience.stall, patience.freeze, patience.late),
        ),
    )
    engines.append(engine)
    if recording is not None:
        recording.gave_up = engine.stop
        recording.start()
        held.callback(recording.close)
    return _Live(engine, recording, page)


def _events_path(out: str | None) -> Path | None:
    """Where events are kept: beside the sessions, on a disk of this machine."""
    from fsspec.implementations.local import LocalFileSystem

    from pipeline.storage.files import open_filesystem

    if out is None:
        return None
    filesystem, path = open_filesystem(out)
    return Path(path) / "events.jsonl" if isinstance(filesystem, LocalFileSystem) else None


def _no_manifest() -> Manifest:
    from pipeline.dataset.manifest import Manifest

    return Manifest("manifest", "", "live", n_rows=1, digest="", fingerprint="", segments=True)


def _recording(
    config: LiveConfig,
    sources: Sequence[Source],
    model: _Model,
    events: Events,
    held: ExitStack,
) -> Recording | None:
    from pipeline.store.lease import leased
    from pipeline.stream.recording import Recording, Terms
    from pipeline.stream.session import Paths, Session, finish_cut_off
    from pipeline.stream.sessions import new_session, urls_of

    if config.out is None:
        return None
    out = config.out if "://" in config.out else str(Path(config.out).absolute())
    # Of the folder, and not of a session, which the audit and others may work on as it grows.
    lease = held.enter_context(leased(out, verb="live", take_over=config.take_over))
    with writing("out", out):
        for url in finish_cut_off(urls_of(out)):
            events.tell("", "finished", {"session": url, "reason": "it was cut off"})
    plan = model.plan
    shown = {source.name: source.shown for source in sources}
    facts = {
        "sources": shown,
        "window_s": plan.window_s,
        "hop_s": plan.hop_s,
        "flush_s": config.flush,
    }

    def begin() -> Session:
        url = new_session(out)
        session = Session(
            url,
            lambda manifest: model.record_of(manifest, url),
            Paths.of(sources, url),
            config.rows_per_shard,
        )
        with writing("out", url):
            session.write_facts(facts)
        return session

    terms = Terms(
        config.rows_per_shard,
        config.flush,
        config.session,
        config.keep.age,
        None if config.keep.size is None else int(config.keep.size),
        config.record_clips,
        waits=config.fast,
    )
    return Recording(out, begin, shown, terms, events.tell, lease)


def _reference(config: LiveConfig, record: RunRecord) -> Reference | None:
    """Read what the streams are held against."""
    if config.drift_against is None:
        return None
    from pipeline.stream.drift_watch import reference_of

    return reference_of(config.drift_against, record)


def _drift_watch(
    config: LiveConfig,
    sources: Sequence[Source],
    plan: WindowPlan,
    reference: Reference,
    events: Events,
    page: Running | None,
) -> DriftWatch:
    from pipeline.stream.drift_watch import DriftWatch, drift_settings, told_event

    def tell(alarm: Alarm) -> None:
        event = told_event(alarm)
        events.tell(alarm.stream, "drift", {k: v for k, v in event.items() if k != "stream"})
        print(f"live: {printable(alarm.stream)}: {printable(alarm.said)}", file=sys.stderr)
        if page is not None:
            page.alarm(event)

    settings = drift_settings(reference, plan.window_s, plan.hop_s, config.drift_false_alarm)
    return DriftWatch(reference, [source.name for source in sources], tell, settings)


def _page(config: LiveConfig, sources: Sequence[Source], registry: Any) -> Running | None:
    if not config.page.show:
        return None
    from pipeline.stream.viewer.server import serve

    return serve(
        host=config.page.host,
        port=config.page.port,
        token=os.environ.get(TOKEN_VARIABLE),
        streams=[source.name for source in sources],
        registry=registry,
    )


def _tell_start(
    config: LiveConfig, sources: Sequence[Source], model: _Model, running: _Live
) -> None:
    plan = model.plan
    names = ", ".join(f"{source.name} ({source.shown})" for source in sources)
    print(
        f"live: {len(sources)} stream{'s' if len(sources) > 1 else ''}, windows of "
        f"{plan.window_s:g} s each {plan.hop_s:g} s with {config.model}: {printable(names)}",
        file=sys.stderr,
    )
    if running.page is not None:
        print(f"live: open in a browser: {running.page.url}", file=sys.stderr, flush=True)


def _tell_end(running: _Live) -> None:
    """Say what became of each stream."""
    seconds = time.monotonic() - running.begun_s
    for status in running.engine.states():
        reason = f", {status.reason}" if status.reason else ""
        line = (
            f"live: {status.stream}: {status.windows} windows explained, {status.skipped} "
            f"skipped, in {seconds:.1f} s; {status.state}{reason}"
        )
        print(printable(without_credentials(line)))
    recording = running.recording
    if recording is not None:
        lost = f", {recording.n_lost} lost" if recording.n_lost else ""
        print(f"live: sessions in {recording.out}: {len(recording.sessions)}{lost}", flush=True)


def main() -> int:
    """Be the command: exit code."""
    return run_job(LiveConfig, live, verb="live", keeps=True)


if __name__ == "__main__":
    sys.exit(main())
