"""A finetuned run: its result, and its folder, which takes its place when it is complete."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from visiontool.errors import ConversionError, UsageError
from visiontool.evaluation.metrics import Metrics
from visiontool.files import FULL
from visiontool.model.spec import ModelSpec
from visiontool.text import plural
from visiontool.training.head import Solution
from visiontool.training.settings import SETTINGS_FILE

RUNS = Path("runs")
SPLITS_FILE = "splits.csv"

_UNSAFE = re.compile(r"[^\w.+-]+")


@dataclass(frozen=True, slots=True, repr=False)
class Run:
    """A finished run."""

    folder: Path
    spec: ModelSpec
    metrics: Metrics  # on val; with folds on all pictures, each judged by a head that was trained without it
    solution: Solution
    folds: int | None  # None where val judges
    splits: dict[str, int]  # the number of pictures in "train", "val" and "test"
    passes: int  # views that went through the backbone; what was cached did not

    def __repr__(self) -> str:
        judged = plural(self.metrics.pictures, "picture")
        return f"<Run {self.folder}: accuracy {self.metrics.accuracy:.1%} on {judged}>"


@contextmanager
def new_folder(data: Path, output: Path | None, *, force: bool = False) -> Iterator[tuple[Path, Path]]:
    """A folder to fill, and the place that it takes when the block ends: `output`, or runs/<name of the data>[-2 ...].

    What fails leaves nothing; only a killed process leaves NAME.partial-.../ beside the place, with its folders inside.
    """
    try:
        if output is None:  # a place in runs/ called like the folder of the data, as far as that suits every system
            name = _UNSAFE.sub("-", Path(os.path.abspath(data)).name).strip(".-") or "run"
            places = (RUNS.absolute() / (name if number == 1 else f"{name}-{number}") for number in count(1))
            target = next(place for place in places if not os.path.lexists(place))
        else:
            target = Path(os.path.realpath(output))
        is_taken = os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir()))
        if is_taken and not (target / SETTINGS_FILE).is_file():
            raise UsageError(f"{target} exists and is not a run; name another folder with -o")
        if is_taken and not force:
            raise UsageError(f"{target} holds a run already. Name another folder with -o, or --force to replace it.")
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f"{target.name}.partial-", dir=target.parent))
        try:
            folder = beside / target.name  # mkdtemp makes folders that nobody else may read
            folder.mkdir()
            yield folder, target
            is_there = os.path.lexists(target)
            if is_there:
                target.rename(beside / "replaced")
            try:
                folder.rename(target)
            except OSError:  # on Windows, where somebody has one of its files open
                if is_there:
                    (beside / "replaced").rename(target)
                raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        if error.errno is None:  # of a library; not about files
            raise
        where = error.filename or output or RUNS
        problem = "the disk is full" if error.errno in FULL else "cannot be written"
        raise ConversionError(f"{where}: {problem} ({error.strerror}). -o names another folder for the run.") from error
