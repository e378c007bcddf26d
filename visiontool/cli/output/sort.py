"""`--sort-into` and `--undo`: pictures in class folders, and a journal that takes it back.

DIR/.visiontool-sort.jsonl has a JSON line for everything that is done, written before it is done:

    {"made": "cat"}                                                a class folder, or "." for DIR itself
    {"mode": "copy", "from": "/photos/1.jpg", "to": "cat/1.jpg"}   a file; DIR may be moved, so "to" starts there
"""

import contextlib
import errno
import filecmp
import json
import os
import re
import shutil
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import click
from click.core import ParameterSource

from visiontool.cli import exit_codes
from visiontool.cli.text import Sample, printable, say
from visiontool.errors import DataError, PictureError, UsageError, VisiontoolError
from visiontool.files import locked_if_free

JOURNAL, LOCK, PARTIAL = ".visiontool-sort.jsonl", ".visiontool-sort.lock", ".visiontool-sort.partial"
UNKNOWN, ERROR = "_unknown", "_error"

_MAX_NAME_BYTES = 255
# Controls, what Windows forbids, what breaks a line or turns the reading direction, lone surrogates. The joiners U+200C
# and U+200D stay: emoji and Persian need them.
_UNSAFE = re.compile(
    r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]'
)
# Devices on Windows, whatever the ending: "nul.txt" is one too.
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\.|$)", re.IGNORECASE)


class Sorting:
    """Puts pictures into the class folders of `folder`. A context; for None it does nothing.

    Nothing is ever overwritten. A picture that has a place already is left there, so a run that was killed is repeated.
    An entry of the journal takes about 100 bytes of memory.

    Args:
        labels: In the order of the class ids.

    Raises:
        UsageError: On entering: `folder` is a file, or another run sorts into it.
        VisiontoolError: On entering and by `place`: the folder cannot be written.
    """

    def __init__(self, folder: Path | None, mode: str, labels: Sequence[str]) -> None:
        self._folder = None if folder is None else os.path.abspath(folder)
        self._mode = mode
        self._names = class_folders(labels) if folder is not None else ()
        self._numbers: dict[str, int] = {}  # the last number given to a name that was taken
        self._unplaced = Sample()
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "Sorting":
        if self._folder is not None:
            try:
                is_new = not os.path.isdir(self._folder)
                os.makedirs(self._folder, exist_ok=True)
                self._journal = self._open.enter_context(_journal_of(self._folder))
                if is_new:
                    self._journal.append({"made": os.curdir})
            except (FileExistsError, NotADirectoryError):
                raise UsageError(f"{self._folder} is a file, or lies below one; expected a folder") from None
            except OSError as error:
                raise _cannot_write(self._folder, error) from None
            entries = self._journal.entries()
            self._known = {hash((entry["mode"], entry["from"])): at for at, entry in entries if "mode" in entry}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @property
    def failed(self) -> int:
        """How many could not be placed."""
        return self._unplaced.count

    def place(self, path: str, class_id: int | None, unknown: bool) -> None:
        """Gives a picture its place; one that could not be read has no class."""
        if self._folder is None:
            return
        name = ERROR if class_id is None else UNKNOWN if unknown else self._names[class_id]
        # Not os.path.abspath: behind a link to a folder, ".." means another folder than its text says.
        source = os.fspath(Path(path).absolute())
        try:
            self._place(self._folder, source, name)
        except PictureError as error:
            self._unplaced.add(f"  {printable(path)}: {error}")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or not os.access(self._folder, os.W_OK):
                raise _cannot_write(self._folder, error) from None
            self._unplaced.add(f"  {printable(path)}: {printable(str(error))}")

    def tell(self) -> None:
        """Says what could not be placed."""
        if self.failed:
            first = f"{self.failed:,} could not be sorted and are where they were, such as:"
            say("\n".join([first, *self._unplaced.some]))

    def _place(self, top: str, source: str, name: str) -> None:
        key = hash((self._mode, source))
        if key in self._known:
            entry = self._journal.at(self._known[key])
            if entry["from"] == source and _is_placed(self._mode, source, os.path.join(top, entry["to"])):
                return
        if not os.path.isfile(source):
            if name == ERROR:  # a folder or a pipe, which is no picture to take away
                return
            raise PictureError("is no longer there")
        if self._mode == "move" and os.path.islink(source):
            raise PictureError("is a link: move the file that it leads to, or take --mode copy")
        folder = os.path.join(top, name)
        if not os.path.isdir(folder):
            self._journal.append({"made": name})
            os.mkdir(folder)
        if os.path.samefile(os.path.dirname(source), folder):
            return
        place = self._free_place(folder, os.path.basename(source))
        entry = {"mode": self._mode, "from": source, "to": f"{name}/{os.path.basename(place)}"}
        self._known[key] = self._journal.append(entry)
        if self._mode == "link":
            os.symlink(source, place)
        else:
            (_copy if self._mode == "copy" else _move)(source, place, os.path.join(top, PARTIAL))

    def _free_place(self, folder: str, name: str) -> str:
        """1.jpg in the folder, or the first of 1-2.jpg, 1-3.jpg ... that is not taken."""
        place = wanted = os.path.join(folder, name)
        stem, extension = os.path.splitext(name)
        while os.path.lexists(place):
            number = self._numbers[wanted] = self._numbers.get(wanted, 1) + 1
            place = os.path.join(folder, _cut(stem, f"-{number}{extension}"))
        return place


