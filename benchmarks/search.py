"""Whether a search pays: its winner beside the default settings, on pictures that no trial saw.

    python benchmarks/search.py FOLDER [-m efficientnet_lite0] [--trials 20] [--seeds 5] [--sampler tpe]

FOLDER is a data set in train and val, whose pictures are put together and drawn anew for each seed: a fifth is kept
aside. Both sides are trained on the same pictures. Target: the mean of the winners is at least that of the default.
Prints the time of the search too, with what the cache holds (the first seed fills it), and how often one clearly wins.
"""

import argparse
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from visiontool.data.loader import cores
from visiontool.searching import Wanted, search
from visiontool.searching.space import Space


def main() -> int:
    """Prints the table; returns 1 where the target is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-m", "--model", action="append")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sampler", default="tpe")
    arguments = parser.parse_args()
    models = arguments.model or ["efficientnet_lite0"]
    print(
        f"{platform.platform()}, {cores()} cores, {', '.join(models)}, {arguments.trials} trials, {arguments.sampler}\n"
    )
    print("| seed | default | winner | settings of the winner | s |")
    print("|---|---|---|---|---|")
    gains = []
    with tempfile.TemporaryDirectory() as name:
        data = Path(name, "data")
        for picture in arguments.folder.glob("*/*/*"):
            target = data / picture.parent.name / f"{picture.parts[-3]}-{picture.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, target)
        for seed in range(arguments.seeds):
            space = Space.usual(data, {"seed": seed}, models, None)
            start = time.perf_counter()
            found = search(space, Path(name, str(seed)), Wanted(arguments.sampler, arguments.trials))
            seconds = time.perf_counter() - start
            assert found.default is not None
            default, winner = (found.aside(row).value for row in (found.default, found.winner))
            gains.append(winner - default)
            print(
                f"| {seed} | {default:.3f} | {winner:.3f} | {found.text_of(found.winner)} | {seconds:.0f} |", flush=True
            )
    print(f"\nmean gain {statistics.mean(gains):+.4f}, better in {sum(gain > 0 for gain in gains)}, worse in", end=" ")
    print(sum(gain < 0 for gain in gains))
    return 0 if statistics.mean(gains) >= 0 else 1


if __name__ == "__main__":
    sys.exit(main())
