"""The journal of a sorted folder: what was put where, so that it is found again and can be taken back.

    {"visiontool_sort": 1}                     the header: its schema
    {"made": "."}                              the folder itself was made
    {"made": "cat"}                            a class folder was made
    {"mode": "copy", "from": "/photos/1.jpg", "to": "cat/1.jpg", "size": 9, "mtime_ns": 7}

One JSON object a line, written before the thing is done, so a killed run leaves a line too many at most and never one
too few. A line that was not carried out after all is followed by itself with "void". Lines that a full disk tore are
passed over: what they tell of was never begun. Runs may append at the same time; an undo has the journal to itself.

A path that is not UTF-8 has its bytes in "from_b64" or "to_b64". "to" is relative, so that the folder may be moved.
"""

import base64
import errno
import json
import os
import sys
from collections.abc import Iterable, Iterator
from io import FileIO
from typing import Any, Literal, NamedTuple, get_args

from visiontool.errors import DataError, UsageError, VisiontoolError
from visiontool.sort.offsets import Offsets
from visiontool.sort.placing import new_partial

if sys.platform != "win32":
    import fcntl

NAME = ".visiontool-sort.jsonl"
SCHEMA = 1
_HEADER = b'{"visiontool_sort": %d}\n' % SCHEMA
Mode = Literal["copy", "link", "move"]
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class SortError(VisiontoolError):
    """The folder cannot be written any more, as on a full disk. What has a place is complete, the rest is as it was."""


class Entry(NamedTuple):
    """One file that was given a place."""

    mode: Mode
    source: str  # where it was, absolute
    place: str  # class folder / file name
    size: int | None = None  # of the source of a copy
    mtime_ns: int | None = None
    target: str | None = None  # of a moved link: what it said
    void: bool = False

    def path(self, folder: str) -> str:
        """Its place in the sorted folder."""
        return os.path.join(folder, *self.place.split("/"))

    def moved_target(self) -> str | None:
        """Of a moved link: what it says at its place, where a relative one would lead astray."""
        return None if self.target is None else os.path.join(os.path.dirname(self.source), self.target)


class MadeFolder(NamedTuple):
    """A folder that did not exist before."""

    name: str  # a class folder, or "." for the sorted folder itself


