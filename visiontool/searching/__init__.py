"""The best settings for a dataset, found by trials: the whole story, read from top to bottom.

Each trial judges settings of `finetune` (`space`) by cross-validation (`trials`). Optuna suggests them and keeps the
trials in a file (`journal`), so that a search can be killed, gone on with, and shared by several processes. A part of
the pictures is kept aside: it decides nothing, and says at the end how good the winner is.
"""

import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from visiontool.data.loader import DEFAULT_OPTIONS, LoadOptions
from visiontool.data.splits import write_splits
from visiontool.errors import UsageError, VisiontoolError, first_line
from visiontool.files import write_file
from visiontool.progress import Progress, silent
from visiontool.pytorch.train.recipe import Epoch
from visiontool.searching import learning_curve, report
from visiontool.searching.board import Found
from visiontool.searching.journal import JOURNAL, Journal, Sampler, check, opened
from visiontool.searching.space import Space
from visiontool.searching.trials import Trials
from visiontool.training.finetune import check_outside, finetune
from visiontool.training.run import KEPT, SEARCH_FILE, SPLITS_FILE
from visiontool.training.settings import SETTINGS_FILE

if TYPE_CHECKING:
    from optuna import Trial

_log = logging.getLogger(__name__)

_FINISH_S = 3.0  # for the winner's files and the page
_TOO_LATE = (
    "the time was up before a trial was done. The same command with more time goes on from what the cache holds."
)


class Wanted(NamedTuple):
    """How long a search goes on, and what it does at the end."""

    sampler: Sampler = "tpe"
    trials: int = 30  # in all, those of earlier processes counted
    time_limit: float | None = None  # seconds
    keep: int = 0  # of the best trials, which become runs
    curve: bool = False  # whether the winner's learning curve is measured


class _OutOfTime(Exception):
    """The time is up in the middle of a trial."""


class _Clock:
    """Ends a trial in time."""

    def __init__(self, wanted: Wanted, progress: Progress) -> None:
        self._start, self._wanted, self._progress = time.monotonic(), wanted, progress
        self.longest = 0.0  # seconds of a trial
        self.note = ""
        self.has_stopped = False  # the search is being finished, late or not

    def check(self) -> None:
        """Raises _OutOfTime where there would be no time left to finish the search."""
        reserve = _FINISH_S + self.longest * (self._wanted.keep + learning_curve.COST * self._wanted.curve)
        limit = self._wanted.time_limit
        if not self.has_stopped and limit is not None and time.monotonic() - self._start + reserve > limit:
            raise _OutOfTime

    def update(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """The `Progress` of a trial."""
        self.check()
        if stage in ("plain", "views", "train"):
            self._progress(stage, done, total, note or self.note)


def search(
    space: Space,
    folder: Path,
    wanted: Wanted,
    *,
    force: bool = False,
    options: LoadOptions = DEFAULT_OPTIONS,
    progress: Progress = silent,
) -> Found:
    """Searches, or goes on with the search in `folder`, and writes settings.json, splits.csv and search.json there.

    Args:
        force: begins anew, without what is in the folder.
        progress: called with "trials", those that are done and all, and with the stages of `finetune`.

    Raises:
        DataError: the dataset cannot be used.
        ModelError: Optuna is not installed, or a model cannot be finetuned.
        UsageError: the folder holds something else, as a search of other pictures; options contradict each other.
        VisiontoolError: no trial was done, or not in time.
    """
    check(wanted.sampler, space)
    if wanted.curve and space.shared.get("unfreeze"):
        raise UsageError("--learning-curve is for frozen backbones: leave out --unfreeze")
    clock = _Clock(wanted, progress)
    judge = Trials(options, clock.update)
    is_search = (folder / JOURNAL).is_file()
    if folder.exists() and not is_search and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not a search; name another folder with -o")
    try:
        settings = space.settings_of(space.first(space.models[0]))
        check_outside(folder, settings)
        pictures = judge.pictures(settings)
    except _OutOfTime:
        raise VisiontoolError(_TOO_LATE) from None
    if force:
        shutil.rmtree(folder, ignore_errors=True)
    elif is_search:
        _log.info(f"Goes on with the search in {folder}.")
    folder.mkdir(parents=True, exist_ok=True)
    with opened(folder, space, pictures.digest, wanted.sampler, int(space.shared.get("seed") or 0)) as journal:
        try:
            _run(journal, judge, wanted, clock, progress)
        except _OutOfTime:
            _log.info("The time is up. The same command with more time goes on from here.")
        rows = journal.rows()
    clock.has_stopped = True
    found = Found(folder, space, pictures, rows, None)
    if not found.done:
        failed = next((row.error for row in found.rows if row.error), None)
        raise VisiontoolError(f"all trials failed; the first: {failed}" if failed else _TOO_LATE)
    if wanted.curve:
        settings = space.settings_of(found.winner.values)
        found = replace(found, curve=learning_curve.measure(settings, judge.opened(settings).embedded))
    _write(found, judge)
    _keep(found, wanted.keep, options)
    return found


def _run(journal: Journal, judge: Trials, wanted: Wanted, clock: _Clock, progress: Progress) -> None:
    """Trials, until there are enough or the time is up."""
    from optuna import TrialPruned

    while (begun := journal.next(wanted.sampler, wanted.trials)) is not None:
        trial, settings = begun
        rows = journal.rows()
        clock.longest = max((row.outcome.seconds for row in rows if row.outcome), default=0.0)
        clock.note = f"trial {len(rows)} of {wanted.trials}"
        progress("trials", len(rows) - 1, wanted.trials, f"best {rows[0].accuracy:.1%}" if rows[0].outcome else "")
        try:
            clock.check()
            outcome = judge.judge(settings, partial(_report, trial))
        except TrialPruned:
            journal.end(trial, error="")
        except (_OutOfTime, KeyboardInterrupt):
            journal.end(trial)
            raise
        except Exception as problem:  # these settings do not work; others may
            journal.end(trial, error=first_line(problem))
            _log.info(f"A trial failed: {first_line(problem)}")
        else:
            journal.end(trial, outcome)


def _report(trial: "Trial", history: Sequence[Epoch]) -> None:
    """Reports an epoch of a network that is trained; raises TrialPruned where others were better by then."""
    from optuna import TrialPruned

    trial.report(history[-1].accuracy, len(history))
    if trial.should_prune():
        raise TrialPruned


def _write(found: Found, judge: Trials) -> None:
    """settings.json, with which `finetune --from` trains the winner; splits.csv, search.json, the page and its plot."""
    settings = found.space.settings_of(found.winner.values)
    data, splits = judge.split(settings)
    write_splits(found.folder / SPLITS_FILE, data, splits)
    write_file(found.folder / SETTINGS_FILE, settings.with_absolute_paths().to_json())
    write_file(found.folder / SEARCH_FILE, json.dumps(found.to_json(), indent=1) + "\n")
    report.write(found)


def _keep(found: Found, count: int, options: LoadOptions) -> None:
    """Finetunes the best trials, on the pictures that trials were judged by."""
    if count:
        shutil.rmtree(found.folder / KEPT, ignore_errors=True)
    for rank, row in enumerate(found.done[:count], 1):
        settings = replace(found.space.settings_of(row.values), splits_file=found.folder / SPLITS_FILE)
        finetune(settings, output=found.folder / KEPT / f"{found.folder.name}-{rank}", options=options)
