"""`--sort-into` and `--undo`: pictures in class folders, and a journal that takes it back.

DIR/.visiontool-sort.jsonl has a JSON line for each picture, written before the picture gets its place:

    {"mode": "copy", "from": "/photos/1.jpg", "to": "cat/1.jpg"}

DIR may be moved, so "to" starts there.
"""

import contextlib
import errno
import filecmp
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Self

import click
from click.core import ParameterSource

from visiontool.cli import SOME_FAILED
from visiontool.cli.text import UNSAFE, printable, say
from visiontool.errors import DataError, PictureError, UsageError, VisiontoolError
from visiontool.files import FULL, locked, replacing

JOURNAL, LOCK, PARTIAL = ".visiontool-sort.jsonl", ".visiontool-sort.lock", ".visiontool-sort.partial"
UNKNOWN, ERROR = "_unknown", "_error"

_MAX_NAME_BYTES = 255
_MOST_EXAMPLES = 10
_UNSAFE_IN_NAMES = re.compile(rf'[{UNSAFE}<>:"/\\|?*]')  # what Windows forbids too
# Devices on Windows, whatever the ending: "nul.txt" is one too.
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\.|$)", re.IGNORECASE)


class Sorting:
    """Puts pictures into the class folders of `folder`. A context; for None it does nothing.

    Nothing is ever overwritten. A picture that has a place already is left there, so a run that was killed is repeated.
    """

    def __init__(self, folder: Path | None, mode: str, labels: Sequence[str]) -> None:
        self._folder = None if folder is None else Path(os.path.abspath(folder))
        self._mode = mode
        self._names = class_folders(labels) if folder is not None else ()
        self._placed: set[int] = set()  # of `_key`
        self._numbers: dict[str, int] = {}  # the last number given to a name that was taken
        self._examples: list[str] = []
        self._open = contextlib.ExitStack()
        self.failed = 0  # how many could not be placed

    def __enter__(self) -> Self:
        if self._folder is None:
            return self
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._open.enter_context(_one_run(self._folder))
            self._journal = self._open.enter_context(open(self._folder / JOURNAL, "ab", buffering=0))
            if self._journal.tell():
                self._journal.write(b"\n")  # the last line may be torn
            with open(self._folder / JOURNAL, "rb") as lines:
                for entry in _entries(lines):
                    place = self._folder / entry["to"]
                    if place.exists():  # else the run was killed before it was placed, or it is gone
                        self._placed.add(_key(entry["mode"], Path(entry["from"]), place))
        except OSError as error:
            raise _cannot_write(self._folder, error) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def place(self, path: str, class_id: int | None, unknown: bool) -> None:
        """Gives a picture its place; raises VisiontoolError for a full disk."""
        if self._folder is None:
            return
        name = ERROR if class_id is None else UNKNOWN if unknown else self._names[class_id]
        try:
            # Not os.path.abspath: behind a link to a folder, ".." means another folder than its text says.
            self._place(self._folder, Path(path).absolute(), name)
        except (PictureError, OSError) as error:
            if isinstance(error, OSError) and (error.errno in FULL or not os.access(self._folder, os.W_OK)):
                raise _cannot_write(self._folder, error) from None
            self.failed += 1
            if self.failed <= _MOST_EXAMPLES:
                self._examples.append(f"  {printable(path)}: {printable(str(error))}")

    def report(self) -> None:
        if self.failed:
            say("\n".join([f"{self.failed:,} could not be sorted and are where they were, such as:", *self._examples]))

    def _place(self, top: Path, source: Path, name: str) -> None:
        is_here = source.is_file()
        may_be_done = not is_here if self._mode == "move" else is_here
        if may_be_done and _key(self._mode, source, source) in self._placed:
            return
        if not is_here:
            if name == ERROR:  # a folder or a pipe, which is no picture to take away
                return
            raise PictureError("is no longer there")
        if self._mode == "move" and source.is_symlink():
            raise PictureError("is a link: move the file that it leads to, or take --mode copy")
        folder = top / name
        folder.mkdir(exist_ok=True)
        if source.parent.samefile(folder):
            return
        place = self._free_place(folder, source.name)
        entry = {"mode": self._mode, "from": str(source), "to": f"{name}/{place.name}"}
        line = json.dumps(entry).encode() + b"\n"
        if self._journal.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._mode == "link":
            place.symlink_to(source)
        else:
            (_copy if self._mode == "copy" else _move)(source, place, top / PARTIAL)
        self._placed.add(_key(self._mode, source, place))

    def _free_place(self, folder: Path, name: str) -> Path:
        """1.jpg in the folder, or the first of 1-2.jpg, 1-3.jpg ... that is not taken."""
        place = first = folder / name
        while os.path.lexists(place):
            number = self._numbers[str(first)] = self._numbers.get(str(first), 1) + 1
            place = folder / _cut(first.stem, f"-{number}{first.suffix}")
        return place


def _key(mode: str, source: Path, file: Path) -> int:
    """What a picture is known by: its path, and where `file` is a copy or a link, size and time, which they share."""
    if mode == "move":
        return hash((mode, source))
    status = file.stat()
    return hash((mode, source, status.st_size, status.st_mtime_ns))


def check_sorting(folder: Path | None, mode: str | None, yes: bool) -> None:
    """Raises UsageError where the options do not go together."""
    if folder is None and (mode is not None or yes):
        raise UsageError("--mode and --yes are about --sort-into DIR; there is none")
    if mode == "move" and not yes:
        takes = "--mode move takes the pictures out of their folders"
        raise UsageError(f"{takes}; say --yes as well (--undo puts them back)")
    if yes and mode != "move":
        raise UsageError("--yes is about --mode move")


