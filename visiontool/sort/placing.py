"""Gives a file another place without ever overwriting one: copy, link, move.

A file has its final name only when it is complete, and where a move is broken off, one of its two names is left. All of
them raise FileExistsError where the place is taken, also by a process that was faster.
"""

import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Callable

from visiontool.errors import PictureError

_CHUNK_BYTES = 2**20
_MAX_NAME_BYTES = 255
_PARTIAL = re.compile(r"\.visiontool-[0-9a-f]{16}\.partial")
# What file systems without hard links answer, and Linux where the file belongs to somebody else.
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}


def new_partial(folder: str) -> str:
    """A path in `folder` for a copy that is being written, found again by `remove_partials`."""
    return os.path.join(folder, f".visiontool-{os.urandom(8).hex()}.partial")


def remove_partials(folder: str) -> None:
    """Removes from `folder` the unfinished copies of runs that were killed."""
    for name in filter(_PARTIAL.fullmatch, os.listdir(folder)):
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, name))


def free_name(folder: str, name: str) -> str:
    """The first of `name`, name-2, name-3 ... that `folder` has not.

    The numbers in use stand in a row, so their end is found in a few looks: 34 where it is a hundred thousand.
    """
    stem, extension = os.path.splitext(name)

    def numbered(number: int) -> str:
        kept = stem
        while kept and len(os.fsencode(f"{kept}-{number}{extension}")) > _MAX_NAME_BYTES:
            kept = kept[:-1]
        return f"{kept}-{number}{extension}"

    def is_taken(number: int) -> bool:
        return os.path.lexists(os.path.join(folder, numbered(number)))

    if not os.path.lexists(os.path.join(folder, name)):
        return name
    taken, free = 1, 2
    while is_taken(free):
        taken, free = free, 2 * free
    while free - taken > 1:
        middle = (taken + free) // 2
        taken, free = (middle, free) if is_taken(middle) else (taken, middle)
    return numbered(free)


def copy_new(source: str, place: str, partial: str, *, durable: bool = False) -> None:
    """Copies content, times and permissions by way of `partial`, on the file system of `place`.

    Args:
        durable: have the disk confirm the copy, for a source that will be removed.

    Raises:
        PictureError: somebody wrote to the source at the same time.
    """
    try:
        with open(source, "rb") as original, open(partial, "xb", opener=_private) as copied:
            before = os.fstat(original.fileno())
            shutil.copyfileobj(original, copied, _CHUNK_BYTES)
            copied.flush()
            after = os.fstat(original.fileno())
            if durable:
                os.fsync(copied.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise PictureError("was changed while it was copied")
        with contextlib.suppress(PermissionError):  # file systems without permissions
            shutil.copystat(source, partial)
        _rename_new(partial, place)
        if durable:
            _confirm_folder(os.path.dirname(place))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)


def link_new(source: str, place: str) -> None:
    """Makes a symbolic link to `source`."""
    os.symlink(source, place)


def move_new(source: str, place: str, partial: str, target: str | None = None) -> None:
    """Moves a file, to another file system by a copy that the disk has confirmed.

    Args:
        partial: as for `copy_new`.
        target: for a link, what it shall say at its new place; it is made again there.
    """
    if target is not None:
        os.symlink(target, place)
        _remove_old(source, place)
        return
    try:
        _rename_new(source, place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy_new(source, place, partial, durable=True)
        _remove_old(source, place)


def is_regular(path: str) -> bool:
    """Whether `path` is a file or a link to one: not a folder, a pipe or a device, and there at all."""
    return _is_regular(path, os.stat)


def is_copy(source: str, place: str, size: int | None, mtime_ns: int | None) -> bool:
    """Whether `place` is a copy of `source`: both as they were when it was made, or else of the same content."""
    original, copied = _two_files(source, place, os.stat)
    if original is None or copied is None:
        return False
    as_made = (size, mtime_ns)
    return as_made == (original.st_size, original.st_mtime_ns) == (copied.st_size, copied.st_mtime_ns) or (
        original.st_size == copied.st_size and _same_bytes(source, place)
    )


def is_link_to(path: str, target: str) -> bool:
    """Whether `path` is a link that says `target`."""
    try:
        return os.readlink(path) == target
    except (OSError, ValueError):
        return False


def finish_move(old: str, new: str, old_target: str | None = None, new_target: str | None = None) -> bool:
    """Whether `new` is what was moved from `old`; where that is still there too, removes it.

    Args:
        old_target, new_target: for a link, what it says at either end.
    """
    if not os.path.lexists(old):
        return os.path.lexists(new)
    if old_target is None or new_target is None:
        one, other = _two_files(old, new, os.lstat)
        if one is None or other is None:
            return False
        is_same = os.path.samestat(one, other) or (one.st_size == other.st_size and _same_bytes(old, new))
    else:
        is_same = is_link_to(old, old_target) and is_link_to(new, new_target)
    if is_same:
        os.unlink(old)
    return is_same


def clear_reservation(source: str, place: str) -> None:
    """Removes the empty file that a run left at `place` which was killed on a file system without hard links."""
    with contextlib.suppress(OSError):
        if _is_regular(place, os.lstat) and os.lstat(place).st_size == 0 < os.stat(source).st_size:
            os.unlink(place)


def _rename_new(old: str, new: str) -> None:
    if os.name == "nt":  # where this never overwrites
        os.rename(old, new)
        return
    try:
        os.link(old, new)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.replace(old, new)
        except OSError:
            os.unlink(new)
            raise
    else:
        _remove_old(old, new)


def _remove_old(old: str, new: str) -> None:
    """Removes the old name of what has a new one; where that may not be, the new one, and raises."""
    try:
        os.unlink(old)
    except FileNotFoundError:  # another run moved it too
        pass
    except OSError:
        os.unlink(new)
        raise


def _confirm_folder(folder: str) -> None:
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)  # until it has the permissions of its source


def _two_files(
    source: str, place: str, look: Callable[[str], os.stat_result]
) -> tuple[os.stat_result, os.stat_result] | tuple[None, None]:
    """What `look` says of the source, and lstat of the place, where both are files with a name of their own."""
    if not (_is_regular(source, look) and _is_regular(place, os.lstat)):
        return None, None
    # One name that is reached by two ways, as when the source was replaced by a link to its copy, is one file to lose.
    one, other = os.path.realpath(source), os.path.realpath(place)
    if os.path.basename(one) == os.path.basename(other) and os.path.samefile(
        os.path.dirname(one), os.path.dirname(other)
    ):
        return None, None
    return look(source), os.lstat(place)


def _same_bytes(one: str, other: str) -> bool:
    with open(one, "rb") as first, open(other, "rb") as second:
        while chunk := first.read(_CHUNK_BYTES):
            if chunk != second.read(_CHUNK_BYTES):
                return False
        return not second.read(1)


def _is_regular(path: str, look: Callable[[str], os.stat_result]) -> bool:
    try:
        return stat.S_ISREG(look(path).st_mode)
    except (OSError, ValueError):  # ValueError: a null byte in the path
        return False
