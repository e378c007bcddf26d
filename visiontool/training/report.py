"""The report of a run: metrics.json, figures of how the head was chosen and which classes it confuses, and a page."""

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from visiontool.data.loader import LoadOptions
from visiontool.data.samples import Dataset
from visiontool.errors import PictureError
from visiontool.evaluation.benchmark.machine import machine
from visiontool.evaluation.evaluate import Evaluation
from visiontool.evaluation.figures import COLORS, DPI, legible, page
from visiontool.evaluation.metrics import Metrics
from visiontool.evaluation.report import write as write_page
from visiontool.files import MODEL_FILE
from visiontool.images import decode
from visiontool.training.embed_dataset import EmbeddedDataset
from visiontool.training.head import Solution
from visiontool.training.run import Run
from visiontool.training.settings import Settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRICS_FILE, PAGE_FILE = "metrics.json", "report.html"
SCHEMA = 1

_BLUE, _ORANGE = COLORS[:2]
_MOST_WITH_COUNTS = 30  # classes
_MOST_WITH_LABELS = 100
_PAIRS_LISTED = 30
_MOST_ON_SHEET = 24
_COLUMNS = 6
# Of the sheet of confused pictures, in pixels.
_THUMBNAIL = 200
_CELL = (260, 260)  # width and height, caption included
_TITLE = 36
_NUMBERS = re.compile(r"\[\n([-+\deE.,\s]+)\]")  # a list of numbers over several lines, such as a row of the confusion


def write(
    folder: Path,
    run: Run,
    settings: Settings,
    data: Dataset,
    embedded: EmbeddedDataset,
    judged: NDArray[np.intp],
    probabilities: NDArray[np.float64],
    options: LoadOptions,
) -> None:
    """Writes metrics.json, the figures and the page, from the probabilities (N, C) of the `judged` pictures.

    Args:
        data: as it was read, what `embedded` leaves out included.
    """
    text = json.dumps(to_json(run), indent=1, allow_nan=False)
    text = _NUMBERS.sub(lambda match: f"[{' '.join(match[1].split())}]", text)
    (folder / METRICS_FILE).write_text(text + "\n", encoding="utf-8")
    draw_confusion(folder / "confusion.png", run.metrics, embedded.data.labels)
    if run.solution.path:
        draw_curves(folder / "curves.png", run.solution)
    predicted = probabilities.argmax(axis=1)
    sure = probabilities[np.arange(len(judged)), predicted]
    wrong = np.flatnonzero(predicted != embedded.class_ids[judged])
    labels = embedded.data.labels
    mistakes = []
    for place in wrong[np.argsort(-sure[wrong], kind="stable")].tolist():
        sample = embedded.data.samples[judged[place]]
        mistakes.append((sample.path, labels[sample.class_id], labels[predicted[place]], float(sure[place])))
    if mistakes:
        draw_confused(folder / "confused.png", mistakes, options.limits)
    readable = {sample.path for sample in embedded.data.samples}
    evaluation = Evaluation(
        run.spec,
        run.folder / MODEL_FILE,
        f"{judge_of(run)} of {data.root.name}",
        tuple(embedded.data.samples[index] for index in judged),
        embedded.class_ids[judged],
        probabilities.astype(np.float32),
        run.metrics,
        {sample.path: "it cannot be read" for sample in data.samples if sample.path not in readable},
    )
    write_run_page(folder, run, settings, data, evaluation, options)


