"""Where rows go: stdout, or a file that gets its name only once it is complete."""

import contextlib
import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, Protocol, cast, get_args

import click

from visiontool.cli.text import printable, say
from visiontool.errors import UsageError

if TYPE_CHECKING:
    from visiontool.classifier import Result

Format = Literal["table", "json", "jsonl", "csv"]
Writes = Callable[["Result"], None]
FORMATS: tuple[Format, ...] = get_args(Format)


class RowWriter(Protocol):
    """Writes rows to a binary stream; `close` ends the document and leaves the stream open."""

    def write(self, result: "Result") -> None: ...

    def close(self) -> None: ...


class OutputError(click.ClickException):
    """The rows cannot be written: exit code 1."""

    def __init__(self, target: str, error: OSError) -> None:
        super().__init__(printable(f"{target} cannot be written: {error.strerror or error}"))


def choose_format(format_: Format | None, as_json: bool, output: Path | None, *, single: bool) -> Format:
    """The format that the options ask for: `--json`, `--format`, the ending of the file, else what suits stdout.

    Args:
        single: the command names one picture.

    Raises:
        UsageError: options that contradict each other, or an ending that is no format's.
    """
    if as_json and format_ not in (None, "json"):
        raise UsageError(f"--json and --format {format_} contradict each other; leave one out")
    if as_json or format_ is not None:
        return format_ or "json"
    if output is not None and _is_replaceable(output):
        ending = output.suffix.lower().removeprefix(".")
        if ending not in ("json", "jsonl", "csv"):
            raise UsageError(f"-o {output}: its ending is none of .json, .jsonl, .csv; say --format as well")
        return cast(Format, ending)
    if output is None and sys.stdout.isatty():
        return "table"
    return "json" if single else "jsonl"


def check_output(output: Path | None, force: bool) -> None:
    """Checks that `output` may be written, before any work is done.

    Raises:
        UsageError: it exists, or the rows of an interrupted run lie beside it, and `force` is not set.
    """
    if output is None:
        if force:
            raise UsageError("--force is about the file of -o; there is none")
        return
    if force or not _is_replaceable(output):
        return
    if os.path.lexists(output):
        raise UsageError(f"{output} exists already. Give another name, or --force to replace it.")
    if os.path.lexists(_unfinished(output)):
        raise UsageError(
            f"{_unfinished(output)} holds the rows of a run that was interrupted or goes on. "
            "Move it away, give another name, or --force to replace it."
        )


@contextlib.contextmanager
def rows_to(output: Path | None, force: bool, make: Callable[[IO[bytes]], RowWriter]) -> Iterator[Writes]:
    """Opens stdout or `output`, and gives a function that writes a row.

    A file is written as `NAME.partial` and renamed when the block ends; where the block fails, the rows so far stay
    there, and stderr says so. What exists and is no regular file (a device, a pipe) is written as it is.

    Args:
        make: makes the writer of the rows for a binary stream.

    Raises:
        OutputError: writing failed. A closed pipe raises BrokenPipeError instead.
        UsageError: another run began to write the same file since `check_output`.
    """
    if output is None:
        # With PYTHONUNBUFFERED stdout.buffer is raw, and a raw stream may write a part of a row and say nothing.
        raw: object = sys.stdout.buffer
        buffered = io.BufferedWriter(raw) if isinstance(raw, io.RawIOBase) else None
        try:
            with _written(buffered or sys.stdout.buffer, "the output", make) as write:
                yield write
        finally:
            if buffered is not None:
                with contextlib.suppress(OSError):  # told already
                    buffered.detach()  # else its end would close stdout
        return
    if not _is_replaceable(output):
        with _open(output, "wb") as stream, _written(stream, str(output), make) as write:
            yield write
        return
    target = Path(os.path.realpath(output))  # a link stays a link
    unfinished = _unfinished(target)
    with _open(unfinished, "wb" if force else "xb") as stream:
        try:
            with _written(stream, str(output), make) as write:
                yield write
        except BaseException:
            say(f"The rows so far are in {unfinished}.")
            raise
    with _telling(str(output)):
        unfinished.replace(target)


@contextlib.contextmanager
def _written(stream: IO[bytes], name: str, make: Callable[[IO[bytes]], RowWriter]) -> Iterator[Writes]:
    """Writes each row at once, and turns what goes wrong into OutputError."""
    with _telling(name):
        writer = make(stream)

    def write(result: "Result") -> None:
        with _telling(name):
            writer.write(result)
            stream.flush()

    yield write
    with _telling(name):
        writer.close()
        stream.flush()


@contextlib.contextmanager
def _telling(name: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(name, error) from None


def _open(path: Path, mode: str) -> IO[bytes]:
    try:
        return cast(IO[bytes], open(path, mode))
    except FileExistsError:
        raise UsageError(f"{path} is being written by another run. Give another name.") from None
    except OSError as error:
        raise OutputError(str(path), error) from None


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _is_replaceable(path: Path) -> bool:
    """Whether `path` is a regular file or nothing yet, as against a device, a pipe or a terminal."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True
