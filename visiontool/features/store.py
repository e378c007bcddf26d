"""What was computed of pictures, kept for the next run as far as that can be done."""

import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from visiontool import cache
from visiontool.features.database import Database, Row, is_damage

NOT_KEPT = "Features are not kept for the next run"
_COMMIT_S = 1.0


class Store:
    """Values by key in the file `path`, which any number of processes may use at once; None keeps nothing.

    Whatever is wrong with the file or its disk is no error but a note: then less is found, or nothing is kept.

    Attributes:
        notes: what the user should know.
    """

    def __init__(self, path: Path | None) -> None:
        self.notes: list[str] = []
        self._path = path
        self._opened = ExitStack()
        self._database: Database | None = None
        self._is_writable = False
        self._was_replaced = False
        self._unwritten: list[Row] = []
        self._written = time.monotonic()

    def __enter__(self) -> Self:
        if self._path is not None:
            self._open(self._path)
        return self

    def __exit__(self, *_: object) -> None:
        with self._opened:  # to the end: no other process may remove a file that is open
            self.flush()
            if self._path is not None:
                cache.trim_features(cache.FEATURES_BYTES)

    def read(self, keys: Sequence[bytes]) -> list[Row]:
        """Those of `keys` that are there, each with its value, in no order."""
        try:
            return self._database.read(keys) if self._database else []
        except sqlite3.Error as error:
            self._recover(error)
            return []

    def add(self, rows: Sequence[Row]) -> None:
        """Keeps rows, which are written together; within a second, if there are more by then."""
        if self._is_writable:
            self._unwritten += rows
            if time.monotonic() - self._written > _COMMIT_S:
                self.flush()

    def flush(self) -> None:
        """Writes what was added."""
        rows, self._unwritten = self._unwritten, []
        if self._database and rows:
            try:
                self._database.write(rows)
            except sqlite3.Error as error:
                self._recover(error)
        self._written = time.monotonic()

    def _open(self, path: Path) -> None:
        try:
            self._opened.enter_context(cache.features_in_use(path))
            self._is_writable = True
        except OSError as error:
            self.notes.append(f"{NOT_KEPT}: {cache.cannot_write(error)}")
            if not os.path.exists(path):
                return
        with suppress(OSError):
            os.utime(path)  # used now, for `cache.trim`
        try:
            self._database = Database(path, read_only=not self._is_writable)
        except sqlite3.Error as error:
            self._recover(error)
        else:
            self._opened.callback(self._database.close)

    def _recover(self, error: sqlite3.Error) -> None:
        """Goes on after an error: with a new file where this one is damaged, else without any."""
        self._opened.close()
        self._database, self._is_writable = None, False
        if self._path is not None and is_damage(error) and not self._was_replaced:
            self._was_replaced = True
            cache.remove_features(self._path)
            if not os.path.exists(self._path):
                self.notes.append(f"The features kept of this network were damaged ({error}); they are computed anew.")
                self._open(self._path)
                return
        self.notes.append(f"{NOT_KEPT}: {self._path}: {error}")
