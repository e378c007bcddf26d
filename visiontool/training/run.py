"""The folder of a run: filled beside its place, which it takes when it is complete."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from visiontool.data.folders import is_inside
from visiontool.errors import ConversionError, UsageError
from visiontool.hub import cache
from visiontool.training import settings

RUNS = Path("runs")

_UNSAFE = re.compile(r"[^\w.+-]+")


def check_outside(data: Path, output: Path | None) -> None:
    """Raises UsageError where the run would lie in the folder of the data, whose next run would take it for a class."""
    folder = output or RUNS
    if is_inside(os.path.realpath(folder), os.path.realpath(data)):
        raise UsageError(f"{folder} is inside the data, {data}: its pictures would become a class. -o names another")


@contextmanager
def made(data: Path, output: Path | None, *, force: bool = False) -> Iterator[tuple[Path, Path]]:
    """A folder for the block to fill, and the place that it takes when the block ends without an exception.

    What fails leaves nothing; only a process that is killed leaves NAME.partial-... beside the place. A complete run
    that is there stays as it was until the new one is complete.

    Args:
        data: names the run where `output` is None: runs/<its name>, or with -2, -3 ... behind it.
        force: replaces the run in `output`.
    """
    try:
        target = _unused(data) if output is None else Path(os.path.realpath(output))
        _check_free(target, force)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f"{target.name}.partial-", dir=target.parent))
        try:
            folder = beside / target.name  # mkdtemp makes folders that nobody else may read
            folder.mkdir()
            yield folder, target
            _check_free(target, force)
            _replace(target, folder, aside=beside.with_name(f"{beside.name}.old"))
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        if error.errno is None:  # of a library; not about files
            raise
        where = error.filename or output or RUNS
        what = "the disk is full" if error.errno in cache.FULL else "cannot be written"
        raise ConversionError(f"{where}: {what} ({error.strerror}). -o names another folder for the run.") from error


def _unused(data: Path) -> Path:
    """A place in runs/ called like the folder of the data, as far as that suits every system."""
    name = _UNSAFE.sub("-", Path(os.path.abspath(data)).name).strip(".-") or "run"
    places = (RUNS.absolute() / (name if number == 1 else f"{name}-{number}") for number in count(1))
    return next(place for place in places if not os.path.lexists(place))


def _check_free(target: Path, force: bool) -> None:
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / settings.FILE).is_file():
        raise UsageError(f"{target} exists and is not a run; name another folder with -o")
    if not force:
        raise UsageError(f"{target} holds a run already. Name another folder with -o, or --force to replace it.")


def _replace(target: Path, folder: Path, aside: Path) -> None:
    """Renames; what was there before is `aside` for that moment, and back where the new one cannot come."""
    if not os.path.lexists(target):
        folder.rename(target)
        return
    target.rename(aside)
    try:
        folder.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)
