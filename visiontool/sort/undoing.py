"""Takes back what was sorted into a folder, by its journal."""

import contextlib
import os
from array import array
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from visiontool.errors import DataError
from visiontool.sort import placing
from visiontool.sort.journal import NAME, Entry, Journal, MadeFolder, cannot_write

# An undo runs alone, so one name for all, which the next undo finds again after a kill.
_PARTIAL = ".visiontool-undo.partial"


class Undone(NamedTuple):
    """What an undo did."""

    put_back: int
    """Pictures that were moved back, and copies and links that were removed."""
    missing: int
    """Copies and links that were gone already, and moves that were undone already or never made."""
    left: int
    """What could not be put back. It stays in the journal, so that undo can be run again."""


class _CannotPutBack(Exception):
    """Why not, in words."""


def undo(folder: Path, on_left: Callable[[str, str], None] | None = None) -> Undone:
    """Takes back all that was sorted into `folder`, the newest first, and removes the folders that were made for it.

    Nothing is overwritten, and no copy is removed unless its source is there and the same. An undo that was killed is
    run again.

    Args:
        on_left: called with the path and the reason for each file that could not be put back.

    Raises:
        DataError: nothing was sorted into `folder`, or its journal is of another version.
        SortError: the journal cannot be written.
        UsageError: another run is sorting into `folder`.
    """
    top = os.fspath(folder)
    if not os.path.isfile(os.path.join(top, NAME)):
        raise DataError(f"nothing to undo in {top}: there is no {NAME}")
    try:
        with contextlib.closing(Journal(top, exclusive=True)) as journal:
            placing.remove_partials(top)
            return _undo(top, journal, on_left or (lambda path, reason: None))
    except OSError as error:
        raise cannot_write(top, error) from None


def _undo(top: str, journal: Journal, on_left: Callable[[str, str], None]) -> Undone:
    entries, left = array("Q"), array("Q")  # offsets only: there may be any number of entries
    folders: set[str] = set()
    for offset, record in journal.records():
        if isinstance(record, MadeFolder):
            folders.add(record.name)
        else:
            entries.append(offset)
    put_back = missing = 0
    for offset, entry in journal.entries(reversed(entries)):
        try:
            if _put_back(entry, entry.path(top)):
                put_back += 1
            else:
                missing += 1
        except (_CannotPutBack, OSError) as error:
            left.append(offset)
            on_left(entry.path(top), getattr(error, "strerror", None) or str(error))
    for name in folders:
        with contextlib.suppress(OSError):  # something else lies in it, or it is gone
            os.rmdir(os.path.join(top, name))
    if left:
        kept = (MadeFolder(name) for name in sorted(folders) if os.path.isdir(os.path.join(top, name)))
        journal.keep_only(chain(kept, (entry for _, entry in journal.entries(reversed(left)))))
    else:
        journal.remove()
        if os.curdir in folders:
            with contextlib.suppress(OSError):
                os.rmdir(top)
    return Undone(put_back, missing, len(left))


def _put_back(entry: Entry, place: str) -> bool:
    """Whether there was anything to do.

    Raises:
        _CannotPutBack, OSError: it is left as it is.
    """
    if entry.mode != "link" and os.path.lexists(entry.source):
        placing.clear_reservation(entry.source, place)
    if entry.mode == "move":
        return _move_back(entry, place)
    if not os.path.lexists(place):
        return False
    if entry.mode == "link":
        if not placing.is_link_to(place, entry.source):
            raise _CannotPutBack("is not the link that was made")
    elif not os.path.lexists(entry.source):
        raise _CannotPutBack(f"may be the only copy: {entry.source} is gone")
    elif not placing.is_copy(entry.source, place, entry.size, entry.mtime_ns):
        raise _CannotPutBack(f"differs from {entry.source}: one of them was changed")
    os.unlink(place)
    return True


def _move_back(entry: Entry, place: str) -> bool:
    folder = os.path.dirname(entry.source)
    partial = os.path.join(folder, _PARTIAL)
    with contextlib.suppress(OSError):
        os.unlink(partial)
    source_is_there = os.path.lexists(entry.source)
    if not os.path.lexists(place):
        if source_is_there:
            return False
        raise _CannotPutBack("is gone")
    if source_is_there:  # the same picture, where the move or an undo was killed half-way
        if not placing.finish_move(place, entry.source, entry.moved_target(), entry.target):
            raise _CannotPutBack(f"cannot go back: {entry.source} is there now")
        return True
    os.makedirs(folder, exist_ok=True)
    placing.move_new(place, entry.source, partial, entry.target)
    return True
