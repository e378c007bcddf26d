"""The cache of embeddings: values by key in one SQLite file."""

import hashlib
import json
import sqlite3
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Self

import PIL

from visiontool.data.loader import batches
from visiontool.data.prepare import Recipe
from visiontool.files import cannot_write, model_sha256
from visiontool.hub import cache
from visiontool.images.fingerprint import Fingerprint

if TYPE_CHECKING:
    from visiontool.inference.classifier import Classifier

_NOT_KEPT = "Embeddings are not kept for the next run"
_MAX_BYTES = 10 * 10**9  # then the oldest rows go
# Goes up when the same picture comes to the network with other pixels than before, or when rows are written otherwise.
_FORMAT = 2
_HEAD = struct.Struct("<II16s3sf")  # width, height, digest of its pixels, color, sharpness
_SETUP = f"""
PRAGMA cache_size = {-(2**15)};  -- KiB
PRAGMA page_size = {2**16};  -- the largest there is: of smaller ones, embeddings of 2,048 numbers would fill a half
PRAGMA synchronous = NORMAL;  -- what is written outlives the process in any case; this is about a loss of power
CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, value BLOB);
"""
_WAIT_S = 10.0  # for another process that is writing
_COMMIT_S = 1.0
_AT_ONCE = 900  # keys in one query; older SQLites take at most 999


def file() -> Path:
    """The file of all embeddings."""
    return cache.features() / "features.sqlite"


def backbone_digest(classifier: "Classifier", recipe: Recipe) -> bytes:
    """Of all that an embedding depends on beside the picture and its view: weights, transforms, provider, libraries."""
    import onnxruntime  # that it was imported before, by `runtime`, keeps it from printing to stdout

    parts = [
        _FORMAT,
        model_sha256(classifier.path),
        classifier.spec.embedding,
        asdict(classifier.spec.input),
        recipe.fit_options,
        recipe.resize_to,
        classifier.provider,
        onnxruntime.__version__,
        PIL.__version__,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def fingerprint_to_bytes(fingerprint: Fingerprint) -> bytes:
    """A fingerprint as a value of the cache."""
    width, height, pixels, thumbnail, color, sharpness = fingerprint
    return _HEAD.pack(width, height, bytes.fromhex(pixels), color, sharpness) + thumbnail


def fingerprint_from(value: bytes) -> Fingerprint:
    """The fingerprint of a value of the cache."""
    width, height, pixels, color, sharpness = _HEAD.unpack_from(value)
    return Fingerprint(width, height, pixels.hex(), value[_HEAD.size :], color, sharpness)


class EmbeddingCache:
    """Values by key in the file `path`; None keeps nothing. What is wrong with the file or its disk is in `notes`."""

    def __init__(self, path: Path | None) -> None:
        self.notes: list[str] = []
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._was_replaced = False
        self._unwritten: list[tuple[bytes, bytes]] = []
        self._written = time.monotonic()
        if path is not None:
            self._open(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        if self._database is not None:
            self._database.close()

    def read(self, keys: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """Those of `keys` that are cached, with their values, in no order."""
        rows: list[tuple[bytes, bytes]] = []
        try:
            for some in batches(keys, _AT_ONCE):
                if self._database is not None:
                    marks = ",".join("?" * len(some))
                    rows += self._database.execute(f"SELECT key, value FROM features WHERE key IN ({marks})", some)
        except sqlite3.Error as error:
            self._recover(error)
        return rows

    def add(self, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Adds keys with their values, which are written once a second and at the end."""
        self._unwritten += rows
        if time.monotonic() - self._written > _COMMIT_S:
            self.flush()

    def flush(self) -> None:
        """Writes what was added, and deletes the oldest rows of a file that is too large."""
        rows, self._unwritten = self._unwritten, []
        self._written = time.monotonic()
        if self._database is None or not rows:
            return
        try:
            with self._database:  # all rows or none
                pages = "pragma_page_count, pragma_freelist_count, pragma_page_size"
                query = f"SELECT (page_count - freelist_count) * page_size FROM {pages}"
                if self._database.execute(query).fetchone()[0] + sum(len(value) for _, value in rows) > _MAX_BYTES:
                    eighth = "SELECT min(rowid) + (max(rowid) - min(rowid)) / 8 FROM features"
                    self._database.execute(f"DELETE FROM features WHERE rowid <= ({eighth})")
                self._database.executemany("INSERT OR REPLACE INTO features (key, value) VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            self._recover(error)

    def _open(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=_WAIT_S, isolation_level="IMMEDIATE")
            self._database.executescript(_SETUP)
        except OSError as error:
            self.notes.append(f"{_NOT_KEPT}: {cannot_write(error)}")
        except sqlite3.Error as error:
            self._recover(error)

    def _recover(self, error: sqlite3.Error) -> None:
        """Continues with a new file where this one is damaged, else without any."""
        if self._database is not None:
            self._database.close()
            self._database = None
        # An OperationalError is about the disk or another process, and not about what is in the file.
        if self._path is None or isinstance(error, sqlite3.OperationalError) or self._was_replaced:
            self.notes.append(f"{_NOT_KEPT}: {self._path}: {error}")
            return
        self._was_replaced = True
        self.notes.append(f"The cached embeddings are damaged ({error}); they are computed anew.")
        with suppress(OSError):
            self._path.unlink()
            self._path.with_name(self._path.name + "-journal").unlink(missing_ok=True)
        self._open(self._path)
