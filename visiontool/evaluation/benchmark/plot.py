"""Accuracy against speed: a point for each model, as large as its file."""

import math
from collections.abc import Sequence
from pathlib import Path

from visiontool.evaluation.benchmark import Measurement, ModelFile
from visiontool.evaluation.figures import COLORS, legible, page

_INCHES = (8.0, 6.0)
_COLUMNS = 40  # of a name
_SMALLEST, _LARGEST = 25.0, 900.0  # areas of points, in square points


def draw(path: Path, measurements: Sequence[Measurement]) -> None:
    """Writes the plot as a PNG, at least one model with an accuracy on it. Those without are in a list below."""
    from matplotlib.ticker import LogLocator, PercentFormatter

    best: dict[Path, tuple[ModelFile, float]] = {}  # pictures a second of the network alone, at its best batch size
    for measurement in measurements:
        if measurement.rounds:
            file, rate = measurement.file, measurement.median("network_images_per_s")
            best[file.path] = max((file, rate), best.get(file.path, (file, 0.0)), key=lambda item: item[1])
    by_dataset: dict[str, list[tuple[float, float, ModelFile]]] = {}  # accuracies on two datasets do not compare
    for file, rate in best.values():
        if file.accuracy is not None:
            by_dataset.setdefault(file.accuracy.dataset, []).append((rate, file.accuracy.top1, file))
    largest = max(file.file_bytes for file, _ in best.values())
    with page(path, _INCHES) as figure:
        axes = figure.subplots()
        for number, (dataset, points) in enumerate(by_dataset.items()):
            points.sort(key=lambda point: point[0])
            rates, accuracies, files = zip(*points, strict=True)
            areas = [_SMALLEST + (_LARGEST - _SMALLEST) * file.file_bytes / largest for file in files]
            color, label = COLORS[number % len(COLORS)], f"accuracy: {legible(dataset, 2 * _COLUMNS)}"
            axes.scatter(rates, accuracies, areas, color=color, alpha=0.6, linewidths=0, label=label)
            for index, (rate, top1, file) in enumerate(points):
                side = -1 if index % 2 else 1  # neighbors have their names below and above
                axes.annotate(
                    _label(file),
                    (rate, top1),
                    (0, side * (math.sqrt(areas[index] / math.pi) + 3)),
                    textcoords="offset points",
                    ha="center",
                    va="bottom" if side > 0 else "top",
                    fontsize=8,
                )
        for file, rate in best.values():
            if file.accuracy is None:
                speed = f"{rate:,.{0 if rate >= 100 else 1}f} pictures/s"
                axes.plot([], [], linestyle="", label=f"accuracy not known: {_label(file)}, {speed}")
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


def _label(file: ModelFile) -> str:
    precision = "" if file.spec.precision == "fp32" else f" {file.spec.precision}"
    return f"{legible(file.name, _COLUMNS)}{precision} ({file.file_bytes / 1e6:,.1f} MB)"
