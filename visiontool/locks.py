"""Locks between processes: one works on a thing, the others wait for it or leave it."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_LOOKS_PER_S = 10


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds the lock file `path` for the block, after whoever holds it now; the file is gone afterwards.

    A process that dies lets go of it. Where the file system knows no locks, nobody waits.

    Args:
        waiting: called once if another holds it.

    Raises:
        OSError: the file cannot be made.
    """
    descriptor = _take(path)
    if descriptor is None and waiting is not None:
        waiting()
    while descriptor is None:
        time.sleep(1 / _LOOKS_PER_S)
        descriptor = _take(path)
    try:
        yield
    finally:
        _let_go(path, descriptor)


@contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Holds the lock file `path` for the block and gives True, or gives False at once if another holds it."""
    descriptor = _take(path)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            _let_go(path, descriptor)


def _take(path: Path) -> int | None:
    """The open lock file, or None if another process or thread holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        # The holder deletes the file: a lock on one that is gone, or was made anew since, holds nothing.
        if _lock(descriptor) and os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except FileNotFoundError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _let_go(path: Path, descriptor: int) -> None:
    with suppress(OSError):  # Windows deletes no open file: it stays, empty
        os.unlink(path)
    os.close(descriptor)
