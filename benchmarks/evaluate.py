"""How fast `visiontool evaluate` is beside `visiontool predict` on the same pictures, as whole processes.

    python benchmarks/evaluate.py FOLDER [--model efficientnet_lite0] [--rounds 5]

FOLDER has a folder of pictures for each class, named by a class or a WordNet id of the model. `predict` writes its rows
to a CSV file, `evaluate` prints its figures as JSON. The sides take turns after one run of each that does not count, so
that a machine with drifting speed slows both alike; the result is the median of the rounds' ratios. Target: at least
0.95 of the pictures a second of `predict`.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnxruntime

from visiontool.data.loader import cores
from visiontool.hub.resolve import DEFAULT_MODEL

TARGET = 0.95


def timed(*arguments: str) -> tuple[float, str]:
    """Seconds and stdout of a whole process of visiontool, which has to succeed."""
    command = [sys.executable, "-m", "visiontool", *arguments]
    start = time.perf_counter()
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - start, ran.stdout


def main() -> int:
    """Returns 0 where the target is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{platform.platform()}, {cores()} cores, Python {platform.python_version()}, ", end="")
    print(f"onnxruntime {onnxruntime.__version__}, {arguments.model}\n")
    folder, seconds = str(arguments.folder), {"predict": list[float](), "evaluate": list[float]()}
    with tempfile.TemporaryDirectory() as temporary:
        rows = Path(temporary, "rows.csv")
        commands = {
            "predict": ("predict", folder, "-m", arguments.model, "-o", str(rows), "--force", "-q"),
            "evaluate": ("evaluate", arguments.model, folder, "--split", "all", "--json", "-q"),
        }
        for number in range(arguments.rounds + 1):
            for side in sorted(commands, reverse=number % 2 == 0):
                elapsed, output = timed(*commands[side])
                if number:
                    seconds[side].append(elapsed)
                if side == "evaluate":
                    pictures = json.loads(output)["models"][0]["pictures"]
        answered = len(rows.read_text(encoding="utf-8").splitlines()) - 1
    assert answered == pictures, f"predict answered for {answered} pictures, evaluate for {pictures}"
    print(f"| {pictures:,} pictures, medians of {arguments.rounds} | s | pictures/s |\n|---|---|---|")
    for side, values in seconds.items():
        median = statistics.median(values)
        print(f"| {side} | {median:.2f} | {pictures / median:.1f} |")
    ratio = statistics.median(a / b for a, b in zip(seconds["predict"], seconds["evaluate"], strict=True))
    print(f"\nevaluate has {ratio:.3f} of the pictures/s of predict; target: at least {TARGET}")
    return 0 if ratio >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
