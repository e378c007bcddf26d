"""The cost of single steps of the start: the figures of docs/design.md, "The start".

    python benchmarks/start_steps.py [--runs 15]

Whole processes alternate, and medians are printed; compare them on an otherwise idle machine.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from visiontool.hub.resolve import DEFAULT_MODEL, resolve

ROOT = Path(__file__).resolve().parent.parent
IMPORTS = (
    "import visiontool.cli, visiontool.data.discover, visiontool.cli.output.rows; from visiontool import Classifier;"
)
ANSWER = f"{IMPORTS} Classifier.load('{DEFAULT_MODEL}').predict(['samples/orange.jpg']);"
PROCESSES = {
    "imports, garbage collector as it is": IMPORTS,
    "imports, garbage collector later": f"import gc; gc.set_threshold(100_000); {IMPORTS}",
    "one answer, ordinary end": ANSWER,
    "one answer, ended by os._exit": f"{ANSWER} import os; os._exit(0)",
}
IN_PROCESS = """
import statistics, threading, time
from dataclasses import dataclass
from typing import NamedTuple
from visiontool.model import scan
from visiontool import runtime
from visiontool.hub import resolve

def milliseconds(step, runs=11):
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)

def in_a_thread(step):
    def run():
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    return run

def a_dataclass():
    @dataclass(frozen=True, slots=True)
    class Record:
        a: int
        b: str
        c: float = 1.0
        d: str | None = None

def a_named_tuple():
    class Record(NamedTuple):
        a: int
        b: str
        c: float = 1.0
        d: str | None = None

model = resolve.resolve(resolve.DEFAULT_MODEL)
steps = {
    "scan of the default model": lambda: scan.scan(model),
    "session, main thread": lambda: runtime.open_model(model),
    "session, another thread": in_a_thread(lambda: runtime.open_model(model)),
    "define a frozen dataclass of four fields": a_dataclass,
    "define a NamedTuple of four fields": a_named_tuple,
}
runtime.open_model(model)
for name, step in steps.items():
    print(f"| {name} | {milliseconds(step):.2f} |")
"""


def main() -> int:
    """Returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    arguments = parser.parse_args()
    resolve(DEFAULT_MODEL)  # made once, if it is not yet there
    times: dict[str, list[float]] = {name: [] for name in PROCESSES}
    for _ in range(arguments.runs):
        for name, code in PROCESSES.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
            times[name].append(time.perf_counter() - start)
    print("| step | median ms |\n|---|---|")
    for name, values in times.items():
        print(f"| {name}, whole process | {1000 * statistics.median(values):.0f} |")
    print(
        subprocess.run([sys.executable, "-c", IN_PROCESS], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
