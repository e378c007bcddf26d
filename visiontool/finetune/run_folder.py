"""The folder of a run: NAME.partial while it is made, NAME once it is complete."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from visiontool import cache, locks
from visiontool.errors import ConversionError, UsageError
from visiontool.find.folders import is_inside
from visiontool.finetune import settings

RUNS = Path("runs")
PARTIAL = ".partial"

_UNSAFE = re.compile(r"[^\w.+-]+")


class Place:
    """Where a run is made, `folder`, and where it goes when it is complete, `target`.

    Attributes:
        taken_up: whether a run that was interrupted is there already.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = target.with_name(target.name + PARTIAL)
        self.taken_up = self.folder.exists()


def run_name(data: Path) -> str:
    """What the run of a dataset is called: the name of its folder, as far as that suits every system."""
    return _UNSAFE.sub("-", Path(os.path.abspath(data)).name).strip(".-") or "run"


def check_outside(data: Path, output: Path | None) -> None:
    """Raises UsageError where the run would lie in the folder of the data, whose next run would take it for a class."""
    folder = output or RUNS
    if is_inside(os.path.realpath(folder), os.path.realpath(data)):
        raise UsageError(f"{folder} is inside the data, {data}: its pictures would become a class. -o names another")


@contextmanager
def made(data: Path, output: Path | None, *, force: bool = False) -> Iterator[Place]:
    """A folder for the block to fill; when the block ends without an exception, it gets its name.

    What Ctrl-C or a crash left under the same name is taken up; what failed leaves nothing. Whatever goes wrong, a
    complete run that is there stays as it was.

    Args:
        data: names the run where `output` is None: runs/<its name>, or with -2, -3 ... behind it.
        force: replaces the run in `output`.

    Raises:
        UsageError: `output` exists and is no run, or `force` is not set; or another process is making it; or what is
            called NAME.partial is no run.
        ConversionError: it cannot be written.
    """
    try:
        with _place(data, output, force) as place:
            _check_free(place.folder, force=True)
            with suppress(FileNotFoundError):
                shutil.rmtree(place.folder)  # its features are in the cache; no file of it may get into this run
            place.folder.mkdir()
            try:
                yield place
                _publish(place)
            except Exception:
                shutil.rmtree(place.folder, ignore_errors=True)
                raise
    except OSError as error:
        if error.errno is None:  # of a library; not about files
            raise
        where = error.filename or output or RUNS
        what = "the disk is full" if error.errno in cache.FULL else "cannot be written"
        raise ConversionError(f"{where}: {what} ({error.strerror}). -o names another folder for the run.") from error


@contextmanager
def _place(data: Path, output: Path | None, force: bool) -> Iterator[Place]:
    if output is not None:
        target = Path(os.path.realpath(output))
        _bring_back(target)
        _check_free(target, force)
        target.parent.mkdir(parents=True, exist_ok=True)
        with locks.locked_if_free(_lock(target)) as is_ours:
            if not is_ours:
                raise UsageError(f"another process is writing {output}; name another folder with -o")
            yield Place(target)
        return
    RUNS.mkdir(exist_ok=True)
    name = run_name(data)
    for number in count(1):
        target = RUNS.absolute() / (name if number == 1 else f"{name}-{number}")
        if os.path.lexists(target):
            continue
        with locks.locked_if_free(_lock(target)) as is_ours:
            if is_ours and not os.path.lexists(target):
                yield Place(target)
                return


def _check_free(target: Path, force: bool) -> None:
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / settings.FILE).is_file():
        raise UsageError(f"{target} exists and is not a run; name another folder with -o")
    if not force:
        raise UsageError(f"{target} holds a run already. Name another folder with -o, or --force to replace it.")


def _lock(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _bring_back(target: Path) -> None:
    """Gives a run its name back where a process was killed in the moment between two renames."""
    if not os.path.lexists(target) and _aside(target).is_dir():
        _aside(target).rename(target)


def _publish(place: Place) -> None:
    """Renames; what was there before is put aside for that moment, and back where the new one cannot come."""
    aside = _aside(place.target)
    had_one = place.target.exists()
    if had_one:
        shutil.rmtree(aside, ignore_errors=True)
        place.target.rename(aside)
    try:
        place.folder.rename(place.target)
    except OSError:
        if had_one:
            with suppress(OSError):
                aside.rename(place.target)
        raise
    shutil.rmtree(aside, ignore_errors=True)