def write_run_page(
    folder: Path, run: Run, settings: Settings, data: Dataset, evaluation: Evaluation, options: LoadOptions
) -> None:
    """Writes report.html, the page that `evaluate --report` gives, with what is known of the training."""
    augment = ", ".join(f"{name} {value:g}" for name, value in asdict(settings.augment).items() if value)
    facts = {**json.loads(settings.to_json()), "augment": augment, "head": run.solution.kind, **machine()}
    counts = {"Splits": run.splits, "Ignored": data.ignored}
    curves = folder / "curves.png"
    write_page(
        folder / PAGE_FILE,
        [evaluation],
        title=f"{run.spec.name}, finetuned on {data.root.name}",
        facts={name: str(value) for name, value in facts.items() if value not in (None, "") and name != "schema"},
        data={
            name: ", ".join(f"{count:,} {kind}" for kind, count in of.items()) or "none" for name, of in counts.items()
        },
        notes=run.solution.notes,
        figures={"How the strength of the penalty was chosen": curves.read_bytes()} if curves.is_file() else {},
        options=options,
    )


def judge_of(run: Run) -> str:
    """What judged a run: "val" or "5 folds"."""
    return "val" if run.folds is None else f"{run.folds} folds"


def to_json(run: Run) -> dict[str, Any]:
    """What metrics.json holds."""
    solution = run.solution
    return {
        "schema": SCHEMA,
        "run": run.spec.name,
        "judged_by": judge_of(run),
        "val": run.metrics.to_json(),
        "pictures": run.splits,
        "backbone_passes": run.passes,
        "head": {
            "kind": solution.kind,
            "balance": solution.balance,
            "all_views": solution.all_views,
            "strength": solution.path[solution.chosen].strength if solution.path else None,
            "temperature": solution.head.temperature,
        },
        "path": [point._asdict() for point in solution.path],
    }


def draw_curves(file: Path, solution: Solution) -> None:
    """Writes a PNG of the regularization path: NLL and accuracy on held-out pictures, with what was chosen."""
    with page(file, (7.0, 6.0), layout=None) as figure:
        strength, nll, nll_error, accuracy = np.array(solution.path, float).T
        margins = {"left": 0.11, "right": 0.98, "bottom": 0.09, "top": 0.94, "hspace": 0.06}
        upper, lower = figure.subplots(2, sharex=True, gridspec_kw=margins)
        upper.plot(strength, nll, "o-", color=_BLUE, label="NLL")
        upper.fill_between(strength, nll - nll_error, nll + nll_error, color=_BLUE, alpha=0.2, label="± standard error")
        upper.set_ylabel("NLL (nats a picture)")
        lower.plot(strength, accuracy, "o-", color=_BLUE, label="accuracy")
        lower.set_ylabel("accuracy")
        lower.set_xlabel("strength of the L2 penalty (log scale)")
        lower.set_xscale("log")
        lower.xaxis.set_major_formatter("{x:g}")  # the usual one would be mathtext
        lower.minorticks_off()  # dozens, which take a third of the time
        chosen = solution.path[solution.chosen]
        upper.set_title(f"Held-out pictures: NLL {chosen.nll:.3f}, accuracy {chosen.accuracy:.3f} as chosen")
        for axes in (upper, lower):
            axes.axvline(chosen.strength, color=_ORANGE, linestyle="--", label=f"chosen: {chosen.strength:.3g}")
            axes.grid(alpha=0.3)
            axes.legend()


