"""Gives pictures their places in class folders."""

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, get_args

from visiontool.errors import PictureError, UsageError
from visiontool.sort import placing
from visiontool.sort.class_folders import ERROR, UNKNOWN, class_folders
from visiontool.sort.journal import FULL, Entry, Journal, MadeFolder, Mode, SortError, cannot_write

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_WINDOWS_NO_LINKS = 1314  # a privilege that only developers and administrators have
_DONE = {"copy": "copied", "link": "linked", "move": "moved"}


class Sorter:
    """Puts pictures into class folders. Used in a `with` block, from one thread.

    Args:
        folder: is made if it is not there.
        mode: "copy" leaves the pictures where they are, "link" makes symbolic links to them, "move" takes them away.
        labels: in the order of the class ids.
    """

    def __init__(self, folder: Path, mode: Mode, labels: Sequence[str]) -> None:
        if mode not in get_args(Mode):
            raise UsageError(f"mode {mode!r} is none of {', '.join(get_args(Mode))}")
        self._folder = os.fspath(folder)
        self._mode: Mode = mode
        self._class_folders = class_folders(labels)
        self._journal: Journal

    def __enter__(self) -> Self:
        """
        Raises:
            UsageError: the folder is a file.
            DataError: its journal is of another version.
            SortError: it cannot be written.
        """
        made = _make_folder(self._folder)
        try:
            with contextlib.ExitStack() as opened:
                self._journal = opened.enter_context(contextlib.closing(Journal(self._folder)))
                if self._journal.alone:  # else the copies that another run is at would go
                    placing.remove_partials(self._folder)
                    self._journal.share()
                if made:
                    self._journal.append(MadeFolder(os.curdir))
                opened.pop_all()
        except OSError as error:
            raise cannot_write(self._folder, error) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._journal.close()

    def place(self, path: str, class_id: int | None, *, unknown: bool = False) -> str | None:
        """Gives one picture its place, unless it has one from this run or another of the same mode.

        Args:
            class_id: its class; None for an input that could not be read, which goes to `ERROR`.
            unknown: goes to `UNKNOWN` instead.

        Returns:
            Where it is now: its earlier place if it has one, whatever its class is now; `path` itself if that lies in
            the right folder already. None for an unreadable input that is no file (missing, a folder, a pipe, a
            broken link), which stays as it is.

        Raises:
            PictureError: this picture only could not be placed; it is where it was. Does not name the path.
            SortError: the folder cannot be written any more, so no other picture can be placed either.
        """
        name = UNKNOWN if unknown else ERROR if class_id is None else self._class_folders[class_id]
        with self._telling():
            source = _absolute(path)
            place = self._present_place(source)
            if place is not None:
                return place
            if not placing.is_regular(source):
                if name == ERROR:
                    return None
                raise PictureError("is no longer there")
            self._make_class_folder(name)
            if os.path.samefile(os.path.dirname(source), os.path.join(self._folder, name)):
                return path
            return self._give_place(source, name)

    def placed(self, path: str) -> str | None:
        """Where `path` was put by this run or another of the same mode; None if it has no place or was changed since.

        A move that was broken off between the new name and the old is completed.
        """
        with self._telling():
            return self._present_place(_absolute(path))

    def _present_place(self, source: str) -> str | None:
        for entry in self._journal.find(self._mode, source):
            place = entry.path(self._folder)
            if self._is_at(place, entry):
                return place
            if entry.mode != "link":
                placing.clear_reservation(source, place)
        return None

    def _is_at(self, place: str, entry: Entry) -> bool:
        if entry.mode == "copy":
            return placing.is_copy(entry.source, place, entry.size, entry.mtime_ns)
        if entry.mode == "link":
            return placing.is_link_to(place, entry.source)
        return placing.finish_move(entry.source, place, entry.target, entry.moved_target())

    def _make_class_folder(self, name: str) -> None:
        folder = os.path.join(self._folder, name)
        if os.path.isdir(folder):
            return
        self._journal.append(MadeFolder(name))
        try:
            os.mkdir(folder)
        except FileExistsError:
            if not os.path.isdir(folder):  # another run may have made it
                raise SortError(f"{folder} is a file, where a folder for its class belongs. Move it away.") from None

    def _give_place(self, source: str, name: str) -> str:
        folder = os.path.join(self._folder, name)
        while True:
            file_name = placing.free_name(folder, os.path.basename(source))
            place = os.path.join(folder, file_name)
            entry = _new_entry(self._mode, source, f"{name}/{file_name}")
            self._journal.append(entry)
            try:
                self._carry_out(entry, place)
                return place
            except (OSError, PictureError) as error:
                self._take_back(entry)
                if (present := self._present_place(source)) is not None:  # another run was faster
                    return present
                if not isinstance(error, FileExistsError):  # else another file has the name now: the next one
                    raise

    def _carry_out(self, entry: Entry, place: str) -> None:
        partial = placing.new_partial(self._folder)
        if entry.mode == "copy":
            placing.copy_new(entry.source, place, partial)
        elif entry.mode == "link":
            placing.link_new(entry.source, place)
        else:
            placing.move_new(entry.source, place, partial, entry.moved_target())

    def _take_back(self, entry: Entry) -> None:
        with contextlib.suppress(OSError):  # on a full disk the line stays, and an undo finds nothing to do for it
            self._journal.append(entry._replace(void=True))

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Tells the fault of the folder, which stops the run, from the fault of one picture."""
        try:
            yield
        except OSError as error:
            if error.errno in FULL or not os.access(self._folder, os.W_OK | os.X_OK):
                raise cannot_write(self._folder, error) from None
            if self._mode == "link" and (
                error.errno in _NO_LINKS or getattr(error, "winerror", None) == _WINDOWS_NO_LINKS
            ):
                raise SortError(f"no links can be made in {self._folder}: {error.strerror}. Use --mode copy.") from None
            raise PictureError(f"cannot be {_DONE[self._mode]}: {error.strerror or error}") from None


def _absolute(path: str) -> str:
    # Not os.path.abspath: behind a link to a folder, ".." means another folder than its text says.
    return os.fspath(Path(path).absolute())


def _new_entry(mode: Mode, source: str, place: str) -> Entry:
    if mode == "copy":
        status = os.stat(source)
        return Entry(mode, source, place, status.st_size, status.st_mtime_ns)
    target = os.readlink(source) if mode == "move" and os.path.islink(source) else None
    return Entry(mode, source, place, target=target)


def _make_folder(folder: str) -> bool:
    """Makes the folder, and whether it was not there before."""
    try:
        os.makedirs(folder)
        return True
    except (FileExistsError, NotADirectoryError):
        if os.path.isdir(folder):
            return False
        raise UsageError(f"{folder} is a file, or lies below one; expected a folder for the classes") from None
    except OSError as error:
        raise cannot_write(folder, error) from None
