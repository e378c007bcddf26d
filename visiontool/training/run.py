"""A finetuned run: its result, and its folder, which takes its place when it is complete."""

import logging
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from visiontool.errors import ConversionError, UsageError
from visiontool.evaluation.metrics import Difference, Metrics, MultilabelMetrics
from visiontool.files import FULL
from visiontool.model.spec import ModelSpec
from visiontool.pytorch.train.recipe import Epoch
from visiontool.text import plural
from visiontool.training.head import Solution
from visiontool.training.settings import SETTINGS_FILE, AnyPath, Settings

RUNS = Path("runs")
SPLITS_FILE = "splits.csv"
CHECKPOINTS = "checkpoint"  # the folder of them in a run's
PARTIAL = ".partial"
SEARCH_FILE = "search.json"  # of the folder of a search
KEPT = "top"  # the folder of its runs

_log = logging.getLogger(__name__)

_UNSAFE = re.compile(r"[^\w.+-]+")


class Training(NamedTuple):
    """How a network was trained."""

    history: tuple[Epoch, ...]
    best: int  # in `history`
    metrics: Metrics | MultilabelMetrics  # of its best weights on val
    versus_frozen: Difference | None  # its accuracy less that of the frozen backbone; None where there was none
    is_kept: bool  # False: the model of the run is that of the frozen backbone


@dataclass(frozen=True, slots=True, repr=False)
class Run:
    """A finished run."""

    folder: Path
    spec: ModelSpec
    metrics: (
        Metrics | MultilabelMetrics
    )  # on val; with folds on all pictures, each judged by a head that was trained without it
    solution: Solution | None  # the head on a frozen backbone; None of a network that was trained from scratch
    folds: int | None  # None where val judges
    splits: dict[str, int]  # the number of pictures in "train", "val" and "test"
    passes: int  # views that went through the backbone; what was cached did not
    training: Training | None = None  # of the network; None where it stayed frozen

    def __repr__(self) -> str:
        judged = plural(self.metrics.pictures, "picture")
        first = self.metrics.measures(len(self.spec.labels))[0]
        return f"<Run {self.folder}: {first.name.replace('Acc', 'acc')} {first.text} on {judged}>"


def resumed(run: Path) -> tuple[Path, Path]:
    """The place of a run, or of its NAME.partial, and the folder with its settings and checkpoints.

    Raises UsageError where it has no checkpoint to go on from.
    """
    target = Path(os.path.realpath(run))
    if target.name.endswith(PARTIAL):
        target = target.with_name(target.name.removesuffix(PARTIAL))
    for folder in (_unfinished(target), target):
        if (folder / SETTINGS_FILE).is_file() and any((folder / CHECKPOINTS).glob("*.pt")):
            return target, folder
    raise UsageError(f"{run} has no checkpoint to go on from: only a run with --unfreeze or --from-scratch has")


def settings_for(
    data: AnyPath | None, options: Mapping[str, Any], output: AnyPath | None, *, force: bool
) -> tuple[Settings, Path | None, bool]:
    """The settings that `Options` make, the folder of the run, and whether an earlier run is gone on with."""
    given = dict(options)
    run = given.pop("resume", None)
    if run is None:
        return Settings.of_options(data, given), None if output is None else Path(output), False
    if output is not None or force or given.get("from_run") is not None:
        raise UsageError("--resume goes on with a run where it is; --from, -o and --force are for a new one")
    target, folder = resumed(Path(run))
    return Settings.of_options(data, {**given, "from_run": folder}).resuming(Settings.of_run(folder)), target, True


@contextmanager
def new_folder(
    data: Path, output: Path | None, *, force: bool = False, trains: bool = False, resume: bool = False
) -> Iterator[tuple[Path, Path]]:
    """A folder to fill, and the place that it takes when the block ends: `output`, or runs/<name of the data>[-2 ...].

    What fails leaves nothing; only a killed process leaves NAME.partial-.../ beside the place, with its folders inside.
    A run that trains a network has NAME.partial/ instead, which stays once there is a checkpoint.

    Args:
        resume: goes on with what is in NAME.partial/, or in `output`, which `resumed` has found.
    """
    try:
        if output is None:  # a place in runs/ called like the folder of the data, as far as that suits every system
            name = _UNSAFE.sub("-", Path(os.path.abspath(data)).name).strip(".-") or "run"
            places = (RUNS.absolute() / (name if number == 1 else f"{name}-{number}") for number in count(1))
            target = next(
                place for place in places if not any(map(os.path.lexists, (place, _unfinished(place).parent)))
            )
        else:
            target = Path(os.path.realpath(output))
        is_taken = os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir()))
        if is_taken and not (target / SETTINGS_FILE).is_file():
            raise UsageError(f"{target} exists and is not a run; name another folder with -o")
        if is_taken and not (force or resume):
            raise UsageError(f"{target} holds a run already. Name another folder with -o, or --force to replace it.")
        target.parent.mkdir(parents=True, exist_ok=True)
        if trains:
            beside = _unfinished(target).parent
            if beside.exists() and not (force or resume):
                raise UsageError(
                    f"{target} was interrupted. Go on with it: visiontool finetune --resume {target}\n"
                    "Or begin again with --force."
                )
            if not resume:
                shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(exist_ok=True)
        else:
            beside = Path(tempfile.mkdtemp(prefix=f"{target.name}{PARTIAL}-", dir=target.parent))
        folder = beside / target.name  # mkdtemp makes folders that nobody else may read
        try:
            folder.mkdir(exist_ok=trains)
            if resume and not (folder / CHECKPOINTS).exists():
                shutil.copytree(target / CHECKPOINTS, folder / CHECKPOINTS)
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
            if any((folder / CHECKPOINTS).glob("*.pt")):  # it has not taken its place
                _log.info(f"Go on with it: visiontool finetune --resume {shlex.quote(str(target))}")
            else:
                shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        if error.errno is None:  # of a library; not about files
            raise
        where = error.filename or output or RUNS
        problem = "the disk is full" if error.errno in FULL else "cannot be written"
        raise ConversionError(f"{where}: {problem} ({error.strerror}). -o names another folder for the run.") from error


def _unfinished(target: Path) -> Path:
    """Where a run that trains a network is, until it is complete."""
    return target.with_name(target.name + PARTIAL) / target.name


def kept_by(folder: str) -> list[str]:
    """The runs that a search kept in its folder, the best first; `folder` alone where it is no search.

    Raises UsageError where it kept none.
    """
    if not os.path.isfile(os.path.join(folder, SEARCH_FILE)):
        return [folder]
    runs = sorted(Path(folder, KEPT).glob("*"), key=lambda path: int(path.name.rpartition("-")[2]))
    if not runs:
        raise UsageError(f"{folder} is a search that kept no runs. The same search with --keep 5 makes them.")
    return [os.fspath(run) for run in runs]


def clean(folder: Path) -> None:
    """Deletes all checkpoints but the last, from which a finished run can be given more epochs."""
    for old in sorted((folder / CHECKPOINTS).glob("*.pt"))[:-1]:
        old.unlink()
