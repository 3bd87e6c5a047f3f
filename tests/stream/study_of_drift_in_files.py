"""The alarm for drift the whole way, over many seeds: rendered files, a model, `jobs.live`.

``python -m tests.stream.study_of_drift_in_files --seeds 20`` prints for each seed the alarms in an
hour without drift, and the windows from each planted drift to its alarm. A camera on its side is
tried under a sky, too: elsewhere these scenes have no up or down.
"""

import argparse
import contextlib
import io
import tempfile
from pathlib import Path

from tests.stream.drift_in_files import DRIFT_AT_S, DRIFTS, MAX_WINDOWS, delay, explain, usual


def named(case: tuple[str, bool]) -> str:
    """A drift, and whether there is a sky, as told."""
    drift, sky = case
    return f"{drift} under a sky" if sky else drift


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--calm-s", type=float, default=3600.0, help="of each seed without drift")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    cases = [*((drift, False) for drift in DRIFTS), ("camera on its side", True)]
    found = {case: [] for case in cases}
    calm = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with contextlib.redirect_stdout(io.StringIO()):
            against = {sky: usual(folder, sky=sky) for sky in (False, True)}
        for seed in seeds:
            for case, delays in found.items():
                drift, sky = case
                length_s = DRIFT_AT_S + MAX_WINDOWS + 10
                name = f"{seed} {named(case)}"
                with contextlib.redirect_stdout(io.StringIO()):
                    alarms = explain(
                        folder, name, length_s, seed, drift, sky=sky, against=against[sky]
                    )
                delays.append(delay(alarms))
                said = alarms[0]["said"] if alarms else "nothing"
                print(f"seed {seed}: {named(case)} after {delays[-1]} windows: {said}", flush=True)
            if options.calm_s:
                with contextlib.redirect_stdout(io.StringIO()):
                    alarms = explain(
                        folder, f"{seed}", options.calm_s, seed + 1000, against=against[False]
                    )
                calm.append(len(alarms))
                print(f"seed {seed}: {calm[-1]} alarms without drift", flush=True)
    for case, delays in found.items():
        late = sum(windows is None or windows > MAX_WINDOWS for windows in delays)
        print(f"{named(case)}: found after {delays} windows, {late} later than {MAX_WINDOWS}")
    print(f"alarms in {options.calm_s:g} s without drift: {calm}")


if __name__ == "__main__":
    main()
