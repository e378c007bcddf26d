"""Results as a table for people; the only user of rich, imported only where a table is shown."""

import io
import sys
from typing import IO

from rich.bar import Bar
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from visiontool.classifier import Prediction, Result
from visiontool.cli.text import printable

_MAX_WIDTH = 120
_BAR_WIDTH = 16
_PERCENT_WIDTH = 6
_GAP = 2


class TableWriter:
    """One block a picture when `detailed`, with every class of the answer; else one line a picture, with the best."""

    def __init__(self, stream: IO[bytes], *, detailed: bool) -> None:
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        self._text = io.TextIOWrapper(stream, encoding=encoding, errors="replace")
        self._console = Console(file=self._text, highlight=False)
        self._detailed = detailed

    def write(self, result: Result) -> None:
        path = printable(result.path or "")
        if result.error is not None:
            self._console.print(Text(path), Text("error: " + printable(result.error), style="red"), sep="\n  ")
        elif self._detailed:
            self._write_block(path, result)
        else:
            self._write_line(path, result)
        for note in result.notes:
            self._console.print(Text(f"  ({printable(note)})", style="dim"))
        self._text.flush()

    def close(self) -> None:
        self._text.detach()

    def _write_block(self, path: str, result: Result) -> None:
        self._console.print(
            Text(path, style="bold"), Text("  unknown" if result.unknown else "", style="yellow"), sep=""
        )
        labels = [Text("  " + printable(item.label)) for item in result.predictions]
        width = min(max(map(cell_len, (label.plain for label in labels))), self._width() - 3 * _GAP)
        for label, item in zip(labels, result.predictions, strict=True):
            self._print_columns([(label, width)], item)

    def _write_line(self, path: str, result: Result) -> None:
        best, room = result.predictions[0], self._width()
        label = Text(printable(best.label))
        if result.unknown:
            label = Text(f"unknown: {label.plain}", style="yellow")
        half = room // 2
        self._print_columns([(Text(_ending(path, half)), half), (label, room - half - _GAP)], best)

    def _width(self) -> int:
        """The cells that are left beside bar and percentage."""
        return max(20, min(self._console.width, _MAX_WIDTH) - _BAR_WIDTH - _PERCENT_WIDTH - 2 * _GAP)

    def _print_columns(self, columns: list[tuple[Text, int]], item: Prediction) -> None:
        line = Table.grid(padding=(0, _GAP, 0, 0))
        for _, width in columns:
            line.add_column(width=width, no_wrap=True, overflow="ellipsis")
        line.add_column(width=_BAR_WIDTH)
        line.add_column(width=_PERCENT_WIDTH, justify="right", no_wrap=True)
        bar = Bar(1.0, 0.0, item.probability, width=_BAR_WIDTH)
        line.add_row(*(text for text, _ in columns), bar, Text(f"{item.probability:.1%}"))
        self._console.print(line)


def _ending(path: str, width: int) -> str:
    """`path`, or as much of its end as `width` cells hold: the end tells files apart."""
    if cell_len(path) <= width:
        return path
    while cell_len(path) >= width:
        path = path[1:]
    return f"…{path}"
