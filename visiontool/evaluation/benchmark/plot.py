"""Accuracy against speed: a point for each network, as large as its file."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from visiontool.evaluation.benchmark.rows import Row, Subject
from visiontool.evaluation.figures import COLORS, legible, page

_INCHES = (8.0, 6.0)
_COLUMNS = 40  # of a name
_SMALLEST, _LARGEST = 25.0, 900.0  # areas of points, in square points


class Point(NamedTuple):
    """A network in the plot."""

    subject: Subject
    images_per_s: float  # of the network alone, at the best of the batch sizes
    batch_size: int  # that one


def points(rows: Sequence[Row]) -> list[Point]:
    """One for each file that was measured, in the order of the rows."""
    best: dict[Path, Point] = {}
    for row in rows:
        if row.rounds:
            point = Point(row.subject, row.median(lambda round_: round_.network_images_per_s), row.batch_size)
            before = best.get(row.subject.path)
            if before is None or before.images_per_s < point.images_per_s:
                best[row.subject.path] = point
    return list(best.values())


def draw(file: Path, rows: Sequence[Row]) -> None:
    """Writes the plot as a PNG. Networks whose accuracy is not known stand in a list below it.

    Args:
        rows: among them one at least that was measured, and has an accuracy.

    Raises:
        OSError: `file` cannot be written.
    """
    from matplotlib.ticker import LogLocator, PercentFormatter

    drawn = points(rows)
    by_dataset: dict[str, list[tuple[Point, float]]] = {}  # accuracies on two datasets do not compare
    for point in drawn:
        if point.subject.accuracy is not None:
            by_dataset.setdefault(point.subject.accuracy.dataset, []).append((point, point.subject.accuracy.top1))
    largest = max(point.subject.file_bytes for point in drawn)
    with page(file, _INCHES) as figure:
        axes = figure.subplots()
        for number, (dataset, known) in enumerate(by_dataset.items()):
            known.sort(key=lambda found: found[0].images_per_s)
            speeds, accuracies = [point.images_per_s for point, _ in known], [top1 for _, top1 in known]
            areas = [_SMALLEST + (_LARGEST - _SMALLEST) * point.subject.file_bytes / largest for point, _ in known]
            color, label = COLORS[number % len(COLORS)], f"accuracy: {legible(dataset, 2 * _COLUMNS)}"
            axes.scatter(speeds, accuracies, areas, color=color, alpha=0.6, linewidths=0, label=label)
            for place, (point, top1) in enumerate(known):
                side = -1 if place % 2 else 1  # neighbors have their names below and above
                axes.annotate(
                    _name(point),
                    (point.images_per_s, top1),
                    (0, side * (math.sqrt(areas[place] / math.pi) + 3)),
                    textcoords="offset points",
                    ha="center",
                    va="bottom" if side > 0 else "top",
                    fontsize=8,
                )
        for point in drawn:
            if point.subject.accuracy is None:
                speed = f"{point.images_per_s:,.{0 if point.images_per_s >= 100 else 1}f} pictures/s"
                axes.plot([], [], linestyle="", label=f"accuracy not known: {_name(point)}, {speed}")
        axes.set_xscale("log")
        axes.margins(0.2)
        axes.minorticks_off()
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("pictures/s of the network alone, at its best batch size (log scale)")
        axes.set_ylabel("top-1 accuracy")
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower left", fontsize=8, frameon=False)


def _name(point: Point) -> str:
    subject = point.subject
    precision = "" if subject.spec.precision == "fp32" else f" {subject.spec.precision}"
    return f"{legible(subject.name, _COLUMNS)}{precision} ({subject.file_bytes / 1e6:,.1f} MB)"
