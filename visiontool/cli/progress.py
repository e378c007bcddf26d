"""What a long work tells on stderr: bars on a terminal, a line at the end; and what Ctrl-C does to it."""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any, Self, TextIO, TypeVar

from visiontool.cli.text import say
from visiontool.text import plural

T = TypeVar("T")

_LOGGER = logging.getLogger("visiontool")
_LOGGER.setLevel(logging.INFO)
_BAR_AFTER_S = 1.0  # what is done sooner needs no bar, and no time to import one


class Stages:
    """A bar on stderr for each stage of a work. A context.

    Args:
        words: what is shown of each stage that `update` names.
        in_bytes: the stages that count bytes.
        shown: False for no bar; there is none either where stderr is no terminal.
        notes: whether what `visiontool` logs meanwhile is shown too.
    """

    def __init__(
        self, words: Mapping[str, str], *, in_bytes: Collection[str] = (), shown: bool = True, notes: bool = True
    ) -> None:
        self._words = words
        self._in_bytes = in_bytes
        self._shown = shown and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"  # cannot write over a line
        self._notes = _Notes(self.say) if shown and notes else logging.NullHandler()
        self._stage: str | None = None
        self._bar: Any = None

    def __enter__(self) -> Self:
        _LOGGER.addHandler(self._notes)
        return self

    def __exit__(self, *_: object) -> None:
        _LOGGER.removeHandler(self._notes)
        self.end()

    def update(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """Shows that `done` of `total` are done; None where nobody knows how many there are."""
        if not self._shown:
            return
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone; the work goes on
            if stage != self._stage:
                self._begin(stage)
            self._bar.update(0, completed=done, total=total, note=note)
            self._bar.start()  # which does nothing the next time

    def say(self, text: str) -> None:
        """A line that stays, above what comes."""
        self.end()
        say(text)

    def end(self) -> None:
        """Takes the bar away."""
        bar, self._bar, self._stage = self._bar, None, None
        if bar is not None:
            with contextlib.suppress(OSError, ValueError):
                bar.stop()

    def _begin(self, stage: str) -> None:
        from rich import progress
        from rich.console import Console

        self.end()
        self._stage = stage
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn() if stage in self._in_bytes else progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[note]}"),
            console=Console(file=sys.stderr),
            transient=True,
            redirect_stdout=False,  # nothing between the program and its streams
            redirect_stderr=False,
        )
        self._bar.add_task(self._words[stage], total=None, note="")


class _Notes(logging.Handler):
    """What is logged, as lines on stderr."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self._say(text[:1].upper() + text[1:])


class Progress:
    """Counts pictures that are done. A context that shows a bar once it lasts: done, time left, rate, failed.

    Args:
        shown: whether to show the bar; the caller knows whether rows go to the same terminal.
        count: gives the number of inputs, or None; called in a thread.
    """

    def __init__(self, *, shown: bool, count: Callable[[], int | None]) -> None:
        from visiontool.data.loader import StageTimes

        self.done = 0
        self.failed = 0
        self.kept = 0
        """Inputs whose rows earlier runs finished; not among the `done`."""
        self.times = StageTimes()
        self._bar = Stages({"": "Predicting"}, shown=shown)
        self._shown = shown
        self._count = count
        self._total: int | None = None
        self._start = time.monotonic()

    def __enter__(self) -> "Progress":
        if self._shown:
            threading.Thread(target=self._count_inputs, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.end()

    def add(self, *, failed: bool = False) -> None:
        """One more is done."""
        self.done += 1
        self.failed += failed
        seconds = time.monotonic() - self._start
        if self._shown and seconds > _BAR_AFTER_S:
            note = f"{self.done / seconds:.1f}/s" + (f"  {self.failed:,} failed" if self.failed else "")
            total = None if self._total is None else max(self.done, self._total - self.kept)
            self._bar.update("", self.done, total, note)

    def summary(self) -> str:
        """One line: how many, how long, how fast, and what took the time."""
        seconds, done, times = time.monotonic() - self._start, self.done, self.times
        text = f"{plural(done, 'picture')} in {seconds:.1f} s"
        text += f" ({done / seconds:.1f}/s)" if done and seconds > 0 else ""
        stages = {"decode": times.decode_s, "preprocess": times.preprocess_s, "network": times.network_s}
        if done and (whole := sum(stages.values())):
            text += ": " + ", ".join(f"{name} {part / whole:.0%}" for name, part in stages.items())
        return f"{text}; {self.kept:,} were done before." if self.kept else f"{text}."

    def _count_inputs(self) -> None:
        self._total = self._count()


class Stop:
    """Ctrl-C once: no more inputs are taken, and what was begun is finished. Twice: an end at once."""

    def __init__(self) -> None:
        self.asked = False
        self._taking = False

    def __enter__(self) -> "Stop":
        self._before = signal.getsignal(signal.SIGINT)
        ignored = self._before in (None, signal.SIG_IGN)
        self._ours = threading.current_thread() is threading.main_thread() and not ignored
        if self._ours:
            signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, self._before)

    def until(self, items: Iterable[T]) -> Iterator[T]:
        """The items, until Ctrl-C; also where the next one is long in coming."""
        iterator = iter(items)
        while True:
            try:
                # Whenever the signal comes, it is seen or its exception comes out in here.
                self._taking = True
                try:
                    if self.asked:
                        return
                    item = next(iterator)
                finally:
                    self._taking = False
            except (StopIteration, KeyboardInterrupt):
                return
            yield item

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        _say_at_once("Stopping once the pictures that were begun are done. Ctrl-C again: at once.")
        if self._taking:
            raise KeyboardInterrupt


@contextlib.contextmanager
def only_ours_on_stderr() -> Iterator[None]:
    """Keeps libraries off stderr, also those in C (libtiff tells of every odd tag): what matters of it, a row says."""
    if "VISIONTOOL_DEBUG" in os.environ:
        yield
        return
    try:
        kept = os.dup(2)
    except OSError:  # stderr is closed
        yield
        return
    before = sys.stderr
    ours = _like(before, kept) if _is_on(before, 2) else None  # else somebody has put it elsewhere
    sys.stderr = ours or before
    logging.lastResort, last_resort = logging.NullHandler(), logging.lastResort  # which writes what nobody handles
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        sys.stderr, logging.lastResort = before, last_resort
        if ours is not None:
            with contextlib.suppress(OSError):  # what cannot be said is no failure of the work
                ours.close()
        os.close(kept)


def _is_on(stream: TextIO, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except (AttributeError, OSError, ValueError):  # None, an object of a test, a closed one
        return False


def _like(stream: TextIO, descriptor: int) -> TextIO:
    """Another stream with the same encoding."""
    with contextlib.suppress(OSError):
        stream.flush()
    return open(descriptor, "w", buffering=1, encoding=stream.encoding, errors=stream.errors, closefd=False)


def _say_at_once(text: str) -> None:
    """A line on stderr, from a signal handler: Python's own streams may be in the middle of a write."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        descriptor = sys.stderr.fileno()
        over = "\r\x1b[K" if os.isatty(descriptor) else ""  # ^C and a bar
        os.write(descriptor, f"{over}{text}\n".encode())
