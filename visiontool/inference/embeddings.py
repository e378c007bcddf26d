"""Embeddings of views of pictures, computed once.

What was computed is kept on disk by the content of the picture and the recipe of the view (`embedding_cache`), so that
a second run, another head, another split, other names of the files cost no run of the network.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.data.loader import DEFAULT_OPTIONS, LoadOptions, StageTimes, batches, cores, load, map_ahead
from visiontool.data.prepare import Prepared, Recipe
from visiontool.errors import ModelError, PictureError, UsageError
from visiontool.images.fingerprint import Fingerprint
from visiontool.images.formats import read
from visiontool.inference.embedding_cache import (
    NOT_KEPT,
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
_FINGERPRINT = "look"  # in place of a view's key


class Embeddings(NamedTuple):
    """Embeddings of V views of N pictures."""

    vectors: NDArray[np.float32]  # (N, V, D); zeros where the picture cannot be read
    fingerprints: list[Fingerprint | None]  # None where the picture cannot be read
    errors: dict[int, str]  # the index of each picture that cannot be read, and why
    computed: int  # views that the network ran for: those that were not cached, of pictures with different bytes
    notes: tuple[str, ...]  # about what was cached, or why nothing is kept for the next run


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

    A run that is killed goes on where it was, but for the last second or two. A picture that cannot be read gives an
    error of its own.

    Args:
        classifier: loaded with threads=1 it runs as many batches at once as there are cores, which is fastest.
        options: `batch_size` counts views.
        use_cache: whether to take and keep what was computed.
        progress: called with the number of pictures that are done and of all.

    Raises:
        ModelError: the model file has no embedding output, or resizes pictures itself.
        UsageError: no view, or a number out of range.
        VisiontoolError: no process could be started to open pictures in.
    """
    if not views or any(number is not None and number < 1 for number in (options.workers, options.batch_size)):
        raise UsageError("embed_views needs a view; workers and batch_size must be at least 1")
    classifier.check_finetunable()
    work = _Work(classifier, paths, views, options, progress or (lambda done, total: None))
    cache = EmbeddingCache(None)
    if use_cache:
        try:
            work.backbone = backbone_digest(classifier, work.recipe)
            cache = EmbeddingCache(file())
        except (ModelError, OSError) as error:  # no home folder; or the model file is gone
            cache.notes.append(f"{NOT_KEPT}: {error}")
    with cache:
        for places, indices in work.read(cache).items():
            work.compute(places, indices, cache)
    work.copy_to_same()
    errors = dict(sorted(work.errors.items()))
    return Embeddings(work.vectors, work.fingerprints, errors, work.computed, tuple(cache.notes))


class _Work:
    """The result while it is filled. Pictures with the same bytes are one, the first of them, until the end."""

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
        self._same = defaultdict[int, list[int]](list)  # index of the first with the same bytes -> all indices
        firsts: dict[bytes, int] = {}
        for index, digest in enumerate(self._digests):
            self._same[index if digest is None else firsts.setdefault(digest, index)].append(index)

    def read(self, cache: EmbeddingCache) -> dict[tuple[int, ...], list[int]]:
        """Reads what is cached. Gives the pictures that lack something, by the places of the views that they lack."""
        lacking = defaultdict[tuple[int, ...], list[int]](list)
        for indices in batches(self._same, _READ_AT_ONCE):
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
                    self._done += len(self._same[index])
        self._progress(self._done, len(self._paths))
        return lacking

    def compute(self, places: tuple[int, ...], indices: Sequence[int], cache: EmbeddingCache) -> None:
        """Runs the network on the views at `places` of the pictures `indices`."""
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
                    self._done += len(self._same[index])
                    if item.error is not None:
                        self._fail(index, item.error)
                        continue
                    rows = next(vectors)
                    self.computed += len(places)
                    if np.isfinite(rows).all():
                        self.vectors[index, list(places)] = rows
                        self.fingerprints[index] = item.fingerprint
                        self._keep(index, places, cache)
                    else:
                        self._fail(index, "the network's answer is not a number")
                self._progress(self._done, len(self._paths))

    def copy_to_same(self) -> None:
        """Gives pictures with the same bytes what the first of them has."""
        for first, indices in self._same.items():
            for index in indices[1:]:
                self.vectors[index] = self.vectors[first]
                self.fingerprints[index] = self.fingerprints[first]
                if first in self.errors:
                    self.errors[index] = self.errors[first]

    def _fail(self, index: int, error: str) -> None:
        self.errors[index] = error
        self.vectors[index] = 0.0
        self.fingerprints[index] = None

    def _keep(self, index: int, places: tuple[int, ...], cache: EmbeddingCache) -> None:
        digest, fingerprint = self._digests[index], self.fingerprints[index]
        if digest is not None and fingerprint is not None:
            values = {self._keys[place]: self.vectors[index, place].astype("<f4").tobytes() for place in places}
            values[_FINGERPRINT] = fingerprint_to_bytes(fingerprint)
            cache.add([(self._key(digest, name), value) for name, value in values.items()])

    def _key(self, digest: bytes, name: str) -> bytes:
        """The key of the fingerprint of a picture, or of the embedding of the view with that key."""
        return hashlib.blake2b(self.backbone + digest + name.encode(), digest_size=16).digest()


def _digest(path: str, options: LoadOptions) -> bytes | None:
    """Of the content of the file; None where `images.open_image` says what is wrong with it."""
    try:
        return hashlib.blake2b(read(path, options.limits.max_bytes), digest_size=32).digest()
    except (PictureError, OSError, ValueError, MemoryError):  # ValueError: a null byte in the path
        return None
