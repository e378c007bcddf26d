"""Whether forecasts of learning curves hold: what is forecast from few pictures, beside what more of them give.

    python benchmarks/learning_curve.py FOLDER ... [-m efficientnet_lite0] [--few 25] [--seeds 3]

Each FOLDER is a data set with a train. Of it a few pictures of each class are drawn, and their learning curve forecasts
the accuracy with twice and four times as many for training; then so many are drawn, and cross-validation says what they
give. Prints both, and how often the interval of the forecast holds what was measured.
"""

import argparse
import sys
from pathlib import Path

from visiontool.data.loader import DEFAULT_OPTIONS
from visiontool.progress import silent
from visiontool.searching.learning_curve import TIMES, measure
from visiontool.searching.trials import FOLDS, Trials
from visiontool.training.cross_validation import cross_validate
from visiontool.training.settings import Settings


def main() -> int:
    """Prints the table; returns 1 where less than half of the intervals hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("-m", "--model", default="efficientnet_lite0")
    parser.add_argument("--few", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    print("| set | seed | times as many | forecast | measured | holds |\n|---|---|---|---|---|---|")
    held = []
    trials = Trials(DEFAULT_OPTIONS, silent)
    for folder in arguments.folders:
        for seed in range(arguments.seeds):
            for one in curve_of(trials, folder, arguments, seed).forecasts:
                if one.times == 1:
                    continue
                # So many that those outside of a fold are as many as the forecast is of.
                settings = settings_of(folder, arguments, seed, round(one.times * arguments.few * FOLDS / (FOLDS - 1)))
                embedded = trials.opened(settings).embedded
                judged, answers = cross_validate(settings, FOLDS, embedded, embedded.indices_of("train"), silent)
                accuracy = float((answers.argmax(axis=1) == embedded.class_ids[judged]).mean())
                low, high = one.interval
                held.append(low <= accuracy <= high)
                cells = f"{one.accuracy:.3f} ({low:.3f} to {high:.3f}) | {accuracy:.3f} | {'yes' if held[-1] else 'no'}"
                print(f"| {folder.name} | {seed} | {one.times} | {cells} |", flush=True)
    print(f"\n{sum(held)} of {len(held)} intervals hold; forecasts are of {TIMES[1:]} times as many pictures")
    return 0 if 2 * sum(held) >= len(held) else 1


def settings_of(folder, arguments, seed, few):
    """Those of `finetune` for a few pictures a class."""
    return Settings.of_options(folder, {"model": arguments.model, "few": few, "seed": seed, "augment": "none"})


def curve_of(trials, folder, arguments, seed):
    """The learning curve of a few pictures a class."""
    settings = settings_of(folder, arguments, seed, arguments.few)
    return measure(settings, trials.opened(settings).embedded)


if __name__ == "__main__":
    sys.exit(main())
