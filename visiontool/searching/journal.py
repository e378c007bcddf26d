"""The trials of a search, kept in Optuna's journal file: several processes can share it, and any can be killed."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from visiontool.errors import ModelError, UsageError, missing_extra
from visiontool.searching.space import Space
from visiontool.training.settings import Settings

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

Sampler = Literal["grid", "random", "tpe", "gp"]
JOURNAL = "journal.log"
_LOCK = ".trials.lock"  # held while a trial is chosen
_ATTEMPTS = 20  # to find settings that no trial has had
_BITS = ("right", "aside")  # of an outcome
_STATES = {"COMPLETE": "done", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "running"}


class Outcome(NamedTuple):
    """What is known of settings that a trial has judged."""

    right: NDArray[np.bool_]  # (N,) of the pictures that judge trials
    loss: float  # their mean log loss
    aside: NDArray[np.bool_]  # (M,) of the pictures kept aside, which decide nothing
    latency_ms: float  # of the backbone for one picture, on one thread
    size_bytes: int  # of the backbone's file
    seconds: float  # that the trial took

    def to_json(self) -> dict[str, Any]:
        return self._asdict() | {name: "".join(map(str, getattr(self, name).astype(int))) for name in _BITS}

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> "Outcome":
        return cls(**{**told, **{name: np.array([*told[name]]) == "1" for name in _BITS}})


class Row(NamedTuple):
    """A trial."""

    state: str  # of `_STATES`
    values: Mapping[str, Any]  # of the options that are searched
    outcome: Outcome | None  # of one that is done
    error: str | None  # of one that failed

    @property
    def result(self) -> Outcome:
        assert self.outcome is not None
        return self.outcome

    @property
    def accuracy(self) -> float:
        return -1.0 if self.outcome is None else float(self.outcome.right.mean())


class Journal:
    """The trials of a search in its folder. Made by `opened`."""

    def __init__(self, study: "Study", folder: Path, space: Space) -> None:
        self._study, self._folder, self._space, self._sampler = study, folder, space, study.sampler
        self.process = f".{os.getpid()}-{os.urandom(4).hex()}.lock"  # held as long as this process lives
        self._combinations = space.combinations()

    def next(self, sampler: Sampler, most: int) -> "tuple[Trial, Settings] | None":
        """A new trial, of settings that no other has had; None where there are `most` trials, or no other settings."""
        with FileLock(self._folder / _LOCK):
            self._end_dead()
            rows = self.rows()
            tried = {self._space.settings_of(row.values) for row in rows}
            for attempt in range(_ATTEMPTS if len(rows) < most else 0):
                # First the default settings of each model, which wait since the beginning; then the sampler's. It may
                # repeat itself: then others are drawn, where they can be listed from those that are left.
                self._study.sampler = _sampler("random", len(rows) + attempt) if attempt else self._sampler
                if not self._has_waiting() and (sampler == "grid" or (attempt and self._combinations is not None)):
                    free = [values for each, values in (self._combinations or {}).items() if each not in tried]
                    if not free:
                        return None
                    place = 0 if sampler == "grid" else np.random.default_rng(len(rows)).integers(len(free))
                    self._study.enqueue_trial(free[place])
                trial, settings = self._study.ask(dict(self._space.choices)), None
                with suppress(UsageError):  # values that contradict each other
                    settings = self._space.settings_of(trial.params)
                if settings is not None and settings not in tried:
                    trial.set_user_attr("process", self.process)
                    return trial, settings
                self.end(trial)
        return None

    def end(self, trial: "Trial | FrozenTrial", outcome: Outcome | None = None, error: str | None = None) -> None:
        """Ends a trial; one without an outcome and an error is as if it had not been: its settings can be tried again.

        One that was stopped early has the error "".
        """
        from optuna.trial import TrialState

        if outcome is not None:
            trial.set_user_attr("outcome", outcome.to_json())
        if error:
            trial.set_user_attr("error", error)
        value = None if outcome is None else float(outcome.right.mean())
        state = TrialState.COMPLETE if outcome else TrialState.PRUNED if error == "" else TrialState.FAIL
        self._study.tell(trial.number, value, state)

    def rows(self) -> list[Row]:
        """The trials that are or were, the most accurate first, then those without an accuracy."""
        rows = []
        for trial in self._study.get_trials(deepcopy=False):
            told, error = (trial.user_attrs.get(name) for name in ("outcome", "error"))
            if trial.state.name in ("COMPLETE", "PRUNED") or error or (trial.state.name == "RUNNING"):
                values = {name: trial.params[name] for name in self._space.choices if name in trial.params}
                outcome = Outcome.of_json(told) if told else None
                rows.append(Row(_STATES[trial.state.name], values, outcome, error))
        return sorted(rows, key=lambda row: (-row.accuracy, row.outcome.loss if row.outcome else 0.0))

    def _has_waiting(self) -> bool:
        return any(trial.state.name == "WAITING" for trial in self._study.get_trials(deepcopy=False))

    def _end_dead(self) -> None:
        """Ends the trials of processes that are no more."""
        for trial in self._study.get_trials(deepcopy=False):
            lock = self._folder / trial.user_attrs.get("process", ".none.lock")
            if trial.state.name == "RUNNING" and lock.name != self.process:
                with suppress(Timeout), FileLock(lock, blocking=False):
                    self.end(trial)


@contextmanager
def opened(folder: Path, space: Space, digest: str, sampler: Sampler, seed: int) -> Iterator[Journal]:
    """The journal of the folder, a new one where there is none; trials begun in the block are those of this process.

    Args:
        digest: of the pictures.

    Raises:
        UsageError: the trials of the folder are of another search.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Optuna's own lock outlives a killed process.
    backend = JournalFileBackend(str(folder / JOURNAL), lock_obj=FileLock(folder / ".journal.lock"))  # type: ignore[arg-type]
    identity = json.dumps([digest, dict(space.shared), dict(space.choices)], default=str)
    with FileLock(folder / _LOCK):
        study = optuna.create_study(
            storage=JournalStorage(backend),
            study_name="search",
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1),
            load_if_exists=True,
        )
        if "search" not in study.user_attrs:
            study.set_user_attr("search", identity)
            for model in space.models:
                study.enqueue_trial(space.first(model))
    if study.user_attrs["search"] != identity:
        raise UsageError(
            f"{folder} holds a search of other pictures or options. -o names another folder, --force replaces it."
        )
    study.sampler = _sampler(sampler, seed + len(study.get_trials(deepcopy=False)))
    journal = Journal(study, folder, space)
    try:
        with FileLock(folder / journal.process):
            yield journal
    finally:
        (folder / journal.process).unlink(missing_ok=True)


def check(sampler: Sampler, space: Space) -> None:
    """Raises ModelError where torch is missing for "gp", and UsageError where there is no grid."""
    if sampler == "gp" and find_spec("torch") is None:
        raise ModelError(missing_extra("train", "The sampler gp"))
    if sampler == "grid" and space.combinations() is None:
        raise UsageError("--sampler grid takes lists of values, at most 10,000 settings in all; others take ranges")


def _sampler(name: Sampler, seed: int) -> Any:
    from optuna import samplers

    if name == "tpe":
        return samplers.TPESampler(multivariate=True, constant_liar=True, seed=seed)
    if name == "gp":
        return samplers.GPSampler(seed=seed)
    return samplers.RandomSampler(seed=seed)
