"""The contents of picture files, told by a digest."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import NamedTuple

from visiontool.errors import PictureError
from visiontool.images import Limits
from visiontool.images.reading import read
from visiontool.pipeline import batches

_AT_ONCE = 64  # files for a thread at a time: handing over a single one takes as long as reading it


class Content(NamedTuple):
    """What a file held when it was read."""

    digest: bytes
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str, limits: Limits) -> "Content | None":
        """The content of the file at `path`; None where `images.open_image` says what is wrong with it."""
        try:
            status = os.stat(path)
            data = read(path, limits)
        except (PictureError, OSError, ValueError, MemoryError):  # ValueError: a null byte in the path
            return None
        return cls(hashlib.blake2b(data, digest_size=32).digest(), status.st_size, status.st_mtime_ns)

    def is_still_at(self, path: str) -> bool:
        """Whether the file at `path` was not written meanwhile."""
        try:
            status = os.stat(path)
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)


def contents(paths: Sequence[str], limits: Limits, threads: int) -> list[Content | None]:
    """The content of each file, as `Content.of`."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="visiontool-hash")
    try:
        some = pool.map(lambda batch: [Content.of(path, limits) for path in batch], batches(paths, _AT_ONCE))
        return list(chain.from_iterable(some))
    finally:
        pool.shutdown(cancel_futures=True)
