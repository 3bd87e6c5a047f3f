"""Interventions on Ray Data: parts go to actors that hold the model, and keep their outcomes."""

import logging
import warnings
from collections.abc import Iterator, Sequence

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from pipeline.errors import ClusterError
from pipeline.evaluation.interventions import Intervention, InterventionStage, OutcomeFolder
from pipeline.text import one_line, without_credentials

_RETRIES = 3


class _CarryOut:
    """Carries out parts, in an actor."""

    def __init__(
        self,
        stage: InterventionStage,
        interventions: Sequence[Intervention],
        folder: OutcomeFolder,
    ) -> None:
        self._interventions, self._folder = interventions, folder
        self._intervener = stage.start()

    def __call__(self, part: dict[str, int]) -> dict[str, int]:
        start, stop = part["start"], part["stop"]
        self._folder.write(range(start, stop), self._intervener(self._interventions[start:stop]))
        return part


def carry_out_on_ray(
    stage: InterventionStage,
    interventions: Sequence[Intervention],
    parts: Sequence[range],
    folder: OutcomeFolder,
    *,
    n_models: int,
) -> Iterator[range]:
    """Carry out parts on the Ray that is there; gives each once its outcomes are kept.

    Parameters
    ----------
    n_models
        Copies of the model that work at once.

    Raises
    ------
    ClusterError
        If a part fails again and again; what was done before is kept.
    """
    if not parts:
        return
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    # It logs tracebacks of what is told in one line.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    with DataContext.current(context), warnings.catch_warnings():
        # Ray means to have named parameters in place of restarts, and has none as yet.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        dataset = ray.data.from_items(
            [{"start": part.start, "stop": part.stop} for part in parts],
            override_num_blocks=len(parts),
        ).map(
            _CarryOut,
            fn_constructor_args=(stage, interventions, folder),
            compute=ActorPoolStrategy(size=min(n_models, len(parts))),
            num_cpus=1,
            num_gpus=1 if stage.device == "cuda" else 0,
            max_restarts=_RETRIES,
            max_task_retries=_RETRIES,
        )
        try:
            for part in dataset.iter_rows():
                yield range(part["start"], part["stop"])
        except RayError as error:
            raise ClusterError(without_credentials(one_line(str(error)))) from error
