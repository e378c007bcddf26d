"""How a training goes: history.csv and curves.png, which grow with each epoch."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from visiontool.files import replacing
from visiontool.pytorch.train.recipe import Epoch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HISTORY_FILE, CURVES_FILE = "history.csv", "curves.png"
_PANELS = (("loss", ("loss", "val_loss")), ("quality on val", ("accuracy", "macro_f1")), ("learning rate", ("lr",)))


def write(folder: Path, epochs: Sequence[Epoch]) -> None:
    """Writes the files into the folder of a run, with what is known after the last of the epochs."""
    with replacing(folder / HISTORY_FILE) as unfinished, open(unfinished, "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(Epoch._fields)
        rows.writerows([f"{value:.6g}" for value in one] for one in epochs)
    figure = _figure((12, 3.6))
    for axes, (title, names) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        for name in names:
            values = [getattr(one, name) for one in epochs]
            axes.plot([one.epoch for one in epochs], values, label=name.replace("_", " "), marker=".")
        axes.set(xlabel="epoch", title=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    _save(figure, folder / CURVES_FILE)


def draw_rates(file: Path, tried: Sequence[tuple[float, float]], best: float) -> None:
    """Draws the loss at each learning rate that was tried, and the one to take."""
    figure = _figure((6.4, 4.2))
    axes = figure.subplots()
    axes.plot(*zip(*tried, strict=True))
    axes.axvline(best, linestyle="--", color="gray", label=f"{best:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss in training, smoothed")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, file)


def _figure(size: tuple[float, float]) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: "Figure", file: Path) -> None:
    with replacing(file) as unfinished:
        figure.savefig(unfinished, format="png", dpi=100)
