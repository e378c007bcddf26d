"""The page of a search, and its plot of accuracy against speed."""

from pathlib import Path

from visiontool.evaluation.benchmark.machine import machine
from visiontool.evaluation.figures import COLORS, legible, page
from visiontool.evaluation.report import render
from visiontool.evaluation.report.content import uri
from visiontool.searching.board import Found
from visiontool.text import plural

PAGE_FILE, PLOT_FILE = "report.html", "pareto.png"
_INCHES = (8.0, 5.0)
_COLUMNS = 110  # of the settings of a trial in a plot
_GRAY = "#999999"


def write(found: Found) -> None:
    """Writes report.html and the plot into the folder of the search."""
    draw_front(found.folder / PLOT_FILE, found)
    render(
        found.folder / PAGE_FILE,
        Path(__file__).parent / "search.html.jinja",
        title=f"Search on {found.space.data.name}",
        found=found,
        plot=uri("png", (found.folder / PLOT_FILE).read_bytes()),
        data={
            "Folder": str(found.space.data),
            "Trials are judged by": plural(len(found.pictures.groups), "picture"),
            "Kept aside": plural(len(found.pictures.aside), "picture"),
        },
        facts={name: str(value) for name, value in machine().items()},
    )


def draw_front(file: Path, found: Found) -> None:
    """Draws the accuracy of each trial against the latency of its backbone, with the Pareto front."""
    from matplotlib.ticker import PercentFormatter

    with page(file, _INCHES) as figure:
        axes = figure.subplots()
        axes.scatter([found.latency_ms(row) for row in found.done], [row.accuracy for row in found.done], color=_GRAY)
        x, y = [found.latency_ms(row) for row in found.front], [row.accuracy for row in found.front]
        axes.plot(x, y, color=_GRAY)
        for number, row in enumerate(found.front):
            text, color = legible(found.text_of(row), _COLUMNS), COLORS[number % len(COLORS)]
            axes.scatter(x[number], y[number], 60, color=color, zorder=3, label=text)
        axes.margins(0.15)
        figure.legend(loc="outside lower left", fontsize=8, frameon=False)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("ms for one picture, on one thread")
        axes.set_ylabel("accuracy on held-out pictures")
        axes.grid(alpha=0.3)
