"""Where rows go: stdout, a device, or a file that gets its name only once it is complete."""

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, Self, cast, get_args

import click

from visiontool.cli.text import printable
from visiontool.errors import UsageError, missing_extra

if TYPE_CHECKING:
    from visiontool.cli.output.resume import Finished
    from visiontool.cli.output.rows import Encoder
    from visiontool.inference.result import Result

Format = Literal["table", "json", "jsonl", "csv", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
RESUMABLE = ("jsonl", "csv")
_ENDINGS = ("json", "jsonl", "csv", "parquet")


@contextlib.contextmanager
def reporting_errors(target: str) -> Iterator[None]:
    """Turns an OSError into a ClickException (exit code 1) about its file or `target`, but for a closed pipe."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        message = f"{error.filename or target} cannot be written: {error.strerror or error}"
        raise click.ClickException(printable(message)) from None


def choose_format(format_: Format | None, as_json: bool, output: Path | None, *, single: bool) -> Format:
    """The format of the options or of the file's ending, else what suits stdout; `single` is for one picture."""
    if as_json and format_ not in (None, "json"):
        raise UsageError(f"--json and --format {format_} contradict each other; leave one out")
    if as_json or format_ is not None:
        return format_ or "json"
    if output is not None and is_file(output):
        ending = output.suffix.lower().removeprefix(".")
        if ending not in _ENDINGS:
            raise UsageError(f"-o {output}: its ending is none of .{', .'.join(_ENDINGS)}; say --format as well")
        return cast(Format, ending)
    if output is None and sys.stdout.isatty():
        return "table"
    return "json" if single else "jsonl"


def check_output(output: Path | None, format_: Format, *, force: bool, resume: bool) -> None:
    """Raises UsageError where rows of the format may not or cannot be written to `output`, before any work is done."""
    in_file = output is not None and is_file(output)
    if resume and force:
        raise UsageError("--resume keeps the rows of FILE and --force drops them; leave one out")
    if resume and not (in_file and format_ in RESUMABLE):
        raise UsageError("--resume goes on with a file that has a row a line: give -o FILE.jsonl or -o FILE.csv")
    if format_ == "parquet" and not in_file:
        raise UsageError("Parquet is written into a file only: give -o FILE.parquet")
    if format_ == "parquet" and find_spec("pyarrow") is None:
        raise UsageError(missing_extra("parquet", "Writing Parquet"))
    if output is None and force:
        raise UsageError("--force is about the file of -o; there is none")
    if output is None or not in_file:
        return
    if not os.path.isdir(os.path.dirname(os.path.realpath(output))):
        raise UsageError(f"-o {output}: the folder is not there; make it first")
    if force or resume:
        return
    go_on = "--resume to go on with it" if format_ in RESUMABLE else "another name"
    for path in (output, partial_of(output)):
        if os.path.lexists(path):
            state = "exists already" if path == output else "holds the rows of a run that was interrupted or goes on"
            raise UsageError(f"{path} {state}. Give {go_on}, or --force to replace it.")


class Rows:
    """Takes results, and writes the row of each at once; raises ClickException, or BrokenPipeError for a closed pipe.

    Attributes:
        finished: the rows that earlier runs wrote; None where none are resumed.
        size: the bytes of the rows that are whole, with what comes before them.
    """

    def __init__(
        self, stream: IO[bytes], target: str, encoder: "Encoder", finished: "Finished | None" = None, size: int = 0
    ) -> None:
        self._stream = stream
        self._target = target
        self._encoder = encoder
        self.finished = finished
        self.size = size

    @contextlib.contextmanager
    def framed(self) -> Iterator[Self]:
        """Writes what comes before the rows, and at the end of the block what comes after them."""
        if not self.size:
            self._append(self._encoder.header)
        yield self
        self._append(self._encoder.footer)

    def write(self, result: "Result") -> None:
        self._append(self._encoder.encode(result))

    def _append(self, data: bytes) -> None:
        with reporting_errors(self._target):
            left = memoryview(data)
            while left:  # a raw stream may write a part of it only; so is stdout with PYTHONUNBUFFERED
                left = left[self._stream.write(left) :]
            self._stream.flush()
        self.size += len(data)


@contextlib.contextmanager
def rows_to(output: Path | None, encoder: "Encoder", format_: Format, *, resume: bool) -> Iterator[Rows]:
    """Opens stdout or `output` for rows. What exists and is no regular file (a device, a pipe) is written as it is."""
    if output is not None and is_file(output):
        from visiontool.cli.output.resume import row_file

        with row_file(Path(os.path.realpath(output)), encoder, format_, resume=resume) as rows:  # a link stays one
            yield rows
        return
    with contextlib.ExitStack() as stack:
        stream: IO[bytes] = sys.stdout.buffer
        if output is not None:
            with reporting_errors(str(output)):
                stream = stack.enter_context(open(output, "wb"))
        yield stack.enter_context(Rows(stream, str(output or "the output"), encoder).framed())


def partial_of(output: Path) -> Path:
    """Where the rows of `output` are until it is complete."""
    target = Path(os.path.realpath(output))  # a link stays a link
    return target.with_name(f"{target.name}.partial")


def is_file(path: Path) -> bool:
    """Whether `path` is a regular file or nothing yet, as against a device, a pipe or a terminal."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True
