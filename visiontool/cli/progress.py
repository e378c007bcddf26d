"""What long work shows on stderr: bars on a terminal, what is logged, a line at the end; and what Ctrl-C does to it."""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any, Self, TypeVar

from visiontool.cli.text import say
from visiontool.text import plural

T = TypeVar("T")

_LOGGER = logging.getLogger("visiontool")
_LOGGER.setLevel(logging.INFO)
_BAR_AFTER_S = 1.0  # what is done sooner needs no bar, and no time to import one


class Stages(logging.Handler):
    """A bar on stderr for each stage of a work, where that is a terminal, and what is logged meanwhile. A context."""

    def __init__(
        self, titles: Mapping[str, str], *, in_bytes: Collection[str] = (), enabled: bool = True, log: bool = True
    ) -> None:
        super().__init__()
        self._titles = titles
        self._log = log
        self._in_bytes = in_bytes
        self._is_quiet = not enabled
        self._enabled = enabled and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"  # which rewrites no line
        self._stage: str | None = None
        self._bar: Any = None

    def __enter__(self) -> Self:
        _LOGGER.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        _LOGGER.removeHandler(self)
        self.end()

    def update(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """Shows that `done` of `total` are done; None where nobody knows how many there are."""
        if not self._enabled:
            return
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone; the work goes on
            if stage != self._stage:
                self._begin(stage)
            self._bar.update(0, completed=done, total=total, note=note)
            self._bar.start()  # which does nothing the next time

    def say(self, text: str) -> None:
        """A line that stays, above what comes; nothing where the stages are not enabled."""
        self.end()
        if not self._is_quiet:
            say(text)

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if self._log:
            self.say(text[:1].upper() + text[1:])

    def end(self) -> None:
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
        self._bar.add_task(self._titles[stage], total=None, note="")


class PictureCounter:
    """Counts pictures that are done. A context that shows a bar once it lasts; `count` is called in a thread."""

    def __init__(self, *, enabled: bool, count: Callable[[], int | None]) -> None:
        from visiontool.data.loader import StageTimes

        self.done = 0
        self.failed = 0
        self.resumed = 0  # inputs whose rows earlier runs finished; not among the `done`
        self.times = StageTimes()
        self._stages = Stages({"": "Predicting"}, enabled=enabled)
        self._enabled = enabled
        self._count = count
        self._total: int | None = None
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        def count_inputs() -> None:
            self._total = self._count()

        if self._enabled:
            threading.Thread(target=count_inputs, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stages.end()

    def add(self, *, failed: bool = False) -> None:
        self.done += 1
        self.failed += failed
        seconds = time.monotonic() - self._start
        if self._enabled and seconds > _BAR_AFTER_S:
            note = f"{self.done / seconds:.1f}/s" + (f"  {self.failed:,} failed" if self.failed else "")
            total = None if self._total is None else max(self.done, self._total - self.resumed)
            self._stages.update("", self.done, total, note)

    def summary(self, *, failures_only: bool = False) -> str:
        """One line: how many, how long, how fast, what took the time, and how many failed."""
        failures = f"{self.failed:,} of {self.done + self.resumed:,} inputs failed; their rows say why."
        if failures_only:
            return failures if self.failed else ""
        seconds, done, times = time.monotonic() - self._start, self.done, self.times
        text = f"{plural(done, 'picture')} in {seconds:.1f} s"
        text += f" ({done / seconds:.1f}/s)" if done and seconds > 0 else ""
        stages = {"decode": times.decode_s, "preprocess": times.preprocess_s, "network": times.network_s}
        if done and (whole := sum(stages.values())):
            text += ": " + ", ".join(f"{name} {part / whole:.0%}" for name, part in stages.items())
        text += f"; {self.resumed:,} were done before." if self.resumed else "."
        return f"{text} {failures}" if self.failed else text


class Stop:
    """Ctrl-C once: no more inputs are taken, and what was begun is finished. Twice: an end at once. A context."""

    def __init__(self) -> None:
        self.requested = False
        self._taking = False

    def __enter__(self) -> Self:
        self._before = signal.getsignal(signal.SIGINT)
        if self._before != signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def until(self, items: Iterable[T]) -> Iterator[T]:
        """The items, until Ctrl-C; also where the next one is long in coming."""
        iterator = iter(items)
        while not self.requested:
            self._taking = True
            try:
                item = next(iterator)
            except (StopIteration, KeyboardInterrupt):
                return
            finally:
                self._taking = False
            yield item

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        with contextlib.suppress(OSError, ValueError):  # os.write: Python's own stream may be in the middle of a write
            wipe = "\r\x1b[K" if sys.stderr.isatty() else ""  # ^C and a bar
            text = "Stopping once the pictures that were begun are done. Ctrl-C again: at once."
            os.write(sys.stderr.fileno(), f"{wipe}{text}\n".encode())
        if self._taking:
            raise KeyboardInterrupt


@contextlib.contextmanager
def only_ours_on_stderr() -> Iterator[None]:
    """Keeps libraries off stderr, also those in C (libtiff reports every odd tag): what matters is in the rows."""
    if "VISIONTOOL_DEBUG" in os.environ:
        yield
        return
    stream, last_resort, descriptor = sys.stderr, logging.lastResort, os.dup(2)
    ours = None
    with contextlib.suppress(OSError, ValueError):  # it is no file
        if stream.fileno() == 2:
            stream.flush()
            ours = open(descriptor, "w", 1, encoding=stream.encoding, errors=stream.errors, closefd=False)  # noqa: SIM115
    sys.stderr = ours or stream
    logging.lastResort = logging.NullHandler()  # which else writes what nobody handles
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(descriptor, 2)
        sys.stderr, logging.lastResort = stream, last_resort
        if ours is not None:
            with contextlib.suppress(OSError):
                ours.close()
        os.close(descriptor)
