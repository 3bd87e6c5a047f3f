"""How often the alarm for drift is wrong, and how long it takes: over many simulated streams.

``python -m tests.stream.study_of_drift --seeds 20`` prints, for scenes of several mean lengths, the
alarms in an hour without drift (3600 windows), and the windows from each planted drift to its
alarm. The streams are simulated (tests/stream/simulated_streams.py): no model is run.
"""

import argparse

import numpy as np

from pipeline.stream.drift import DriftDetector, DriftSettings
from tests.stream.simulated_streams import DRIFTS, reference, simulate, watch

HOUR = 3600
CASES = ((3, True), (5, True), (15, False), (15, True), (40, True))
"""Mean lengths of scenes in windows, and whether the detector is told."""


def detector(random, mean_windows, *, told):
    """A detector that was told how long scenes last, or has to find out."""
    tau = max(10.0, 2 * mean_windows - 1) if told else 10.0
    return DriftDetector("camera", reference(random), DriftSettings(correlation_windows=tau))


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    for mean_windows, told in CASES:
        name = f"scenes of {mean_windows} windows{', told' if told else ''}"
        alarms = []
        for seed in seeds:
            random = np.random.default_rng(seed)
            watcher = detector(random, mean_windows, told=told)
            stream = simulate(random, HOUR, mean_windows=mean_windows)
            alarms.append(len(watch(watcher, *stream)))
        print(f"{name}: alarms in an hour without drift {alarms}", flush=True)
        for drift in DRIFTS:
            delays = []
            for seed in seeds:
                random = np.random.default_rng((seed, 1))
                watcher = detector(random, mean_windows, told=told)
                stream = simulate(random, 460, mean_windows=mean_windows, drift=drift, drift_at=60)
                found = [a.to_window - 60 for a in watch(watcher, *stream) if a.to_window >= 60]
                delays.append(found[0] if found else None)
            late = sum(delay is None or delay > 50 for delay in delays)
            print(f"{name}: {drift} found after {delays} windows, {late} later than 50", flush=True)


if __name__ == "__main__":
    main()
