"""Features: what the frozen backbone of a network gives for views of pictures, computed once.

Whatever was computed is kept on disk by the content of the picture and the recipe of the view (`features.cache`), so
that a second run, another head, another split, other names of the files cost no run of the network.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.data.loader import FEW, TIMEOUT_S, Opening, StageTimes, batches, cores, prepared, run_ahead
from visiontool.data.prepare import Prepared, Recipe
from visiontool.errors import ModelError, PictureError, UsageError
from visiontool.images.decode import DEFAULT_LIMITS, Limits
from visiontool.images.fingerprint import Fingerprint
from visiontool.images.formats import read
from visiontool.inference.embedding_cache import NOT_KEPT, Store, backbone_digest, file, look_from, look_to_bytes

if TYPE_CHECKING:
    from visiontool.images.augment import View
    from visiontool.inference.classifier import Classifier

_READ_AT_ONCE = 256  # pictures that are looked up together
_HASHED_AT_ONCE = 64  # files for a thread at a time: handing over a single one takes as long as reading it
_LOOK = "look"  # in place of a view's key


class Features(NamedTuple):
    """Embeddings of V views of N pictures."""

    embeddings: NDArray[np.float32]
    """(N, V, D); zeros where the picture cannot be read."""
    looks: list[Fingerprint | None]
    """None where the picture cannot be read."""
    errors: dict[int, str]
    """The index of each picture that cannot be read, and why."""
    computed: int
    """Views that the network ran for; the others were kept, or are those of another picture with the same bytes."""
    notes: tuple[str, ...]
    """What the user should know of what was kept, or why nothing is kept for the next run."""


def extract(
    classifier: "Classifier",
    paths: Sequence[str],
    views: "Sequence[View]",
    *,
    limits: Limits = DEFAULT_LIMITS,
    workers: int | None = None,
    timeout: float | None = TIMEOUT_S,
    batch_size: int | None = None,
    use_cache: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """The embeddings of all `views` of the pictures at `paths`, in order.

    A run that is killed goes on where it was, but for the last second or two. A picture that cannot be read gives an
    error of its own.

    Args:
        classifier: loaded with threads=1 it runs as many batches at once as there are cores, which is fastest.
        workers: files opened at the same time; None for one a core.
        timeout: seconds after which a file that is being opened is given up.
        batch_size: views in one run of the network; None for 8, and fewer where many runs go on at once.
        use_cache: whether to take and keep what was computed.
        progress: called with the number of pictures that are done and of all.

    Raises:
        ModelError: the model file has no embedding output, or resizes pictures itself.
        UsageError: no view, or a number out of range.
        VisiontoolError: no process could be started to open pictures in.
    """
    if not views or (workers is not None and workers < 1) or (batch_size is not None and batch_size < 1):
        raise UsageError("extract needs a view; workers and batch_size must be at least 1")
    classifier.check_finetunable()
    opening = Opening(workers or cores(), timeout)
    run = _Extraction(classifier, paths, views, limits, opening, progress or (lambda *_: None))
    with run.open_store() if use_cache else Store(None) as store:
        for places, indices in run.take_kept(store).items():
            run.compute(places, indices, classifier.batch_size(batch_size), store)
    run.copy_to_same()
    return Features(run.embeddings, run.looks, dict(sorted(run.errors.items())), run.computed, tuple(store.notes))


class _Extraction:
    """The result while it is filled. Pictures with the same bytes are one, the first of them, until the end."""

    def __init__(
        self,
        classifier: "Classifier",
        paths: Sequence[str],
        views: "Sequence[View]",
        limits: Limits,
        opening: Opening,
        progress: Callable[[int, int], None],
    ) -> None:
        self.recipe = Recipe.of(classifier.spec, limits)
        self.embeddings = np.zeros((len(paths), len(views), classifier.embedding_width()), np.float32)
        self.looks: list[Fingerprint | None] = [None] * len(paths)
        self.errors: dict[int, str] = {}
        self.computed = 0
        self._classifier = classifier
        self._output = classifier.embedding_output()
        self._paths = paths
        self._views = tuple(views)
        self._opening = opening
        self._progress = progress
        self._done = 0
        self._backbone = b""
        progress(0, len(paths))
        self._contents = _contents(paths, limits, opening.workers)
        self._same = defaultdict[int, list[int]](list)  # index of the first with the same bytes -> all indices
        firsts: dict[bytes, int] = {}
        for index, content in enumerate(self._contents):
            self._same[index if content is None else firsts.setdefault(content.digest, index)].append(index)

    def open_store(self) -> Store:
        """Where what is computed is kept."""
        try:
            self._backbone = backbone_digest(self._classifier, self.recipe)
            return Store(file())
        except (ModelError, OSError) as error:  # no home folder; or the model file is gone
            store = Store(None)
            store.notes.append(f"{NOT_KEPT}: {error}")
            return store

    def take_kept(self, store: Store) -> dict[tuple[int, ...], list[int]]:
        """Takes what is kept. Gives the pictures that lack something, by the places of the views that they lack."""
        lacking = defaultdict[tuple[int, ...], list[int]](list)
        names = [view.key() for view in self._views]
        for indices in batches(self._same, _READ_AT_ONCE):
            wanted: dict[bytes, tuple[int, int | None]] = {}  # the key of what, and where it goes
            for index in indices:
                if (content := self._contents[index]) is not None:
                    wanted[self._key(content, _LOOK)] = index, None
                    wanted |= {self._key(content, name): (index, place) for place, name in enumerate(names)}
            found = set()
            for key, value in store.read(list(wanted)):
                index, place = wanted[key]
                found.add((index, place))
                if place is None:
                    self.looks[index] = look_from(value)
                else:
                    self.embeddings[index, place] = np.frombuffer(value, "<f4")
            for index in indices:
                is_new = self.looks[index] is None
                places = tuple(place for place in range(len(names)) if is_new or (index, place) not in found)
                if places:
                    lacking[places].append(index)
                else:
                    self._done += len(self._same[index])
        self._progress(self._done, len(self._paths))
        return lacking

    def compute(self, places: tuple[int, ...], indices: Sequence[int], batch_size: int, store: Store) -> None:
        """Has the network run for the views at `places` of the pictures `indices`."""
        recipe = self.recipe._replace(views=tuple(self._views[place] for place in places))
        opening = self._opening._replace(isolate=len(indices) > FEW)
        size, at_once = max(1, batch_size // len(places)), self._classifier.runs_at_once
        ahead = size * (1 + at_once) + opening.workers
        items = prepared((self._paths[index] for index in indices), recipe, opening, ahead)
        with closing(items):
            numbered = batches(zip(indices, items, strict=True), size)
            for batch, embedded in run_ahead(partial(self._embedded, batch_size), numbered, at_once, StageTimes()):
                vectors = iter(embedded)
                for index, item in batch:
                    if item.error is None:
                        self._take(index, places, item, next(vectors), store)
                    else:
                        self._fail(index, item.error)
                    self._done += len(self._same[index])
                self._progress(self._done, len(self._paths))

    def copy_to_same(self) -> None:
        """Gives pictures with the same bytes what the first of them has."""
        for first, indices in self._same.items():
            for index in indices[1:]:
                self.embeddings[index] = self.embeddings[first]
                self.looks[index] = self.looks[first]
                if first in self.errors:
                    self.errors[index] = self.errors[first]

    def _embedded(self, batch_size: int, batch: list[tuple[int, Prepared]]) -> Sequence[NDArray[np.float32]]:
        """The embeddings (V, D) of those in the batch that are pictures."""
        pictures = [item.pixels for _, item in batch if item.pixels is not None]
        if not pictures:
            return []
        pixels = np.concatenate(pictures)
        parts = np.split(pixels, range(batch_size, len(pixels), batch_size))
        views = len(pixels) // len(pictures)
        full = min(batch_size, max(1, batch_size // views) * views)
        runs = [self._classifier.run(part, self._output, pad_to=full) for part in parts]
        vectors = np.concatenate(runs).reshape(len(pictures), views, -1)
        if vectors.shape[2] != self.embeddings.shape[2]:
            raise ModelError(
                f"{self._classifier.path}: output {self._output!r} gives {vectors.shape[2]} numbers for a picture;"
                f" its file says {self.embeddings.shape[2]}"
            )
        return list(vectors)

    def _take(
        self, index: int, places: tuple[int, ...], item: Prepared, vectors: NDArray[np.float32], store: Store
    ) -> None:
        self.computed += len(places)
        if not np.isfinite(vectors).all():
            self._fail(index, "the network's answer is not a number")
            return
        self.embeddings[index, list(places)] = vectors
        self.looks[index] = item.look
        content = self._contents[index]
        # What was opened must be what the digest is of: somebody may edit pictures in the middle of a long run.
        if item.look is not None and content is not None and content.is_still_at(self._paths[index]):
            names = [self._views[place].key() for place in places]
            rows = [
                (self._key(content, name), vector.astype("<f4", copy=False).tobytes())
                for name, vector in zip(names, vectors, strict=True)
            ]
            store.add([*rows, (self._key(content, _LOOK), look_to_bytes(item.look))])

    def _fail(self, index: int, error: str) -> None:
        self.errors[index] = error
        self.embeddings[index] = 0.0
        self.looks[index] = None

    def _key(self, content: "_Content", what: str) -> bytes:
        """The key of what is kept of a picture: the look, or the embedding of the view with that key."""
        return hashlib.blake2b(self._backbone + content.digest + what.encode(), digest_size=16).digest()


class _Content(NamedTuple):
    """What a file held when it was read."""

    digest: bytes
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str, limits: Limits) -> "_Content | None":
        """The content of the file at `path`; None where `images.open_image` says what is wrong with it."""
        try:
            status = os.stat(path)
            data = read(path, limits.max_bytes)
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


def _contents(paths: Sequence[str], limits: Limits, threads: int) -> list[_Content | None]:
    """The content of each file, as `_Content.of`."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="visiontool-hash")
    try:
        some = pool.map(lambda batch: [_Content.of(path, limits) for path in batch], batches(paths, _HASHED_AT_ONCE))
        return list(chain.from_iterable(some))
    finally:
        pool.shutdown(cancel_futures=True)