def check_sorting(folder: Path | None, mode: str | None, yes: bool) -> None:
    """Raises UsageError where the options do not go together."""
    if folder is None and (mode is not None or yes):
        raise UsageError("--mode and --yes are about --sort-into DIR; there is none")
    if mode == "move" and not yes:
        raise UsageError(
            "--mode move takes the pictures out of their folders; say --yes as well (--undo puts them back)"
        )
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
    top = os.path.abspath(folder)
    if not os.path.isfile(os.path.join(top, JOURNAL)):
        raise DataError(f"nothing to undo in {top}: there is no {JOURNAL}")
    try:
        with _journal_of(top) as journal:
            put_back, left, was_made = _undo(top, journal)
        if was_made and not os.listdir(top):
            os.rmdir(top)
    except OSError as error:
        raise _cannot_write(top, error) from None
    if not quiet:
        say(f"Put back: {put_back:,}. Left: {left:,}.")
    return exit_codes.SOME_FAILED if left else 0


def class_folders(labels: Sequence[str]) -> tuple[str, ...]:
    """A folder name for each label, safe on every system and its own even where upper and lower case are one.

    It is the label itself wherever that is safe ("crane (bird)"). What is unsafe becomes "_"; where another label,
    `UNKNOWN` or `ERROR` has the name already, " (2)" stands behind it.
    """
    taken = {_folded(UNKNOWN), _folded(ERROR)}
    numbers: dict[str, int] = {}  # the last one given, so that a thousand labels of one name are not tried in turn
    names = []
    for label in labels:
        # Leading dots would hide the folder, and Windows drops dots and spaces at the end.
        safe = _UNSAFE.sub("_", unicodedata.normalize("NFC", label)).strip(". ") or "_"
        safe = name = _cut(f"_{safe}" if _DEVICE.match(safe) else safe)
        while _folded(name) in taken:
            number = numbers[_folded(safe)] = numbers.get(_folded(safe), 1) + 1
            name = _cut(safe, f" ({number})")
        taken.add(_folded(name))
        names.append(name)
    return tuple(names)


def _cut(name: str, tail: str = "") -> str:
    """`name` and `tail` in at most 255 bytes, which is what most file systems take."""
    while len(os.fsencode(name + tail)) > _MAX_NAME_BYTES:
        name = name[:-1].rstrip(". ")
    return name + tail


def _folded(name: str) -> str:
    # Unicode's canonical caseless match (D145), which is at least as wide as what file systems do.
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


class _Journal:
    def __init__(self, path: str) -> None:
        self._writer = open(path, "ab", buffering=0)  # noqa: SIM115
        self._reader = open(path, "rb")  # noqa: SIM115
        self._size = self._writer.tell()
        if self._size and not self._reader.read().endswith(b"\n"):
            self._size += self._writer.write(b"\n")  # behind a line that a full disk tore

    def close(self) -> None:
        self._writer.close()
        self._reader.close()

    def append(self, entry: dict[str, str]) -> int:
        """Writes a line, and gives its offset."""
        line, offset = json.dumps(entry).encode() + b"\n", self._size
        self._size += self._writer.write(line)
        if self._size < offset + len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return offset

    def at(self, offset: int) -> dict[str, str]:
        self._reader.seek(offset)
        entry: dict[str, str] = json.loads(self._reader.readline())
        return entry

    def entries(self) -> Iterator[tuple[int, dict[str, str]]]:
        """The offset and the entry of each line that is whole."""
        self._reader.seek(0)
        offset = 0
        for line in self._reader:
            with contextlib.suppress(ValueError):
                yield offset, json.loads(line)
            offset += len(line)


