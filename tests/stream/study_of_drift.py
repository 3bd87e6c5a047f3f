"""How often the alarm for drift is wrong, and how long it takes: over many simulated streams.

``python -m tests.stream.study_of_drift --seeds 20`` prints, for scenes of several mean lengths, the
alarms in an hour without drift (3600 windows), and the windows from each planted drift to its
alarm. What the streams are held against is an hour of the same kind, or clips that don't show how
long scenes last. The streams are simulated (tests/stream/simulated_streams.py): no model is run.
``tests.stream.study_of_drift_in_files`` goes the whole way.
"""

import argparse

import numpy as np

from tests.stream.simulated_streams import DRIFTS, detector, recorded, reference, simulate, watch

HOUR = 3600
DRIFT_AT = 300
CASES = ((3, True), (3, False), (5, True), (5, False), (15, True), (15, False), (40, True))
"""Mean lengths of scenes in windows, and whether what they are held against is a stream."""


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)))
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    for mean_windows, is_stream in (CASES[case] for case in options.cases):
        name = f"scenes of {mean_windows} windows, against {'a stream' if is_stream else 'clips'}"

        def made(random, mean_windows=mean_windows, is_stream=is_stream):
            held = recorded(random, mean_windows) if is_stream else reference(random)
            return detector(held)

        alarms, taus = [], []
        for seed in seeds:
            random = np.random.default_rng((seed, 7))
            watcher = made(random)
            taus.append(max(watcher.correlation_windows.values()))
            alarms.append(len(watch(watcher, *simulate(random, HOUR, mean_windows=mean_windows))))
        print(f"{name}: autocorrelation times {min(taus):.1f} to {max(taus):.1f} windows")
        print(f"{name}: alarms in an hour without drift {alarms}, {sum(alarms)} in all", flush=True)
        for drift in DRIFTS:
            delays = []
            for seed in seeds:
                random = np.random.default_rng((seed, 1))
                stream = simulate(
                    random,
                    DRIFT_AT + 400,
                    mean_windows=mean_windows,
                    drift=drift,
                    drift_at=DRIFT_AT,
                )
                found = [a.to_window - DRIFT_AT for a in watch(made(random), *stream)]
                delays.append(next((delay for delay in found if delay >= 0), None))
            late = sum(delay is None or delay > 50 for delay in delays)
            print(f"{name}: {drift} found after {delays} windows, {late} later than 50", flush=True)


if __name__ == "__main__":
    main()
