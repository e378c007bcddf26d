"""Embeddings of views of pictures, computed once: cached by the content of the picture and the recipe of the view."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from visiontool.data.loader import DEFAULT_OPTIONS, LoadOptions, StageTimes, batches, cores, load, map_ahead
from visiontool.data.prepare import Prepared, Recipe
from visiontool.errors import DataError, PictureError
from visiontool.images.fingerprint import Fingerprint
from visiontool.images.formats import read
from visiontool.inference.embedding_cache import (
    EmbeddingCache,
    backbone_digest,
    file,
    fingerprint_from,
    fingerprint_to_bytes,
)

if TYPE_CHECKING:
    from visiontool.images.augment import View
    from visiontool.inference.classifier import Classifier

_READ_AT_ONCE = 256  # pictures that are looked up together
_HASHED_AT_ONCE = 64  # files for a thread at a time: handing over a single one takes as long as reading it
_FINGERPRINT = "look with sharpness"  # in place of a view's key; another where fingerprints are written otherwise
_COSINES_BYTES = 32 * 2**20  # at a time in each thread


class Embeddings(NamedTuple):
    """Embeddings of V views of N pictures."""

    vectors: NDArray[np.float32]  # (N, V, D); zeros where the picture cannot be read
    fingerprints: list[Fingerprint | None]  # None where the picture cannot be read
    errors: dict[int, str]  # by the index of each picture that cannot be read
    computed: int  # views that went through the network: not cached, of pictures with different bytes
    notes: tuple[str, ...]  # what is wrong with the cache


def embed_views(
    classifier: "Classifier",
    paths: Sequence[str],
    views: "Sequence[View]",
    options: LoadOptions = DEFAULT_OPTIONS,
    *,
    use_cache: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Embeddings:
    """The embeddings of all `views` of the pictures at `paths`, in order.

    What is killed continues where it was, but for the last second or two.

    Args:
        classifier: loaded with threads=1 it runs as many batches at once as there are cores, which is fastest.
        options: `batch_size` counts views.
        progress: called with the number of pictures that are done and of all.

    Raises:
        ModelError: the model file has no embedding output.
        VisiontoolError: no process could be started to open pictures in.
    """
    work = _Work(classifier, paths, views, options, progress or (lambda done, total: None))
    if use_cache:
        work.backbone = backbone_digest(classifier, work.recipe)
    with EmbeddingCache(file() if use_cache else None) as cache:
        for places, indices in work.read(cache).items():
            work.compute(places, indices, cache)
    for first, indices in work.same.items():
        for index in indices[1:]:
            work.vectors[index] = work.vectors[first]
            work.fingerprints[index] = work.fingerprints[first]
            if first in work.errors:
                work.errors[index] = work.errors[first]
    errors = dict(sorted(work.errors.items()))
    return Embeddings(work.vectors, work.fingerprints, errors, work.computed, tuple(cache.notes))


def nearest(embeddings: NDArray[np.float32], count: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Indices and cosines (N, K) of the `count` others, or of all, that are most similar to each of (N, D), best first.

    Cosines have six decimals, and of equal ones the lower index is first. Raises DataError for fewer than two.
    """
    total = len(embeddings)
    if total < 2:
        raise DataError("neighbors need at least two pictures that can be read\nName more pictures, or a folder.")
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    count = min(count, total - 1)
    indices, cosines = np.empty((total, count), np.intp), np.empty((total, count))
    step = max(1, _COSINES_BYTES // (4 * total))

    def search(first: int) -> None:
        block = unit[first : first + step] @ unit.T
        rows = np.arange(len(block))
        block[rows, first + rows] = -np.inf
        for place in range(count):  # for a few, much faster than a partition
            indices[first + rows, place] = best = block.argmax(axis=1)
            cosines[first + rows, place] = block[rows, best]
            block[rows, best] = -np.inf

    # Not by the threads of BLAS, which wait by spinning.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(cores()) as pool:
        list(pool.map(search, range(0, total, step)))
    cosines = np.round(cosines, 6)
    order = np.lexsort((indices, -cosines))
    return np.take_along_axis(indices, order, 1), np.take_along_axis(cosines, order, 1)


class _Work:
    """The result while it is filled; of pictures with the same bytes only the first."""

    def __init__(
        self,
        classifier: "Classifier",
        paths: Sequence[str],
        views: "Sequence[View]",
        options: LoadOptions,
        progress: Callable[[int, int], None],
    ) -> None:
        self.recipe = Recipe.of(classifier.spec, options.limits)
        self.backbone = b""
        self.vectors = np.zeros((len(paths), len(views), classifier.embedding_width()), np.float32)
        self.fingerprints: list[Fingerprint | None] = [None] * len(paths)
        self.errors: dict[int, str] = {}
        self.computed = 0
        self._classifier = classifier
        self._paths = paths
        self._views = tuple(views)
        self._keys = [view.key() for view in views]
        self._options = options
        self._progress = progress
        self._done = 0
        progress(0, len(paths))

        def digests_of(some: list[str]) -> list[bytes | None]:
            return [_digest(path, options) for path in some]

        with ThreadPoolExecutor(options.workers or cores(), thread_name_prefix="visiontool-hash") as pool:
            self._digests = list(chain.from_iterable(pool.map(digests_of, batches(paths, _HASHED_AT_ONCE))))
        self.same = defaultdict[int, list[int]](list)  # all indices of the same bytes, by the first of them
        firsts: dict[bytes, int] = {}
        for index, digest in enumerate(self._digests):
            self.same[index if digest is None else firsts.setdefault(digest, index)].append(index)

    def read(self, cache: EmbeddingCache) -> dict[tuple[int, ...], list[int]]:
        """Reads what is cached; gives the other pictures, by the places of the views that they lack."""
        lacking = defaultdict[tuple[int, ...], list[int]](list)
        for indices in batches(self.same, _READ_AT_ONCE):
            targets: dict[bytes, tuple[int, int | None]] = {}  # picture and view of a key; None for the fingerprint
            for index in indices:
                if (digest := self._digests[index]) is not None:
                    targets[self._key(digest, _FINGERPRINT)] = index, None
                    targets |= {self._key(digest, key): (index, place) for place, key in enumerate(self._keys)}
            cached = set()
            for key, value in cache.read(list(targets)):
                index, place = targets[key]
                cached.add((index, place))
                if place is None:
                    self.fingerprints[index] = fingerprint_from(value)
                else:
                    self.vectors[index, place] = np.frombuffer(value, "<f4")
            for index in indices:
                is_new = self.fingerprints[index] is None
                places = tuple(place for place in range(len(self._keys)) if is_new or (index, place) not in cached)
                if places:
                    lacking[places].append(index)
                else:
                    self._done += len(self.same[index])
        self._progress(self._done, len(self._paths))
        return lacking

    def compute(self, places: tuple[int, ...], indices: Sequence[int], cache: EmbeddingCache) -> None:
        """Embeds the views at `places` of the pictures `indices`."""
        classifier, output = self._classifier, self._classifier.embedding_output()
        batch_size = classifier.batch_size(self._options.batch_size)
        pictures = max(1, batch_size // len(places))  # in a batch
        full = min(batch_size, pictures * len(places))

        def vectors_of(batch: list[tuple[int, Prepared]]) -> Sequence[NDArray[np.float32]]:
            """The embeddings (V, D) of those that can be read."""
            readable = [item.pixels for _, item in batch if item.pixels is not None]
            if not readable:
                return []
            pixels = np.concatenate(readable)
            parts = np.split(pixels, range(batch_size, len(pixels), batch_size))
            vectors = np.concatenate([classifier.outputs(part, output, pad_to=full) for part in parts])
            return list(vectors.reshape(len(readable), len(places), -1))

        recipe = self.recipe._replace(views=tuple(self._views[place] for place in places))
        at_once = classifier.runs_at_once
        paths = [self._paths[index] for index in indices]
        with closing(load(paths, recipe, self._options, ahead=pictures * (1 + at_once))) as items:
            numbered = batches(zip(indices, items, strict=True), pictures)
            for batch, embedded in map_ahead(vectors_of, numbered, at_once, StageTimes()):
                vectors = iter(embedded)
                for index, item in batch:
                    self._done += len(self.same[index])
                    error = item.error
                    if error is None:
                        rows = next(vectors)
                        self.computed += len(places)
                        error = None if np.isfinite(rows).all() else "the network's answer is not a number"
                    if error is not None:
                        self.errors[index] = error
                        self.vectors[index] = 0.0
                        self.fingerprints[index] = None
                        continue
                    self.vectors[index, list(places)] = rows
                    self.fingerprints[index] = fingerprint = item.fingerprint
                    digest = self._digests[index]
                    if digest is not None and fingerprint is not None:
                        values = {
                            self._keys[place]: row.astype("<f4").tobytes()
                            for place, row in zip(places, rows, strict=True)
                        }
                        values[_FINGERPRINT] = fingerprint_to_bytes(fingerprint)
                        cache.add([(self._key(digest, name), value) for name, value in values.items()])
                self._progress(self._done, len(self._paths))

    def _key(self, digest: bytes, name: str) -> bytes:
        """The key of the fingerprint of a picture, or of the embedding of the view with that key."""
        return hashlib.blake2b(self.backbone + digest + name.encode(), digest_size=16).digest()


def _digest(path: str, options: LoadOptions) -> bytes | None:
    """Of the content of the file; None where it cannot be read, which the loader reports."""
    try:
        return hashlib.blake2b(read(path, options.limits.max_bytes), digest_size=32).digest()
    except (PictureError, OSError, ValueError, MemoryError):  # ValueError: a null byte in the path
        return None
