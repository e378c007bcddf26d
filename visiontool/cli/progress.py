"""What a long run tells on stderr: a bar on a terminal, a line at the end; and what Ctrl-C does to it."""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from types import FrameType, TracebackType
from typing import Any, TextIO, TypeVar

from visiontool.pipeline import StageTimes

T = TypeVar("T")

_BAR_AFTER_S = 1.0  # what is done sooner needs no bar, and no time to import one
_UPDATE_S = 0.1


class Progress:
    """Counts what is done. A context that shows a bar: done, rate, time left, errors so far.

    Args:
        shown: whether to show the bar; the caller knows whether rows go to the same terminal.
        count: gives the number of inputs, or None; called in a thread.
    """

    def __init__(self, *, shown: bool, count: Callable[[], int | None]) -> None:
        self.done = 0
        self.failed = 0
        self.kept = 0
        self.times = StageTimes()
        self._shown = shown and os.environ.get("TERM") != "dumb"  # cannot write over a line
        self._count = count
        self._total: int | None = None
        self._start = time.monotonic()
        self._next_bar = self._start + _BAR_AFTER_S
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if self._shown:
            threading.Thread(target=self._count_inputs, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):  # the terminal is gone
                self._bar.stop()

    @property
    def fresh(self) -> int:
        """How many this run did itself."""
        return self.done - self.kept

    def add(self, *, failed: bool = False, kept: bool = False) -> None:
        """One more is done."""
        self.done += 1
        self.failed += failed
        self.kept += kept
        now = time.monotonic()
        if self._shown and now > self._next_bar:
            self._next_bar = now + _UPDATE_S
            with contextlib.suppress(OSError, ValueError):  # what cannot be shown is no failure of the work
                self._show(now)

    def summary(self) -> str:
        """One line: how many, how long, how fast, and what took the time."""
        seconds, fresh = time.monotonic() - self._start, self.fresh
        text = f"{fresh:,} {'picture' if fresh == 1 else 'pictures'} in {seconds:.1f} s"
        text += f" ({fresh / seconds:.1f}/s)" if fresh and seconds > 0 else ""
        times = self.times
        stages = {"decode": times.decode_s, "preprocess": times.preprocess_s, "network": times.network_s}
        if fresh and (whole := sum(stages.values())):
            text += ": " + ", ".join(f"{name} {part / whole:.0%}" for name, part in stages.items())
        return f"{text}; {self.kept:,} were done before." if self.kept else f"{text}."

    def _count_inputs(self) -> None:
        self._total = self._count()

    def _show(self, now: float) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar
        from rich.table import Column

        if self._bar is None:
            # No thread of its own, and nothing between the program and its streams.
            self._bar = Bar(
                BarColumn(bar_width=None),
                TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="crop")),
                console=Console(file=sys.stderr),
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._bar.add_task("")
            self._bar.start()
        self._bar.update(0, description=self._line(now), completed=self.done, total=self._total, refresh=True)

    def _line(self, now: float) -> str:
        total, rate = self._total, self.fresh / (now - self._start)
        text = f"{self.done:,}" if total is None else f"{self.done:,}/{total:,}"
        text += f"  {rate:.1f}/s"
        if total is not None and rate:
            text += f"  {timedelta(seconds=round(max(0, total - self.done) / rate))} left"
        return text + (f"  {self.failed:,} failed" if self.failed else "")


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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
