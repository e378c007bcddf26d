"""Accuracy against speed: a point for each network, as large as its file."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from visiontool.benchmark.rows import Row, Subject
from visiontool.drawing import COLORS, DPI, legible, page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import BboxBase

_INCHES = (8.0, 6.0)
_COLUMNS = 40  # of a name
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))  # of a point, where its name may stand
_FARTHEST = 96  # points between the two
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
    drawn = points(rows)
    known = [point for point in drawn if point.subject.accuracy is not None]
    with page(file, _INCHES) as figure:
        axes = figure.subplots()
        axes.set_xlabel("pictures/s of the network alone, at its best batch size (log scale)")
        axes.set_ylabel("top-1 accuracy")
        areas = _scatter(axes, known)
        _scale(axes, known)
        axes.grid(alpha=0.3)
        others = [f"accuracy not known: {_name(point)}, {_speed(point)}" for point in drawn if point not in known]
        for text in others:
            axes.plot([], [], linestyle="", label=text)
        legend = figure.legend(loc="outside lower left", fontsize=8, frameon=False)
        for handle in legend.legend_handles[: len(legend.legend_handles) - len(others)]:
            handle.set_sizes([40])  # type: ignore[union-attr]
        _write_names(figure, axes, known, areas)


def _name(point: Point) -> str:
    subject = point.subject
    precision = "" if subject.spec.precision == "fp32" else f" {subject.spec.precision}"
    return f"{legible(subject.name, _COLUMNS)}{precision} ({subject.file_bytes / 1e6:,.1f} MB)"


def _speed(point: Point) -> str:
    speed = point.images_per_s
    return f"{speed:,.0f} pictures/s" if speed >= 100 else f"{speed:.3g} pictures/s"


def _scale(axes: "Axes", known: Sequence[Point]) -> None:
    """Axes with room for names around the points, and numbers that a person would write."""
    from matplotlib.ticker import LogLocator

    speeds = [point.images_per_s for point in known]
    axes.set_xscale("log")
    axes.set_xlim(min(speeds) / 3, max(speeds) * 5)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(speeds) < 100 * min(speeds) else (1,)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axes.minorticks_off()
    axes.margins(y=0.25)
    axes.set_ylim(top=min(axes.get_ylim()[1], 1.02))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}" if 0 <= value < 1.001 else "")


def _scatter(axes: "Axes", known: Sequence[Point]) -> list[float]:
    """Draws the points, a color for each dataset: accuracies on two of them do not compare. Gives their areas."""
    largest = max(point.subject.file_bytes for point in known)
    areas = [_SMALLEST + (_LARGEST - _SMALLEST) * point.subject.file_bytes / largest for point in known]
    by_dataset: dict[str, list[tuple[float, float, float]]] = {}
    for point, area in zip(known, areas, strict=True):
        assert point.subject.accuracy is not None
        top1, dataset = point.subject.accuracy
        by_dataset.setdefault(dataset, []).append((point.images_per_s, top1, area))
    for number, (dataset, drawn) in enumerate(by_dataset.items()):
        speeds, accuracies, sizes = zip(*drawn, strict=True)
        color, label = COLORS[number % len(COLORS)], f"accuracy: {legible(dataset, 2 * _COLUMNS)}"
        axes.scatter(speeds, accuracies, sizes, color=color, alpha=0.6, linewidths=0, label=label)
    return areas


def _write_names(figure: "Figure", axes: "Axes", known: Sequence[Point], areas: Sequence[float]) -> None:
    """Writes a name beside each point, as near as it is in nobody's way."""
    from matplotlib.text import Text

    figure.draw_without_rendering()  # lays everything out
    taken = [_box(axes, point, area) for point, area in zip(known, areas, strict=True)]
    for point, area in zip(known, areas, strict=True):
        for farther, (x, y) in itertools.product(range(0, _FARTHEST + 1, 12), _SIDES):
            away = _radius(area) + 3 + farther
            assert point.subject.accuracy is not None
            text = axes.annotate(
                _name(point),
                (point.images_per_s, point.subject.accuracy.top1),
                (away * x, away * y),
                textcoords="offset points",
                ha={-1: "right", 0: "center", 1: "left"}[x],
                va={-1: "top", 0: "center", 1: "bottom"}[y],
                fontsize=8,
                arrowprops={"arrowstyle": "-", "linewidth": 0.5} if farther else None,
            )
            text.get_window_extent()  # puts it where it will be
            box = Text.get_window_extent(text)  # without the line to the point
            if not box.count_overlaps(taken) and axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max):
                taken.append(box)
                break
            if (farther, x, y) != (_FARTHEST, -1, -1):  # the last resort stays
                text.remove()


def _radius(area: float) -> float:
    """In points."""
    return math.sqrt(area / math.pi)


def _box(axes: "Axes", point: Point, area: float) -> "BboxBase":
    """What a point covers, in pixels."""
    from matplotlib.transforms import Bbox

    assert point.subject.accuracy is not None
    x, y = axes.transData.transform((point.images_per_s, point.subject.accuracy.top1))
    radius = _radius(area) * DPI / 72
    return Bbox.from_extents(x - radius, y - radius, x + radius, y + radius)