def draw_confusion(file: Path, metrics: Metrics, labels: Sequence[str]) -> None:
    """Writes a PNG of the confusion matrix: a row for each true label, colored by share of the row.

    More than 100 labels would not be legible: then the most frequent confusions are listed beside.
    """
    counts = np.asarray(metrics.confusion)
    classes = len(counts)
    if classes <= _MOST_WITH_LABELS:
        side = float(np.clip(0.45 * classes, 4.0, 14.0))
        with page(file, (side + 3.2, side + 2.2)) as figure:
            axes = figure.subplots()
            _draw_matrix(axes, counts, metrics)
            names = [legible(label, 24) for label in labels]
            size = 9 if classes <= _MOST_WITH_COUNTS else 7
            inches = 0.1 * max(map(len, names))
            axes.set_xticks(range(classes), names, fontsize=size, rotation=0 if inches < side / classes else 90)
            axes.set_yticks(range(classes), names, fontsize=size)
            if classes <= _MOST_WITH_COUNTS:
                bright, size = 0.6 * counts.sum(axis=1), 12 if classes <= 10 else 8
                for row, column in np.argwhere(counts):
                    color = "black" if counts[row, column] > bright[row] else "white"
                    text = str(counts[row, column])
                    axes.text(column, row, text, color=color, ha="center", va="center", fontsize=size)
        return
    with page(file, (18.0, 11.0)) as figure:
        axes, beside = figure.subplots(1, 2, width_ratios=(12, 6))
        _draw_matrix(axes, counts, metrics)
        beside.set_axis_off()
        wrong = counts - np.diag(np.diag(counts))
        lines = ["Most frequent confusions (with class ids):"]
        for place in np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS_LISTED].tolist():
            true, predicted = divmod(place, classes)
            if wrong[true, predicted]:
                pair = " as ".join(f"{class_id} {legible(labels[class_id], 24)}" for class_id in (true, predicted))
                lines.append(f"{wrong[true, predicted]} of {counts[true].sum()}: {pair}")
        beside.text(0, 1, "\n".join(lines), transform=beside.transAxes, va="top", linespacing=1.6, in_layout=False)


def draw_confused(
    file: Path, pictures: Sequence[tuple[str, str, str, float]], limits: decode.Limits = decode.DEFAULT_LIMITS
) -> None:
    """Writes a PNG sheet of the first 24 readable pictures: path, true label, predicted label and its probability."""
    opened = []
    for path, truth, predicted, probability in pictures:
        with contextlib.suppress(PictureError):
            image = decode.open_image(path, resize_to=_THUMBNAIL, limits=limits).image
            square = ImageOps.pad(image, (_THUMBNAIL, _THUMBNAIL), color="white")
            opened.append((square, truth, predicted, probability))
        if len(opened) == _MOST_ON_SHEET:
            break
    columns = min(len(opened), _COLUMNS) or 1
    rows = -(-len(opened) // columns) or 1
    width, height = max(columns, 2) * _CELL[0], rows * _CELL[1] + _TITLE
    sheet = Image.new("RGB", (width, height), "white")
    with page(file, (width / DPI, height / DPI), layout=None) as figure:
        title = "The most confused pictures" if opened else "No confused pictures."
        figure.text(0.5, 1 - 8 / height, title, ha="center", va="top", fontsize=12)
        for place, (square, truth, predicted, probability) in enumerate(opened):
            row, column = divmod(place, columns)
            center, top = (2 * column + 1) * _CELL[0] // 2, _TITLE + row * _CELL[1]
            sheet.paste(square, (center - _THUMBNAIL // 2, top))
            labels = f"true: {legible(truth, 17)}\npredicted: {legible(predicted, 17)}"
            text = f"{labels}\nprobability {probability:.2f}"
            below = 1 - (top + _THUMBNAIL + 4) / height
            figure.text(center / width, below, text, ha="center", va="top", fontsize=8)
        figure.figimage(np.asarray(sheet))  # all at once: an axes for each takes 30 ms


def _draw_matrix(axes: "Axes", counts: NDArray[np.integer[Any]], metrics: Metrics) -> None:
    from matplotlib.colors import PowerNorm

    totals = counts.sum(axis=1, keepdims=True)
    shares = np.ma.masked_invalid(counts / np.where(totals, totals, np.nan))  # a label without pictures stays blank
    # The square root of the share where there are no counts to read: a few pictures can then be told from none.
    norm = PowerNorm(1.0 if len(counts) <= _MOST_WITH_COUNTS else 0.5, vmin=0, vmax=1)
    matrix = axes.imshow(shares, cmap="viridis", norm=norm, interpolation="nearest")
    axes.figure.colorbar(matrix, ax=axes, shrink=0.8, label="share of the true label's pictures")
    low, high = metrics.interval
    accuracy = f"accuracy {metrics.accuracy:.3f} (95 % interval {low:.3f} to {high:.3f})"
    axes.set_title(f"{metrics.pictures:,} pictures\n{accuracy}")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
