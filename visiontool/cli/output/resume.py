"""The file of `-o`: its rows are in FILE.partial until all are there, so an interrupted run can be resumed.

A run that resumes FILE.partial, or FILE where there is none, keeps the rows that are ok and appends what is missing.
For Parquet, which cannot be written row by row, FILE.partial has JSON lines.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from visiontool.cli.output.rows import Encoder, FinishedRow, write_parquet
from visiontool.cli.output.target import RESUMABLE, Format, Rows, partial_of, reporting_errors
from visiontool.cli.text import say
from visiontool.errors import DataError, UsageError
from visiontool.files import replacing


class Finished:
    """The class in each row that is kept, -1 where it is unknown, by the hash of its path: 12 bytes a row.

    Two of a million paths have the same hash with a chance of one in 37 million.
    """

    def __init__(self, rows: Iterable[FinishedRow]) -> None:
        pairs = ((hash(row.path), row.class_id) for row in rows)
        table = np.fromiter(pairs, np.dtype([("hash", np.int64), ("class_id", np.int32)]))
        order = np.argsort(table["hash"])
        self._hashes, self._classes = table["hash"][order], table["class_id"][order]

    def __len__(self) -> int:
        return len(self._hashes)

    def class_of(self, path: str) -> int | None:
        """The class in the row of `path`; None where there is no such row."""
        index = int(self._hashes.searchsorted(hash(path)))
        return int(self._classes[index]) if index < len(self) and self._hashes[index] == hash(path) else None


@contextlib.contextmanager
def row_file(target: Path, encoder: Encoder, format_: Format, *, resume: bool) -> Iterator[Rows]:
    """Rows on their way into `target`. Where the block fails, the rows so far stay beside it, and stderr says so.

    Raises:
        UsageError, DataError: the rows to resume were made with another model or other options, or are none.
    """
    partial = partial_of(target)
    with reporting_errors(str(target)):
        finished, size = _resumed(target, encoder) if resume else (None, 0)
        stream = open(partial, "ab" if size else "wb", buffering=0)  # noqa: SIM115
        _take_mode(partial, target)
    rows = Rows(stream, str(target), encoder, finished, size)
    try:
        with stream, rows.framed():
            yield rows
        with reporting_errors(str(target)):  # outside: Windows renames nothing that is open
            if format_ == "parquet":
                with replacing(target, target.with_name(f".{target.name}.visiontool-new")) as unfinished:
                    write_parquet(partial, unfinished)
                partial.unlink()
            else:
                partial.replace(target)
    except BaseException:
        if rows.size > len(encoder.header):
            with contextlib.suppress(OSError):
                os.truncate(partial, rows.size)  # a torn row
            say(f"The rows so far are in {partial}.{' Continue with --resume.' if format_ in RESUMABLE else ''}")
        else:
            partial.unlink(missing_ok=True)
        raise


def _resumed(target: Path, encoder: Encoder) -> tuple[Finished, int]:
    """Makes FILE.partial one that has the rows that are ok, to append to; gives these and its size."""
    partial = partial_of(target)
    source = partial if partial.exists() else target
    if not source.exists():
        return Finished(()), 0
    with replacing(partial) as unfinished, open(unfinished, "wb") as file:
        _take_mode(unfinished, source)
        file.write(encoder.header)

        def ok_rows() -> Iterator[FinishedRow]:
            for row, line in _read(source, encoder):
                if row.class_id is not None:
                    file.write(line)
                    yield row

        finished = Finished(ok_rows())
    return finished, partial.stat().st_size


def _read(path: Path, encoder: Encoder) -> Iterator[tuple[FinishedRow, bytes]]:
    """The rows in a file, but for a last one that is torn."""
    with open(path, "rb") as file:
        header = file.read(len(encoder.header))
        if header != encoder.header[: len(header)]:
            raise _other_settings(path)
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            place = f"{path}: line {number}"
            try:
                row = encoder.decode(line)
            except Exception:  # a row of anything
                raise DataError(f"{place} is no row of visiontool.\nRepair it, or start again with --force.") from None
            if row.digest != encoder.digest:
                raise _other_settings(place)
            yield row, line


def _other_settings(place: object) -> UsageError:
    return UsageError(
        f"{place} was made with another model or other options (-k, --min-probability, --crop-mode ...).\n"
        "Give those, or another name, or --force to start again."
    )


def _take_mode(path: Path, like: Path) -> None:
    """Lets nobody read the rows who may not read `like`."""
    with contextlib.suppress(OSError):  # it is not there, or the file system has no modes
        shutil.copymode(like, path)