def undo_sorting(context: click.Context, folder: Path | None, quiet: bool) -> int:
    """`--undo`: takes back all that was sorted into `folder`, the newest first; gives the exit code.

    Nothing is overwritten, and a copy is removed only where its source is there and the same. What cannot be put back
    stays in the journal.
    """
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if folder is None or given - {"undo", "sort_into", "quiet"} or context.params["paths"]:
        raise UsageError("--undo goes with --sort-into DIR and nothing else: visiontool predict --sort-into DIR --undo")
    top = Path(os.path.abspath(folder))
    if not (top / JOURNAL).is_file():
        raise DataError(f"nothing to undo in {top}: there is no {JOURNAL}")
    try:
        with _one_run(top):
            put_back, left = _undo(top)
    except OSError as error:
        raise _cannot_write(top, error) from None
    with contextlib.suppress(OSError):  # something else is in it
        top.rmdir()
    if not quiet:
        say(f"Put back: {put_back:,}. Left: {left:,}.")
    return SOME_FAILED if left else 0


def _undo(top: Path) -> tuple[int, int]:
    """How many were put back, and how many could not be."""
    put_back, left, folders = 0, [], set()
    stuck: set[Path] = set()
    for entry in _entries(reversed((top / JOURNAL).read_bytes().splitlines())):
        place = top / entry["to"]
        folders.add(place.parent)
        if place in stuck:  # what is there came by the newer line
            continue
        try:
            put_back += _put_back(entry["mode"], Path(entry["from"]), place)
        except (PictureError, OSError) as error:
            left.append(entry)
            stuck.add(place)
            say(f"Left: {printable(str(place))}: {getattr(error, 'strerror', None) or error}")
    for folder in folders:
        with contextlib.suppress(OSError):  # something else is in it
            folder.rmdir()
    if left:
        with replacing(top / JOURNAL, top / PARTIAL) as unfinished:
            unfinished.write_text("".join(json.dumps(entry) + "\n" for entry in reversed(left)), encoding="ascii")
    else:
        (top / JOURNAL).unlink()
    return put_back, len(left)


def _put_back(mode: str, source: Path, place: Path) -> bool:
    """Whether there was anything to put back; raises PictureError or OSError where it is left as it is."""
    has_source = os.path.lexists(source)
    if not os.path.lexists(place):
        if mode == "move" and not has_source:
            raise PictureError("is gone")
        return False
    if mode == "move" and not has_source:
        source.parent.mkdir(parents=True, exist_ok=True)
        _move(place, source, source.parent / PARTIAL)
        return True
    if mode == "link":
        if not (place.is_symlink() and os.readlink(place) == str(source)):
            raise PictureError("is not the link that was made")
    elif not (source.is_file() and not source.samefile(place) and filecmp.cmp(source, place, shallow=False)):
        if mode == "move":
            raise PictureError(f"cannot go back: {source} is there now")
        raise PictureError(f"differs from {source}, which was changed or is gone")
    place.unlink()
    return True


def class_folders(labels: Sequence[str]) -> tuple[str, ...]:
    """A folder name for each label, safe on every system and its own even where upper and lower case are one.

    What is unsafe becomes "_"; where another label has the name already, " (2)" stands behind it.
    """
    taken = {_folded(UNKNOWN), _folded(ERROR)}
    names = []
    for label in labels:
        # Leading dots would hide the folder, and Windows drops dots and spaces at the end.
        safe = _UNSAFE_IN_NAMES.sub("_", unicodedata.normalize("NFC", label)).strip(". ") or "_"
        safe = name = _cut(f"_{safe}" if _DEVICE.match(safe) else safe)
        numbers = count(2)
        while _folded(name) in taken:
            name = _cut(safe, f" ({next(numbers)})")
        taken.add(_folded(name))
        names.append(name)
    return tuple(names)


def _cut(name: str, tail: str = "") -> str:
    """`name` and `tail` in at most 255 bytes, which is what most file systems take."""
    while len(os.fsencode(name + tail)) > _MAX_NAME_BYTES:
        name = name[:-1].rstrip(". ")
    return name + tail


def _folded(name: str) -> str:
    """Unicode's canonical caseless match (D145), which is at least as wide as what file systems do."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def _entries(lines: Iterable[bytes]) -> Iterator[dict[str, str]]:
    for line in lines:
        with contextlib.suppress(ValueError):  # a torn line
            yield json.loads(line)


@contextlib.contextmanager
def _one_run(folder: Path) -> Iterator[None]:
    def refuse() -> None:
        raise UsageError(f"another run sorts into {folder}. Wait for its end, or name another folder.")

    with locked(folder / LOCK, refuse):
        yield


def _copy(source: Path, place: Path, partial: Path) -> None:
    with replacing(place, partial):
        shutil.copy2(source, partial)


def _move(source: Path, place: Path, partial: Path) -> None:
    try:
        source.rename(place)
    except OSError as error:
        if error.errno != errno.EXDEV:  # another file system
            raise
        _copy(source, place, partial)
        source.unlink()


def _cannot_write(folder: Path, error: OSError) -> VisiontoolError:
    return VisiontoolError(
        f"{folder} cannot be written: {error.strerror or error}\n"
        "What has a place is complete, the rest is where it was; the same command goes on."
    )
