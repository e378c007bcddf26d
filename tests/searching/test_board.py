"""The winner of a search, its Pareto front, and what a learning curve forecasts."""

from pathlib import Path

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution

from visiontool.searching.board import Found
from visiontool.searching.journal import Outcome, Row
from visiontool.searching.learning_curve import _extrapolated
from visiontool.searching.space import Space
from visiontool.searching.trials import Pictures


def found_of(*trials, groups=None):
    """A search on 100 pictures; trials are a model, a head, how many pictures are right, and milliseconds."""
    rows = []
    for model, head, right, latency in trials:
        is_right = np.arange(100) < right
        outcome = Outcome(is_right, 1 - right / 100, is_right[::2], latency, 1000, 1.0)
        rows.append(Row("done", {"model": model, "head": head}, outcome, None))
    choices = {"model": CategoricalDistribution(["a", "b"]), "head": CategoricalDistribution(["auto", "lda"])}
    space = Space(Path("data"), {}, choices)
    groups = np.arange(100) if groups is None else groups
    rows.sort(key=lambda row: -row.accuracy)
    return Found(Path("found"), space, Pictures("", groups, groups[::2]), rows, None)


@pytest.mark.parametrize(("right", "wins"), [(90, False), (91, False), (94, True)])
def test_the_default_wins_unless_another_is_clearly_better(right, wins):
    found = found_of(("a", "auto", 90, 5.0), ("a", "lda", right, 5.0))
    assert (found.winner.values["head"] == "lda") == wins
    assert (found.gain is not None) == wins


def test_pictures_of_a_group_are_no_independent_evidence():
    alone, scenes = (found_of(("a", "auto", 50, 5.0), groups=np.arange(100) // size) for size in (1, 25))
    widths = [np.diff(found.judged(found.done[0]).interval).item() for found in (alone, scenes)]
    assert widths[1] > 3 * widths[0]


def test_the_front_has_no_trial_that_another_beats():
    found = found_of(("a", "auto", 80, 5.0), ("a", "lda", 85, 5.2), ("b", "auto", 84, 9.0), ("b", "lda", 93, 9.1))
    assert [found.text_of(row) for row in found.front] == ["a, head lda", "b, head lda"]
    assert found.latency_ms(found.front[0]) == 5.0


def test_a_power_law_is_found_again():
    pictures = np.array([20.0, 40, 80, 140, 200])
    error, exponent = _extrapolated(pictures, 0.05 + 0.9 * pictures**-0.5, 800)
    assert error == pytest.approx(0.05 + 0.9 * 800**-0.5, abs=0.002)
    assert exponent == pytest.approx(0.5, rel=0.1)
    rising = _extrapolated(pictures, np.linspace(0.1, 0.2, 5), 800)[0]
    assert rising == pytest.approx(0.15, abs=0.01)  # more pictures are never said to harm
