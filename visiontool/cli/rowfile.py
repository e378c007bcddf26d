"""The file of `-o` whose rows outlive the run: it can be killed at any moment, and another run goes on with it.

    FILE                       complete; replaced only when the next one is
    FILE.partial               the rows of the run that goes on, in the order of its inputs; locked by it
    .FILE.visiontool-before    what earlier runs had finished when it began; while it is there, FILE is not looked at

A run that goes on copies the finished rows out of the latter whenever their input has its turn, so FILE.partial is in
order at every moment. Rows without an input keep their place among the others. Parquet cannot be written row by row:
such a file has JSON lines until it is complete.
"""

import contextlib
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from visiontool.cli import parquet
from visiontool.cli.output import FinishedRow, beside, open_alone, telling
from visiontool.cli.rows import Lines
from visiontool.cli.text import say
from visiontool.errors import DataError, UsageError
from visiontool.seen import Seen

if TYPE_CHECKING:
    from visiontool.result import Result

_LONGEST_LINE = 2**26
_SYNC_S = 5.0  # what a run writes is on the disk itself after so long, also when the power fails


class RowFile:
    """Rows on their way into a file. Entering takes the file into possession, with `resume` after reading what earlier
    runs finished; leaving by an exception keeps what there is for another run.

    Entering raises:
        UsageError: another run is writing it, or what is there was made with another model or other options.
        DataError: what is there are no rows.
        OutputError: it cannot be written.
    """

    def __init__(self, target: Path, lines: Lines, *, force: bool = False, resume: bool = False) -> None:
        self.target = Path(os.path.realpath(target))  # a link stays a link
        self._lines = lines
        self._force = force
        self._resume = resume
        self._partial = beside(self.target, "partial")
        self._before = _hidden_beside(self.target, "before")
        self.failed = 0
        self._finished = Seen()
        self._rest: Iterator[tuple[FinishedRow, bytes]] = iter(())
        self._early = Seen()  # those whose rows were written before their input came
        self._descriptor = -1
        self._size = 0
        self._synced = time.monotonic()

    def __enter__(self) -> "RowFile":
        with telling(str(self.target)):
            self._descriptor, is_new = open_alone(self._partial, fresh=not (self._force or self._resume))
            try:
                self._take_mode(self._descriptor)
                for ending in ("gathering", "converting"):  # of a run that was killed
                    _hidden_beside(self.target, ending).unlink(missing_ok=True)
                if self._resume:
                    self._gather()
                else:
                    self._before.unlink(missing_ok=True)
                if self._force and self.target.exists():
                    # A run that goes on with this one leaves FILE alone.
                    os.close(os.open(self._before, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
                os.ftruncate(self._descriptor, 0)
                self._append(self._lines.header)
            except BaseException:
                if is_new:
                    self._partial.unlink()
                os.close(self._descriptor)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                self._leave()
                return
            try:
                with telling(str(self.target)):
                    self._complete()
            except BaseException:
                self._leave()
                raise
        finally:
            os.close(self._descriptor)

    @property
    def finished(self) -> int:
        """How many rows earlier runs finished."""
        return len(self._finished)

    def has(self, path: str) -> bool:
        """Whether an earlier run finished the row of `path`: then `keep` it."""
        return os.fsencode(path) in self._finished

    def write(self, result: "Result") -> None:
        """Writes a row. Once this returns, only the end of the machine can undo it.

        Raises:
            OutputError: it cannot be written; the rows before it are there.
        """
        with telling(str(self.target)):
            self._append(self._lines.encode(result))

    def keep(self, path: str) -> FinishedRow:
        """Writes the finished row of `path`, and those before it that have no input. Gives what it says."""
        if os.fsencode(path) in self._early:  # its row stands further up
            return next(row for row, _ in self._read(self._before) if row.path == path)
        for row in self._copied():
            if row.path == path:
                return row
            self._early.add(os.fsencode(row.path))
        raise DataError(f"{self._before} was changed while it was read")

    def _copied(self) -> Iterator[FinishedRow]:
        for row, line in self._rest:
            with telling(str(self.target)):
                self._append(line)
            yield row

    def _append(self, line: bytes) -> None:
        try:
            left = memoryview(line)
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            with contextlib.suppress(OSError):  # else the row would stay torn
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(line)
        if time.monotonic() - self._synced > _SYNC_S:
            os.fsync(self._descriptor)
            self._synced = time.monotonic()

    def _gather(self) -> None:
        """Writes all rows that are finished into `_before`, once each.

        A row that failed is done again, but for one whose picture is no longer there, as after `--mode move`.
        """
        gathered = _hidden_beside(self.target, "gathering")
        try:
            with open(gathered, "wb") as file:
                self._take_mode(file.fileno())
                file.write(self._lines.header)
                for row, line in self._earlier_rows():
                    if (row.ok or not os.path.lexists(row.path)) and self._finished.add(os.fsencode(row.path)):
                        self.failed += not row.ok
                        file.write(line)
                file.flush()
                os.fsync(file.fileno())
            gathered.replace(self._before)
        except BaseException:
            gathered.unlink(missing_ok=True)
            raise
        self._rest = self._read(self._before)

    def _earlier_rows(self) -> Iterator[tuple[FinishedRow, bytes]]:
        """What earlier runs wrote: the last of them, then those before it."""
        count = 0
        for row_and_line in self._read(self._partial):
            count += 1
            yield row_and_line
        if self._before.exists():
            yield from self._read(self._before)
        elif self.target.exists():
            try:
                yield from self._read_target()
            except UsageError:  # rows of another kind that the interrupted run was to replace
                if not count:
                    raise

    def _read_target(self) -> Iterator[tuple[FinishedRow, bytes]]:
        if not self._lines.is_parquet:
            return self._read(self.target)
        lines = parquet.read_lines(self.target)
        return ((self._checked(line, f"{self.target}: row {number}"), line) for number, line in enumerate(lines, 1))

    def _read(self, path: Path) -> Iterator[tuple[FinishedRow, bytes]]:
        """The rows in a file of lines, but for a last one that is torn."""
        with open(path, "rb") as file:
            header = file.read(len(self._lines.header))
            if header != self._lines.header and len(header) == len(self._lines.header):
                raise self._other(path)
            number, line = 1, file.readline(_LONGEST_LINE)
            while line.endswith(b"\n"):
                yield self._checked(line, f"{path}: line {number}"), line
                number, line = number + 1, file.readline(_LONGEST_LINE)

    def _checked(self, line: bytes, place: str) -> FinishedRow:
        try:
            row = self._lines.decode(line)
        except Exception:  # a row of anything
            raise DataError(f"{place} is no row of visiontool.\nRepair it, or start again with --force.") from None
        if row.run != self._lines.run:
            raise self._other(place)
        return row

    def _other(self, place: object) -> UsageError:
        return UsageError(
            f"{place} was made with another model or other options (-k, --min-probability, --crop-mode ...).\n"
            "Give those, or another name, or --force to start again."
        )

    def _complete(self) -> None:
        for _ in self._copied():
            pass
        os.fsync(self._descriptor)
        complete = self._converted() if self._lines.is_parquet else self._partial
        # Before FILE is replaced: else a kill between the two would leave it beside a FILE that it is not of.
        self._before.unlink(missing_ok=True)
        if sys.platform == "win32":  # refuses to rename what is open
            os.close(self._descriptor)
            self._descriptor = os.open(os.devnull, os.O_RDONLY)
        complete.replace(self.target)
        _sync_folder(self.target.parent)
        if self._lines.is_parquet:
            self._partial.unlink()

    def _converted(self) -> Path:
        converted = _hidden_beside(self.target, "converting")
        try:
            with open(self._partial, "rb") as file:
                parquet.write(file, converted)
            with open(converted, "rb+") as file:
                self._take_mode(file.fileno())
                os.fsync(file.fileno())
        except BaseException:
            converted.unlink(missing_ok=True)
            raise
        return converted

    def _take_mode(self, descriptor: int) -> None:
        """Lets nobody read the rows who may not read FILE."""
        if self.target.exists() and hasattr(os, "fchmod"):
            with contextlib.suppress(PermissionError):  # it belongs to somebody else
                os.fchmod(descriptor, stat.S_IMODE(self.target.stat().st_mode))

    def _leave(self) -> None:
        if self._size > len(self._lines.header) or self._finished:
            place = f"{self._partial}{' and beside it' if self._finished else ''}"
            say(f"The rows so far are in {place}. Go on with --resume{' instead of --force' if self._force else ''}.")
        else:
            self._partial.unlink(missing_ok=True)
            self._before.unlink(missing_ok=True)


def _hidden_beside(target: Path, ending: str) -> Path:
    return target.with_name(f".{target.name}.visiontool-{ending}")


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # Windows; some file systems
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
