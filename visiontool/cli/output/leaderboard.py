"""What `search` prints: the best trials, the winner, and what more pictures would give."""

import os
import shlex
import textwrap
from typing import TYPE_CHECKING

from visiontool.cli.text import printable, wrapped
from visiontool.text import plural

if TYPE_CHECKING:
    from visiontool.searching.board import Found
    from visiontool.searching.learning_curve import LearningCurve

_SHOWN = 10
_LEAST_GAIN = 0.002
_SETTINGS = 43  # characters


def lines_of(found: "Found") -> list[str]:
    """Lines of at most 80 characters."""
    lines = [f"{'Settings':<{_SETTINGS}} {'accuracy':>22} {'ms':>6} {'MB':>5}"]
    for row in found.done[:_SHOWN]:
        text, *more = textwrap.wrap(printable(found.text_of(row)), _SETTINGS - 2)
        text = f"{'*' if row in found.front else ' '} {text}"
        size = row.result.size_bytes / 1e6
        lines.append(f"{text:<{_SETTINGS}} {found.judged(row)!s:>22} {found.latency_ms(row):>6.1f} {size:>5.1f}")
        lines += [f"  {part}" for part in more]
    judged = f"{plural(len(found.done), 'trial')}, each judged by {plural(len(found.pictures.groups), 'picture')}."
    others = len(found.rows) - len(found.done)
    judged += f" {plural(others, 'other')} failed, stopped early or are running." if others else ""
    aside = f"On {plural(len(found.pictures.aside), 'picture')} that no trial saw: {found.aside(found.winner)}"
    if (gain := found.gain) is not None:
        low, high = (100 * each for each in gain.interval)
        aside += f", {100 * gain.accuracy:+.1f} points ({low:.1f} to {high:.1f}) from the default settings"
    lines += [f"* none is faster and as accurate. {judged}", "", f"Winner: {found.text_of(found.winner)}.", f"{aside}."]
    lines += [] if found.curve is None else _curve_lines(found.curve)
    folder = min(str(found.folder), os.path.relpath(found.folder), key=len)
    lines.append(f"Next: visiontool finetune {shlex.quote(str(found.space.data))} --from {shlex.quote(folder)}")
    return [part for line in lines for part in (wrapped(line, break_words=False) if len(line) > 80 else [line])]


def _curve_lines(curve: "LearningCurve") -> list[str]:
    points = zip(curve.pictures, curve.accuracy, strict=True)
    lines = [
        "",
        "Accuracy by training pictures: " + ", ".join(f"{one:.1%} with {count:,}" for count, one in points) + ".",
    ]
    names = {1: "With all", 2: "With twice as many", 4: "With four times as many"}
    for one in curve.forecasts:
        low, high = (100 * each for each in one.interval)
        lines.append(f"{names[one.times]}: about {one.accuracy:.1%} ({low:.1f} to {high:.1f}).")
    now, twice = (one.per_class for one in curve.forecasts[:2])
    gains = sorted(((b - a, label) for label, a, b in zip(curve.labels, now, twice, strict=True)), reverse=True)
    best = [f"{printable(label)} ({100 * gain:+.1f} points)" for gain, label in gains[:3] if gain > _LEAST_GAIN]
    return [*lines, f"Twice as many would help {', '.join(best) or 'no class much'}."]
