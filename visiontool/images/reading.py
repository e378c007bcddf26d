"""The bytes of a picture file, which may be anything: a pipe, a device, too large."""

import errno
import os
import stat
from typing import TYPE_CHECKING

from visiontool.errors import PictureError
from visiontool.text import short_repr

if TYPE_CHECKING:
    from visiontool.images.decode import Limits

# Some of them exist only on Windows, some only elsewhere.
_OPEN_FLAGS = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY", "O_NOINHERIT"))


def read(path: str | os.PathLike[str], limits: "Limits") -> bytes:
    """What `path` holds.

    Raises:
        PictureError: it cannot be read or is not allowed.
    """
    try:
        _check_status(path, os.stat(path), limits)  # Before opening: to open some devices is to use them.
        # In between it may have become a pipe, and to open a pipe that nobody writes to would wait for ever.
        number = os.open(path, os.O_RDONLY | _OPEN_FLAGS)
        try:
            status = os.fstat(number)
            _check_status(path, status, limits)
            with open(number, "rb", closefd=False) as file:
                data = file.read(status.st_size)
        finally:
            os.close(number)
    except FileNotFoundError as error:
        raise PictureError(_not_there(path)) from error
    except PermissionError as error:
        raise PictureError("no permission to read it") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        if getattr(error, "errno", None) == errno.ELOOP:
            raise PictureError("is a link that leads back to itself") from error
        raise PictureError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    if not data:  # None where it would have to be waited for
        raise PictureError("file is empty (0 bytes)")
    return data


def _check_status(path: str | os.PathLike[str], status: os.stat_result, limits: "Limits") -> None:
    if stat.S_ISDIR(status.st_mode):
        readable = os.access(path, os.R_OK | os.X_OK)
        raise PictureError("is a folder, not a picture" if readable else "is a folder that cannot be read")
    if not stat.S_ISREG(status.st_mode):
        raise PictureError("is not a file but a pipe, a socket or a device")
    check_size(status.st_size, limits)  # Files of /proc say 0 too, and some of them wait when they are read.


def check_size(size: int, limits: "Limits") -> None:
    if size == 0:
        raise PictureError("file is empty (0 bytes)")
    if size > limits.max_bytes:
        raise PictureError(f"file is {size:,} bytes, the limit is {limits.max_bytes:,} (--max-bytes)")


def _not_there(path: str | os.PathLike[str]) -> str:
    try:
        return f"is a link to a file that is not there: {short_repr(os.readlink(path))}"
    except (OSError, ValueError, AttributeError):  # no link
        return "no such file"
