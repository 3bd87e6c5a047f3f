"""Puts the findings of an audit to the test: the model answers what the audit has planned."""

import json
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.base_config import FrozenConfig
from pipeline.run.config import Device
from pipeline.store.run_folder import interventions_url

if TYPE_CHECKING:
    import pandas as pd

    from analysis.audit.evidence import Evidence
    from analysis.audit.finding import Finding
    from analysis.audit.settings import AuditSettings
    from pipeline.evaluation.interventions import Intervention, Outcome, OutcomeFolder
    from pipeline.store.lease import Lease
    from pipeline.store.opening import Store

CLIPS_PER_PART = 8
"""Clips whose outcomes are kept together: at most this many are done again after a cut."""


class ProofConfig(FrozenConfig):
    """How findings are tried on the model."""

    clips: int = Field(default=20, ge=5)
    """How many clips of a class a finding is tried on: those with most weight at its place."""
    serial: bool = False
    """Try them in this process, without Ray."""
    device: Device = "auto"
    """Where the model runs; `auto` takes GPUs if there are any."""
    stills: bool = True
    """Also try each class for which no map says so: would a still do?"""


def proven(
    found: "Sequence[Finding]",
    evidence: "Evidence",
    store: "Store",
    lease: "Lease",
    config: ProofConfig,
    *,
    settings: "AuditSettings",
    run_url: str,
    try_now: bool,
) -> "list[Finding]":
    """Give findings their proofs, ranked, and add classes for which a still proves to do.

    What was tried before is kept beside the run, and isn't tried again.

    Parameters
    ----------
    found
        As the audit has them, before anything was tried.
    try_now
        Whether the model is asked; if not, findings get the proofs that are kept, if all are there.

    Raises
    ------
    StaaError
        One of its kinds, if the run's model, manifest or clips aren't there any more.
    """
    from analysis.audit.finding import ranked
    from analysis.audit.interventions import prove
    from analysis.audit.stills import still_candidates, stills

    # A plan of their own: other settings of the audit leave what was tried as it is.
    candidates = still_candidates(evidence, found, settings) if config.stills else []
    identity = json.dumps(store.record.identity.model_dump(mode="json"), sort_keys=True)
    url = interventions_url(run_url)
    of_found, of_candidates = (
        _Trials.of(asked, evidence, config.clips, url, identity) for asked in (found, candidates)
    )
    if try_now:
        _try([of_found, of_candidates], store, lease, config, run_url)
    if (outcomes := of_found.outcomes()) is not None:
        found = prove(found, outcomes)
    more: list[Finding] = []
    if (outcomes := of_candidates.outcomes()) is not None:
        by_map = [finding for finding in found if finding.kind == "static"]
        more = stills(prove(candidates, outcomes), outcomes, settings, by_map)
    return ranked([*found, *more])


@dataclass(frozen=True)
class _Trials:
    """What tries some findings, and the outcomes that are kept."""

    planned: "pd.DataFrame"
    """As `analysis.audit.interventions.plan_interventions` gives it, in order of rows."""
    wanted: "list[Intervention]"
    folder: "OutcomeFolder"
    kept: "dict[range, list[Outcome] | None]"
    """Outcomes of each part; None where there are none yet."""

    @classmethod
    def of(
        cls,
        asked: "Sequence[Finding]",
        evidence: "Evidence",
        n_clips: int,
        url: str,
        identity: str,
    ) -> "_Trials":
        from analysis.audit.interventions import plan_interventions
        from pipeline.evaluation.interventions import OutcomeFolder, in_parts

        # In an order that doesn't depend on proofs, as findings with proofs rank first.
        in_order = sorted(asked, key=lambda finding: finding.key)
        planned = plan_interventions(in_order, evidence, clips_per_finding=n_clips)
        planned = planned.sort_values("row", kind="stable", ignore_index=True)
        wanted = _interventions(planned)
        folder = OutcomeFolder.of_plan(url, wanted, identity)
        parts = in_parts(wanted, CLIPS_PER_PART)
        return cls(planned, wanted, folder, {part: folder.read(part) for part in parts})

    def left(self) -> list[range]:
        """Parts that are to be tried: a clip that couldn't be read may be there again."""
        return [
            part
            for part, outcomes in self.kept.items()
            if outcomes is None or any(outcome.probability is None for outcome in outcomes)
        ]

    def outcomes(self) -> "pd.DataFrame | None":
        """Give what `prove` takes, without clips that can't be read; None if not all is kept."""
        import numpy as np

        from analysis.audit.interventions import OUTCOME

        if self.planned.empty or None in self.kept.values():
            return None
        outcomes = [outcome for of_part in self.kept.values() for outcome in of_part or ()]
        tried = self.planned.copy()
        tried[OUTCOME] = np.array([outcome.probability for outcome in outcomes], np.float64)
        return _readable(tried, outcomes)


