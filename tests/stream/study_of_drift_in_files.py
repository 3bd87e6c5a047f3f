"""The alarm for drift the whole way, over many seeds: rendered files, a model, `jobs.live`.

``python -m tests.stream.study_of_drift_in_files --seeds 20`` prints for each seed the alarms in an
hour without drift, and the windows from each planted drift to its alarm.
"""

import argparse
import contextlib
import io
import tempfile
from pathlib import Path

from tests.stream.drift_in_files import DRIFT_AT_S, DRIFTS, MAX_WINDOWS, delay, explain, usual


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--calm-s", type=float, default=3600.0, help="of each seed without drift")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    found = {drift: [] for drift in DRIFTS}
    calm = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with contextlib.redirect_stdout(io.StringIO()):
            against = usual(folder)
        for seed in seeds:
            for drift in DRIFTS:
                length_s = DRIFT_AT_S + MAX_WINDOWS + 10
                name = f"{seed} {drift}"
                with contextlib.redirect_stdout(io.StringIO()):
                    alarms = explain(folder, name, length_s, seed, drift, against=against)
                found[drift].append(delay(alarms))
                said = alarms[0]["said"] if alarms else "nothing"
                print(f"seed {seed}: {drift} after {found[drift][-1]} windows: {said}", flush=True)
            if options.calm_s:
                with contextlib.redirect_stdout(io.StringIO()):
                    alarms = explain(
                        folder, f"{seed}", options.calm_s, seed + 1000, against=against
                    )
                calm.append(len(alarms))
                print(f"seed {seed}: {calm[-1]} alarms without drift", flush=True)
    for drift, delays in found.items():
        late = sum(windows is None or windows > MAX_WINDOWS for windows in delays)
        print(f"{drift}: found after {delays} windows, {late} later than {MAX_WINDOWS}")
    print(f"alarms in {options.calm_s:g} s without drift: {calm}")


if __name__ == "__main__":
    main()