class Journal:
    """An open journal.

    Attributes:
        alone: no other run has it open, as far as the file system can tell; until `share`, none can.
    """

    def __init__(self, folder: str, *, exclusive: bool = False) -> None:
        """Opens the journal of `folder`, or begins one.

        Args:
            exclusive: for an undo, which may not run beside another run.

        Raises:
            UsageError: another run is going on, and `exclusive` was asked for.
            DataError: the file is no journal, or of another version of visiontool.
        """
        self.path = os.path.join(folder, NAME)
        self._file, self.alone = _open_locked(self.path, exclusive)
        self._reader = open(self.path, "rb")  # noqa: SIM115
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise
        self._offsets = Offsets()
        self._begin = self._indexed = self._reader.tell()  # behind the header

    def close(self) -> None:
        self._reader.close()
        self._file.close()

    def share(self) -> None:
        """Lets other runs append too."""
        if sys.platform != "win32" and self.alone:
            fcntl.flock(self._file, fcntl.LOCK_SH)

    def append(self, record: Entry | MadeFolder) -> None:
        """Writes one line at the end, whatever others write meanwhile."""
        self._write(_line(record))

    def find(self, mode: Mode, source: str) -> list[Entry]:
        """The entries for `source` that are not void, the newest first, those of other runs too."""
        for offset, record in self._lines(self._indexed):
            if isinstance(record, Entry):
                self._offsets.add(hash((record.mode, record.source)), offset)
            self._indexed = self._reader.tell()
        alike = self.entries(self._offsets.candidates(hash((mode, source))))
        return [entry for _, entry in alike if (entry.mode, entry.source) == (mode, source)]

    def records(self) -> Iterator[tuple[int, Entry | MadeFolder]]:
        """Every record with its offset, from the oldest to the newest. Nothing else may be read meanwhile."""
        for offset, record in self._lines(self._begin):
            if record is not None:
                yield offset, record

    def entries(self, offsets: Iterable[int]) -> Iterator[tuple[int, Entry]]:
        """Of the entries at `offsets`, the newest first, those that were not called void."""
        voids: set[Entry] = set()
        for offset in offsets:
            self._reader.seek(offset)
            entry = _parsed(self._reader.readline())
            if not isinstance(entry, Entry):
                continue
            if entry.void:
                voids.add(entry._replace(void=False))
            elif entry in voids:
                voids.remove(entry)
            else:
                yield offset, entry

    def remove(self) -> None:
        """Deletes the file."""
        self._let_go()
        os.unlink(self.path)

    def keep_only(self, kept: Iterable[Entry | MadeFolder]) -> None:
        """Replaces the file by one with the same header and the records of `kept`, all at once."""
        with open(new_partial(os.path.dirname(self.path)), "wb") as file:
            file.write(_HEADER)
            for record in kept:
                file.write(_line(record))
        self._let_go()
        os.replace(file.name, self.path)

    def _let_go(self) -> None:
        if sys.platform == "win32":  # where an open file stays; elsewhere the lock is kept to the end
            self.close()

    def _read_header(self) -> None:
        first = self._reader.readline()
        is_torn = self.alone and _HEADER.startswith(first) and first != _HEADER
        if not first or is_torn:  # new, or a full disk let no more be written
            self._file.truncate(0)
            self._write(_HEADER)
            self._reader.seek(0)
            first = self._reader.readline()
        try:
            schema = json.loads(first)["visiontool_sort"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise DataError(f"{self.path} is not the journal of a sorted folder. Move it away to sort anew.") from None
        if schema != SCHEMA:
            raise DataError(
                f"{self.path} was written by another version of visiontool: schema {schema!r}, not {SCHEMA}.\n"
                "Use that version, or sort into another folder."
            )

    def _lines(self, offset: int) -> Iterator[tuple[int, Entry | MadeFolder | None]]:
        """From `offset` on every whole line, None for one that is damaged. When it is resumed, it must find the reader
        where it left it.
        """
        self._reader.seek(offset)
        while (line := self._reader.readline()).endswith(b"\n"):
            yield offset, _parsed(line)
            offset += len(line)

    def _write(self, line: bytes) -> None:
        if size := os.fstat(self._file.fileno()).st_size:
            self._reader.seek(size - 1)
            if self._reader.read(1) != b"\n":  # a torn line, which must not spoil this one
                line = b"\n" + line
        while line:
            line = line[self._file.write(line) :]


def cannot_write(folder: str, error: OSError) -> SortError:
    """The error for a folder that cannot be written any more."""
    if error.errno in FULL:
        return SortError(
            f"{folder}: the disk is full ({error.strerror}). What has a place is complete, the rest is where it was.\n"
            "Make room and run the same command again."
        )
    return SortError(f"{folder} cannot be written: {error.strerror or error}")


def _open_locked(path: str, exclusive: bool) -> tuple[FileIO, bool]:
    while True:
        file = open(path, "ab", buffering=0)  # noqa: SIM115
        try:
            alone = _lock(file, exclusive)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file, alone
        except FileNotFoundError:  # an undo deleted it while we waited
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def _lock(file: FileIO, exclusive: bool) -> bool:
    """Whether no other run has the journal open."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if exclusive:
                raise UsageError(
                    f"{os.path.dirname(file.name)} is being sorted by another run. Wait for its end, or stop it."
                ) from None
            fcntl.flock(file, fcntl.LOCK_SH)
            return False
        except OSError:  # a file system without locks
            return False
    return True


def _line(record: Entry | MadeFolder) -> bytes:
    if isinstance(record, MadeFolder):
        values: dict[str, Any] = {"made": record.name}
    else:
        values = {"mode": record.mode, **_text("from", record.source), **_text("to", record.place)}
        if record.mode == "copy":
            values |= {"size": record.size, "mtime_ns": record.mtime_ns}
        if record.target is not None:
            values |= _text("target", record.target)
        if record.void:
            values["void"] = True
    return json.dumps(values, ensure_ascii=False).encode() + b"\n"


def _parsed(line: bytes) -> Entry | MadeFolder | None:
    try:
        values = json.loads(line)
        if "made" in values:
            made = _read_text(values, "made")
            return MadeFolder(made if made == os.curdir else _component(made))
        if values["mode"] not in get_args(Mode):
            return None
        source, place = _read_text(values, "from"), _read_text(values, "to")
        folder, name = place.split("/")
        _component(folder), _component(name)
        if not os.path.isabs(source):
            return None
        target = _read_text(values, "target") if {"target", "target_b64"} & values.keys() else None
        return Entry(
            values["mode"], source, place, values.get("size"), values.get("mtime_ns"), target, "void" in values
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _component(name: str) -> str:
    """`name`, which must not lead out of the folder it stands in."""
    if name in ("", os.curdir, os.pardir) or os.path.basename(name) != name:
        raise ValueError(name)
    return name


def _text(key: str, value: str) -> dict[str, str]:
    raw = os.fsencode(value)
    try:
        return {key: raw.decode()}
    except UnicodeDecodeError:
        return {f"{key}_b64": base64.b64encode(raw).decode()}


def _read_text(values: dict[str, str], key: str) -> str:
    encoded = values.get(f"{key}_b64")
    text = os.fsdecode(values[key].encode() if encoded is None else base64.b64decode(encoded))
    if "\0" in text:
        raise ValueError(text)
    return text