def _kept(folder: "OutcomeFolder", part: range) -> "list[Outcome]":
    from pipeline.errors import StorageError

    outcomes = folder.read(part)
    if outcomes is None:
        raise StorageError(
            f"outcomes of trials {part.start} to {part.stop - 1} in {folder.url} are lost"
        )
    return outcomes


def _interventions(planned: "pd.DataFrame") -> "list[Intervention]":
    from pipeline.evaluation.interventions import Intervention

    rows: Iterator[Any] = planned.itertuples()
    return [
        Intervention(
            row=int(one.row),
            target=int(one.target),
            action=one.action,
            fill=one.fill or None,
            time=(int(one.t0), int(one.t1)),
            y=(int(one.y0), int(one.y1)),
            x=(int(one.x0), int(one.x1)),
            seed=int(one.seed),
        )
        for one in rows
    ]


def _try(
    every: Sequence[_Trials],
    store: "Store",
    lease: "Lease",
    config: ProofConfig,
    run_url: str,
) -> None:
    """Try what is left, and keep its outcomes."""
    import numpy as np

    from pipeline.evaluation.interventions import InterventionStage, carry_out
    from pipeline.models.device import device_of
    from pipeline.run.job import real_stages
    from pipeline.run.progress_bar import progress_bar
    from pipeline.run.recompute import plan_again
    from pipeline.run.reread import reading_again
    from pipeline.run.row_loader import RowLoader
    from pipeline.run.tally import LocalChannel, Tally

    left = [(trials, parts) for trials in every if (parts := trials.left())]
    if not left:
        return
    rows = np.unique(
        [trials.wanted[at].row for trials, parts in left for part in parts for at in part]
    )
    plan = reading_again(plan_again(run_url, store), store, rows.astype(np.int64))

    def stage_on(device: str) -> InterventionStage:
        load = real_stages(plan, device, LocalChannel(Tally(store.layout.rows_per_shard))).load
        return InterventionStage(
            plan.checkpoint,
            RowLoader(plan.manifest, plan.views, load),
            device,
            batch_size=plan.sizes.batch_size,
            n_threads=max(1, int(plan.config.cpus_per_model)),
        )

    def carried_out() -> Generator[range]:
        if config.serial:
            stage = stage_on(device_of(config.device))
            for trials, parts in left:
                yield from carry_out(stage, trials.wanted, parts, trials.folder)
            return
        from pipeline.execution.cluster import check_shared, connected
        from pipeline.execution.interventions import carry_out_on_ray

        options = plan.config.model_copy(update={"device": config.device})
        with connected(options) as pool:
            check_shared(run_url, "run")
            stage = stage_on(pool.device)
            for trials, parts in left:
                yield from carry_out_on_ray(
                    stage, trials.wanted, parts, trials.folder, n_models=pool.n_models
                )

    total = sum(len(part) for _, parts in left for part in parts)
    # Closed whatever comes, as Ray goes on for as long as the generator lives.
    with (
        closing(carried_out()) as done,
        progress_bar(total=total, unit="trial", desc="audit: verify") as bar,
    ):
        for part in done:
            lease.check()
            bar.update(len(part))
    for trials, parts in left:
        trials.kept.update({part: _kept(trials.folder, part) for part in parts})


def _readable(tried: "pd.DataFrame", outcomes: "Sequence[Outcome]") -> "pd.DataFrame":
    """Leave out clips that can't be read any more, and say so."""
    lost = tried["probability"].isna()
    if lost.any():
        n_clips = tried.loc[lost, "video_id"].nunique()
        reason = next(outcome.message for outcome in outcomes if outcome.probability is None)
        print(
            f"audit: warning: {n_clips} clips can't be read any more, and are left out: {reason}",
            file=sys.stderr,
        )
    readable: pd.DataFrame = tried[~lost]
    return readable
