"""A bar on a terminal for each stage of a long work."""

import contextlib
import os
import sys
from collections.abc import Collection, Mapping
from typing import Any

from visiontool.cli.text import say


class Stages:
    """Shows how far a work is, stage by stage, on stderr. A context.

    Args:
        words: what is shown of each stage that `update` names.
        in_bytes: the stages that count bytes.
        shown: False for no bar; there is none either where stderr is no terminal.
    """

    def __init__(self, words: Mapping[str, str], *, in_bytes: Collection[str] = (), shown: bool = True) -> None:
        self._words = words
        self._in_bytes = in_bytes
        self._shown = shown and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._stage = ""
        self._bar: Any = None

    def __enter__(self) -> "Stages":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def update(self, stage: str, done: int, total: int | None) -> None:
        """Shows that `done` of `total` are done; None where nobody knows how many there are."""
        if not self._shown:
            return
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone; the work goes on
            if stage != self._stage:
                self._begin(stage)
            self._bar.update(0, completed=done, total=total)

    def say(self, text: str) -> None:
        """A line that stays, above what comes."""
        self.end()
        say(text)

    def _begin(self, stage: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self.end()
        self._stage = stage
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn() if stage in self._in_bytes else MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._bar.add_task(self._words[stage], total=None)
        self._bar.start()

    def end(self) -> None:
        """Takes the bar away."""
        bar, self._bar, self._stage = self._bar, None, ""
        if bar is not None:
            with contextlib.suppress(OSError, ValueError):
                bar.stop()
