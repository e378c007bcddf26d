"""Results as a table for people; the only user of rich, imported only where a table is shown."""

import io
import sys

from rich.bar import Bar
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from visiontool.cli.output.rows import Encoder
from visiontool.cli.text import columns, printable
from visiontool.inference.result import Prediction, Result

_MAX_WIDTH = 120
_MIN_WIDTH_FOR_BARS = 50
_BAR_WIDTH = 16
_PERCENT_WIDTH = 6
_GAP = 2


class TableRows(Encoder):
    """One block a picture when `detailed`, with every class of the answer; else one line a picture, with the best."""

    def __init__(self, *, detailed: bool, on_terminal: bool) -> None:
        super().__init__()
        self._encoding = sys.stdout.encoding if on_terminal else "utf-8"
        # The width: rich itself would take COLUMNS=0.
        self._console = Console(file=io.StringIO(), force_terminal=on_terminal, highlight=False, width=columns())
        self._detailed = detailed
        self._has_bars = self._console.width >= _MIN_WIDTH_FOR_BARS
        taken = _PERCENT_WIDTH + _GAP + (_BAR_WIDTH + _GAP if self._has_bars else 0)
        self._width = max(10, min(self._console.width, _MAX_WIDTH) - taken)  # beside bar and percentage

    def encode(self, result: Result) -> bytes:
        self._console.file = text = io.StringIO()
        path = printable(result.path or "")
        if result.error is not None:
            self._console.print(Text(path), Text("error: " + printable(result.error), style="red"), sep="\n  ")
        elif self._detailed:
            self._print_block(path, result)
        else:
            self._print_line(path, result)
        if result.label_set is not None:
            self._console.print(Text(f"  set: {printable(', '.join(result.label_set)) or 'none'}"))
        for note in result.notes:
            self._console.print(Text(f"  ({printable(note)})", style="dim"))
        return text.getvalue().encode(self._encoding, "replace")

    def _print_block(self, path: str, result: Result) -> None:
        unknown = Text("  unknown" if result.unknown else "" if result.labels != () else "  no label", style="yellow")
        self._console.print(Text(path, style="bold"), unknown, sep="")
        shown = [item for item in result.predictions if result.labels is None or item.label in result.labels]
        labels = [Text("  " + printable(item.label)) for item in shown]
        width = min(max((label.cell_len for label in labels), default=0), self._width - 3 * _GAP)
        for label, item in zip(labels, shown, strict=True):
            self._print_columns([(label, width)], item)

    def _print_line(self, path: str, result: Result) -> None:
        best, half = result.predictions[0], self._width // 2
        label = Text(printable(best.label if result.labels is None else ", ".join(result.labels) or "no label"))
        if result.unknown:
            label = Text(f"unknown: {label.plain}", style="yellow")
        if cell_len(path) > half:  # the end tells files apart
            while cell_len(path) >= half:
                path = path[1:]
            path = f"…{path}"
        self._print_columns([(Text(path), half), (label, self._width - half - _GAP)], best)

    def _print_columns(self, columns: list[tuple[Text, int]], item: Prediction) -> None:
        line = Table.grid(padding=(0, _GAP, 0, 0))
        for _, width in columns:
            line.add_column(width=width, no_wrap=True, overflow="ellipsis")
        cells: list[Text | Bar] = [text for text, _ in columns]
        if self._has_bars:
            line.add_column(width=_BAR_WIDTH)
            cells.append(Bar(1.0, 0.0, item.probability, width=_BAR_WIDTH))
        line.add_column(width=_PERCENT_WIDTH, justify="right", no_wrap=True)
        line.add_row(*cells, Text(f"{item.probability:.1%}"))
        self._console.print(line)
