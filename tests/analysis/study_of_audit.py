"""What an audit finds in simulated runs with planted effects, and in clean twins.

``python -m tests.analysis.study_of_audit --seeds 10`` prints, for each kind, in how many runs it is
found where it is planted and in how many clean twins (as they are, and with permuted labels), and
precision and recall over clips. Seeds count on from the date.
"""

import argparse
from collections import Counter
from datetime import UTC, datetime

from analysis.audit.audit import audit
from tests.analysis.simulated_runs import ALL, simulated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=int(datetime.now(UTC).strftime("%Y%m%d")))
    arguments = parser.parse_args()
    runs: dict[str, Counter[str]] = {name: Counter() for name in ("planted", "clean", "permuted")}
    hits: Counter[str] = Counter()
    found_of: Counter[str] = Counter()
    planted_of: Counter[str] = Counter()
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        for name, counts in runs.items():
            run = simulated(seed, ALL if name == "planted" else (), permuted=name == "permuted")
            found = audit(run.evidence())
            counts.update({finding.kind for finding in found})
            if name != "planted":
                continue
            swapped = {f"sim{row:05d}" for row in run.planted.swapped}
            pairs = {
                tuple(sorted(f"sim{row:05d}" for row in pair)) for pair in run.planted.duplicates
            }
            odd = {f"sim{row:05d}" for row in run.planted.odd}
            unlike = {f.subject[0] for f in found if f.kind == "unlike_class"}
            suspects = {f.subject[0] for f in found if f.kind == "label_suspect"}
            duplicates = {tuple(sorted(f.subject)) for f in found if f.kind == "near_duplicate"}
            for kind, truth, got in (
                ("label_suspect", swapped, suspects),
                ("near_duplicate", pairs, duplicates),
                ("unlike_class", odd, unlike),
            ):
                hits[kind] += len(truth & got)
                found_of[kind] += len(got)
                planted_of[kind] += len(truth)
    print(f"runs of {arguments.seeds} with a finding of a kind, seeds from {arguments.first}")
    print(f"{'kind':<20}" + "".join(f"{name:>10}" for name in runs))
    for kind in (*ALL, *sorted(set().union(*runs.values()) - set(ALL))):
        print(f"{kind:<20}" + "".join(f"{counts[kind]:>10}" for counts in runs.values()))
    for kind in ("label_suspect", "near_duplicate", "unlike_class"):
        print(
            f"{kind}: precision {hits[kind]}/{found_of[kind]}, recall "
            f"{hits[kind]}/{planted_of[kind]}"
        )


if __name__ == "__main__":
    main()
