"""The leaderboard of a search: its trials with intervals and costs, the Pareto front, and the winner held out."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.evaluation.metrics import Difference, Interval, difference, wilson
from visiontool.searching.journal import Row
from visiontool.searching.learning_curve import LearningCurve
from visiontool.searching.space import Space
from visiontool.searching.trials import Pictures


class Share(NamedTuple):
    """An accuracy and its 95 % interval."""

    value: float
    interval: Interval

    @classmethod
    def of(cls, right: NDArray[np.bool_], groups: NDArray[np.int64]) -> "Share":
        """That of pictures (N,), by resampling where groups have several of them."""
        if len(np.unique(groups)) == len(groups):
            interval = wilson(int(right.sum()), len(right))
        else:
            interval = difference("", "", right, np.zeros_like(right), groups).interval
        return cls(float(right.mean()), interval)

    def __str__(self) -> str:
        low, high = (100 * each for each in self.interval)
        return f"{self.value:.1%} ({low:.1f} to {high:.1f})"


@dataclass(frozen=True)
class Found:
    """What a search has found."""

    folder: Path
    space: Space
    pictures: Pictures
    rows: list[Row]  # the most accurate first, then those that are not done
    curve: LearningCurve | None

    @cached_property
    def done(self) -> list[Row]:
        return [row for row in self.rows if row.outcome is not None]

    @cached_property
    def default(self) -> Row | None:
        """The trial of the settings that `finetune` has without a search, where it is done."""
        default = self.space.settings_of({"model": self.space.models[0]})
        return next((row for row in self.done if self.space.settings_of(row.values) == default), None)

    @cached_property
    def winner(self) -> Row:
        """The most accurate trial, or the default where the other is not better by more than a standard error.

        Source: Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3 (one-standard-error rule),
            here of the difference on the same pictures.
        """
        best = self.done[0]
        if self.default is None or best is self.default:
            return best
        more = best.result.right.astype(float) - self.default.result.right
        by_group = np.bincount(np.unique(self.pictures.groups, return_inverse=True)[1], more)
        return best if more.sum() > np.sqrt(np.sum(by_group**2)) else self.default

    @cached_property
    def gain(self) -> Difference | None:
        """What the winner has over the default on the pictures kept aside; None where it is the default."""
        if self.default is None or self.winner is self.default:
            return None
        return difference("winner", "default", self.winner.result.aside, self.default.result.aside, self.pictures.aside)

    def judged(self, row: Row) -> Share:
        """The accuracy of a trial that is done."""
        return Share.of(row.result.right, self.pictures.groups)

    def aside(self, row: Row) -> Share:
        """The accuracy on the pictures kept aside."""
        return Share.of(row.result.aside, self.pictures.aside)

    def latency_ms(self, row: Row) -> float:
        """The least that was measured of the row's backbone, so that rows of one differ in nothing but accuracy."""
        model = row.values["model"]
        return min(one.result.latency_ms for one in self.done if one.values["model"] == model)

    @cached_property
    def front(self) -> list[Row]:
        """The Pareto front, the fastest first: trials that no other beats in accuracy without being slower."""
        best: list[Row] = []
        for row in sorted(self.done, key=lambda row: (self.latency_ms(row), -row.accuracy)):
            if not best or row.accuracy > best[-1].accuracy:
                best.append(row)
        return best

    def text_of(self, row: Row) -> str:
        """What a trial has beside the default settings: "squeezenet1_1, head lda"."""
        usual = self.space.defaults(self.space.models[0])
        short = {model: Path(model).name.partition(".")[0] for model in self.space.models}
        texts = []
        if len(short) > 1:
            model = row.values["model"]
            texts = [short[model] if len({*short.values()}) == len(short) else model]
        for name, value in row.values.items():
            if name != "model" and str(value) != str(usual[name]):
                texts.append(f"{name.replace('_', '-')} {f'{value:.2g}' if isinstance(value, float) else value}")
        return ", ".join(texts) or "the default settings"

    def to_json(self) -> dict[str, Any]:
        trials: list[dict[str, Any]] = []
        for row in self.rows:
            trials.append({"state": row.state, "settings": dict(row.values), "error": row.error or None})
            if row.outcome is not None:
                value, interval = self.judged(row)
                facts = {name: getattr(row.outcome, name) for name in ("loss", "size_bytes", "seconds")}
                trials[-1] |= {"accuracy": value, "interval": [*interval], "is_on_front": row in self.front, **facts}
                trials[-1] |= {"latency_ms": self.latency_ms(row)}
        rows = {"winner": self.winner, "default": self.default}
        aside = {name: {"settings": dict(row.values), **self.aside(row)._asdict()} for name, row in rows.items() if row}
        document = {"schema": 1, "data": str(self.space.data), "folder": str(self.folder)}
        document |= {"judged_by": len(self.pictures.groups), "kept_aside": len(self.pictures.aside), **aside}
        document |= {"gain": self.gain and vars(self.gain), "trials": trials}
        return document | {"learning_curve": self.curve and self.curve.to_json()}