@contextlib.contextmanager
def _journal_of(folder: str) -> Iterator[_Journal]:
    with locked_if_free(Path(folder, LOCK)) as is_free:
        if not is_free:
            raise UsageError(f"another run sorts into {folder}. Wait for its end, or name another folder.")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, PARTIAL))
        with contextlib.closing(_Journal(os.path.join(folder, JOURNAL))) as journal:
            yield journal


def _undo(top: str, journal: _Journal) -> tuple[int, int, bool]:
    """How many were put back, how many could not be, and whether `top` was made for sorting and is no longer needed."""
    put_back = 0
    left: list[dict[str, str]] = []
    folders: list[str] = []
    stuck: set[str] = set()
    for offset in reversed(array("Q", (offset for offset, _ in journal.entries()))):
        entry = journal.at(offset)
        if "made" in entry:
            folders.append(entry["made"])
        elif entry["to"] not in stuck:  # else what lies there came by the newer entry
            place = os.path.join(top, entry["to"])
            try:
                put_back += _put_back(entry["mode"], entry["from"], place)
            except (PictureError, OSError) as error:
                left.append(entry)
                stuck.add(entry["to"])
                say(f"Left: {printable(place)}: {getattr(error, 'strerror', None) or error}")
    for name in folders:
        with contextlib.suppress(OSError):  # something else lies in it, or it is gone
            os.rmdir(os.path.join(top, name))
    if left:
        kept = [{"made": name} for name in folders if os.path.isdir(os.path.join(top, name))]
        lines = [json.dumps(entry) + "\n" for entry in reversed(left + kept)]
        Path(top, PARTIAL).write_text("".join(lines), encoding="ascii")
        os.replace(os.path.join(top, PARTIAL), os.path.join(top, JOURNAL))
    else:
        os.unlink(os.path.join(top, JOURNAL))
    return put_back, len(left), os.curdir in folders and not left


def _put_back(mode: str, source: str, place: str) -> bool:
    """Whether there was anything to put back.

    Raises:
        PictureError, OSError: It is left as it is.
    """
    if not os.path.lexists(place):
        if mode == "move" and not os.path.lexists(source):
            raise PictureError("is gone")
        return False
    if mode == "move":
        if os.path.lexists(source) and not _are_copies(source, place):
            raise PictureError(f"cannot go back: {source} is there now")
        if os.path.lexists(source):
            os.unlink(place)
        else:
            folder = os.path.dirname(source)
            os.makedirs(folder, exist_ok=True)
            _move(place, source, os.path.join(folder, PARTIAL))
        return True
    if mode == "link" and not (os.path.islink(place) and os.readlink(place) == source):
        raise PictureError("is not the link that was made")
    if mode == "copy" and not os.path.lexists(source):
        raise PictureError(f"may be the only copy: {source} is gone")
    if mode == "copy" and not _are_copies(source, place):
        raise PictureError(f"differs from {source}: one of them was changed")
    os.unlink(place)
    return True


def _is_placed(mode: str, source: str, place: str) -> bool:
    """Whether `place` is what was made of `source`; ends a move to another file system that was broken off."""
    if mode == "link":
        return os.path.islink(place) and os.readlink(place) == source
    if mode == "move" and not os.path.lexists(source):
        return os.path.lexists(place)
    if not _are_copies(source, place):
        return False
    if mode == "move":
        os.unlink(source)
    return True


def _are_copies(source: str, place: str) -> bool:
    if not (os.path.isfile(source) and os.path.isfile(place)) or os.path.samefile(source, place):
        return False
    return filecmp.cmp(source, place, shallow=False)


def _copy(source: str, place: str, partial: str) -> None:
    """By way of `partial`, so that a file has its name only when it is complete."""
    try:
        shutil.copy2(source, partial)
        os.rename(partial, place)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)


def _move(source: str, place: str, partial: str) -> None:
    try:
        os.rename(source, place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(source, place, partial)
        os.unlink(source)


def _cannot_write(folder: str, error: OSError) -> VisiontoolError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return VisiontoolError(
            f"{folder}: the disk is full ({error.strerror}). What has a place is complete, the rest is where it was.\n"
            "Make room and run the same command again."
        )
    return VisiontoolError(f"{folder} cannot be written: {error.strerror or error}")
