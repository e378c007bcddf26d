"""Values under keys in one SQLite file, with a checksum each. Raises what sqlite3 raises."""

import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path

from visiontool import cache

Row = tuple[bytes, bytes]
"""A key of any length, and its value."""

# The largest there is: of pages of 16 KiB, embeddings of 2,048 numbers would fill a half.
_PAGE_BYTES = 2**16
_CACHE_BYTES = 2**25
_WAIT_S = 10.0  # for another process that is writing
_AT_ONCE = 900  # keys in one query; older SQLites take at most 999
# These say that the file is no such database, or that a part of it was overwritten; others, that the disk or another
# process does not let us.
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}


class Database:
    """The file at `path`, which is made where it is not there; for one thread."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        mode = "ro" if read_only else "rwc"
        self._connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=_WAIT_S, isolation_level=None
        )
        try:
            self._connection.text_factory = bytes  # a damaged file may have any text in place of a value
            self._connection.execute(f"PRAGMA cache_size = {-_CACHE_BYTES // 1024}")
            if not read_only:
                self._connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
                # What is written outlives the process in any case; this is about a machine that loses its power.
                self._connection.execute("PRAGMA synchronous = NORMAL")
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, value BLOB, checksum INTEGER)"
                )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def read(self, keys: Sequence[bytes]) -> list[Row]:
        """Those of `keys` that are there, each with its value, in no order."""
        found: list[Row] = []
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            rows = self._connection.execute(f"SELECT key, value, checksum FROM features WHERE key IN ({marks})", some)
            # SQLite has no checksums of its own: where a page was overwritten it may give anything.
            found += [
                (key, value)
                for key, value, checksum in rows
                if isinstance(value, bytes) and _checksum(key, value) == checksum
            ]
        return found

    def write(self, rows: Sequence[Row]) -> None:
        """Writes all rows or none. Where the file is as large as all features may be, its oldest rows go."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            if self._used_bytes() + sum(len(value) for _, value in rows) > cache.FEATURES_BYTES:
                self._connection.execute(
                    "DELETE FROM features WHERE rowid <="
                    " (SELECT min(rowid) + (max(rowid) - min(rowid)) / 8 FROM features)"
                )
            self._connection.executemany(
                "INSERT OR REPLACE INTO features VALUES (?, ?, ?)",
                ((key, value, _checksum(key, value)) for key, value in rows),
            )
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _used_bytes(self) -> int:
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether `error` says that the file is damaged, and not that the disk or another process does not let us."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)  # none: Python could not make sense of a value
    return code & 0xFF in _DAMAGE


def _checksum(key: bytes, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key))
