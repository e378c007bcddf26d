"""Where rows go: stdout, or a file that gets its name only once it is complete."""

import contextlib
import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, NamedTuple, Protocol, cast, get_args

import click

from visiontool.cli.text import printable, say
from visiontool.errors import UsageError, missing_extra

if TYPE_CHECKING:
    from visiontool.result import Result

Format = Literal["table", "json", "jsonl", "csv", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
_ENDINGS = ("json", "jsonl", "csv", "parquet")
_RESUMABLE = ("jsonl", "csv", "parquet")


class FinishedRow(NamedTuple):
    """What a row that was read back says."""

    path: str
    ok: bool
    run: str | None
    """What it was made with, `Lines.run` of then."""
    class_id: int | None
    """The best class; None where there was an error."""
    unknown: bool


class Rows(Protocol):
    """Where results go."""

    @property
    def finished(self) -> int:
        """How many rows earlier runs finished."""
        ...

    @property
    def failed(self) -> int:
        """How many of these say why there is no answer, and cannot be done again."""
        ...

    def has(self, path: str) -> bool:
        """Whether an earlier run finished the row of `path`: then `keep` it."""
        ...

    def keep(self, path: str) -> FinishedRow:
        """Writes the finished row of `path`, and those before it that have no input. Gives what it says."""
        ...

    def write(self, result: "Result") -> None:
        """Writes a row."""
        ...


class RowWriter(Protocol):
    """Writes rows to a binary stream; `close` ends the document and leaves the stream open."""

    def write(self, result: "Result") -> None: ...

    def close(self) -> None: ...


class OutputError(click.ClickException):
    """The rows cannot be written: exit code 1."""

    def __init__(self, target: str, error: OSError) -> None:
        target = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else target
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
        if ending not in _ENDINGS:
            raise UsageError(f"-o {output}: its ending is none of .{', .'.join(_ENDINGS)}; say --format as well")
        return cast(Format, ending)
    if output is None and sys.stdout.isatty():
        return "table"
    return "json" if single else "jsonl"


def is_resumable(format_: Format, output: Path | None) -> bool:
    """Whether the rows go into a file that another run can go on with (`rowfile`).

    Raises:
        UsageError: the format needs such a file and `output` is none, or a package that is not installed.
    """
    in_file = output is not None and _is_replaceable(output)
    if format_ == "parquet" and not in_file:
        raise UsageError("Parquet is written into a file only: give -o FILE.parquet")
    if format_ == "parquet" and find_spec("pyarrow") is None:
        raise UsageError(missing_extra("parquet", "Writing Parquet"))
    return in_file and format_ in _RESUMABLE


def check_output(output: Path | None, *, force: bool, resume: bool, resumable: bool) -> None:
    """Checks that `output` may be written, before any work is done.

    Raises:
        UsageError: it exists, or the rows of an interrupted run lie beside it, and neither `force` nor `resume` is
            set; or they cannot be meant.
    """
    if resume and force:
        raise UsageError("--resume keeps the rows of FILE and --force drops them; leave one out")
    if resume and not resumable:
        raise UsageError(
            "--resume goes on with the file of -o, in one of the formats jsonl, csv, parquet; there is none"
        )
    if output is None:
        if force:
            raise UsageError("--force is about the file of -o; there is none")
        return
    if not _is_replaceable(output):
        return
    if not os.path.isdir(os.path.dirname(os.path.realpath(output))):
        raise UsageError(f"-o {output}: the folder is not there; make it first")
    if force or resume:
        return
    go_on = "--resume to go on with it" if resumable else "another name"
    if os.path.lexists(output):
        raise UsageError(f"{output} exists already. Give {go_on}, or --force to replace it.")
    unfinished = beside(Path(os.path.realpath(output)), "partial")
    if os.path.lexists(unfinished):
        raise UsageError(
            f"{unfinished} holds the rows of a run that was interrupted or goes on. "
            f"Give {go_on}, or --force to start again."
        )


@contextlib.contextmanager
def rows_to(output: Path | None, force: bool, make: Callable[[IO[bytes]], RowWriter]) -> Iterator[Rows]:
    """Opens stdout or `output`, and gives what takes the rows.

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
            with _written(buffered or sys.stdout.buffer, "the output", make) as rows:
                yield rows
        finally:
            if buffered is not None:
                with contextlib.suppress(OSError):  # told already
                    buffered.detach()  # else its end would close stdout
        return
    if not _is_replaceable(output):
        with _open(output, "wb") as stream, _written(stream, str(output), make) as rows:
            yield rows
        return
    target = Path(os.path.realpath(output))  # a link stays a link
    unfinished = beside(target, "partial")
    with telling(str(output)):
        descriptor, _ = open_alone(unfinished, fresh=not force)
    with os.fdopen(descriptor, "wb") as stream:
        os.ftruncate(descriptor, 0)
        try:
            with _written(stream, str(output), make) as rows:
                yield rows
        except BaseException:
            say(f"The rows so far are in {unfinished}.")
            raise
        if sys.platform == "win32":  # refuses to rename what is open
            stream.close()
        with telling(str(output)):
            unfinished.replace(target)


class _Written:
    """Rows on a stream, each written at once."""

    finished = failed = 0

    def __init__(self, stream: IO[bytes], name: str, writer: RowWriter) -> None:
        self._stream = stream
        self._name = name
        self._writer = writer

    def has(self, path: str) -> bool:
        return False

    def keep(self, path: str) -> FinishedRow:
        raise KeyError(path)

    def write(self, result: "Result") -> None:
        with telling(self._name):
            self._writer.write(result)
            self._stream.flush()


@contextlib.contextmanager
def _written(stream: IO[bytes], name: str, make: Callable[[IO[bytes]], RowWriter]) -> Iterator[Rows]:
    """Writes each row at once, and turns what goes wrong into OutputError."""
    with telling(name):
        writer = make(stream)
    yield _Written(stream, name, writer)
    with telling(name):
        writer.close()
        stream.flush()


@contextlib.contextmanager
def telling(name: str) -> Iterator[None]:
    """Turns an OSError into an OutputError about `name`, but for a closed pipe."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(name, error) from None


def _open(path: Path, mode: str) -> IO[bytes]:
    with telling(str(path)):
        return cast(IO[bytes], open(path, mode))


def is_begun(target: Path) -> bool:
    """Whether there are rows that a run may go on with."""
    target = Path(os.path.realpath(target))
    return target.exists() or beside(target, "partial").exists()


def beside(target: Path, ending: str) -> Path:
    """The file of that ending beside `target`."""
    return target.with_name(f"{target.name}.{ending}")


def _is_replaceable(path: Path) -> bool:
    """Whether `path` is a regular file or nothing yet, as against a device, a pipe or a terminal."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True


def open_alone(path: Path, *, fresh: bool) -> tuple[int, bool]:
    """A descriptor of `path` that no other run has (on Windows none is kept from it), and whether the file is new.

    Raises:
        UsageError: another run has it; or it is there, and should be fresh.
    """
    flags = os.O_RDWR | getattr(os, "O_BINARY", 0)
    for how, is_new in ((os.O_CREAT | os.O_EXCL, True), (0, False))[: 1 if fresh else 2]:
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, flags | how, 0o666)
            # The run that had the lock may have given the file its last name meanwhile.
            if _lock(descriptor) and _is_at(path, descriptor):
                return descriptor, is_new
            os.close(descriptor)
            break
    raise UsageError(f"{path} is being written by another run. Give another name, or wait for it.")


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
