"""Many pictures in order: opened ahead of the network in threads or processes, with bounded memory."""

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from visiontool.data.prepare import Prepared, Recipe, prepare
from visiontool.data.worker import EndedError, Worker
from visiontool.errors import DataError, VisiontoolError
from visiontool.images.decode import DEFAULT_LIMITS, ImageSource, Limits, NotPlainError

T = TypeVar("T")
U = TypeVar("U")

FEW = 64  # pictures up to which the plain ones are opened in threads of this process (docs/design.md)
TIMEOUT_S = 10.0  # the default, for one picture
_CPU_MAX = "/sys/fs/cgroup/cpu.max"
_WATCH_S = 0.2  # how often overdue pictures are looked for
_END_TIMEOUT_S = 0.5
# What a worker may take: JPEG 2000 holds a pixel in 4 channels of 4 bytes, which are converted and turned.
_MEMORY_BASE = 2**30
_MEMORY_PER_PIXEL = 32


@dataclass
class StageTimes:
    """Seconds spent in each stage, added up over all threads and processes."""

    decode_s: float = 0.0
    preprocess_s: float = 0.0
    network_s: float = 0.0


def cores() -> int:
    """The processor cores that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        # A container may see all cores of its host, and be allowed the time of a few (cgroup v2, cpu.max).
        with open(_CPU_MAX, encoding="ascii") as file:
            quota, period = file.read().split()
        return max(1, min(allowed, round(int(quota) / int(period))))
    except (OSError, ValueError):  # not Linux, cgroup v1, or "max"
        return allowed


class LoadOptions(NamedTuple):
    """How pictures are brought to a network."""

    limits: Limits = DEFAULT_LIMITS  # for the recipe
    workers: int | None = None  # files opened at the same time; None for one a core
    timeout: float | None = TIMEOUT_S  # seconds after which a file that is being opened is given up
    batch_size: int | None = None  # pictures in one run of the network; None for what suits it
    isolate: bool | None = None  # open JPEG, PNG, WebP and BMP in processes too; None for above `FEW` pictures


DEFAULT_OPTIONS = LoadOptions()


def load(
    images: Iterable[ImageSource], recipe: Recipe, options: LoadOptions = DEFAULT_OPTIONS, *, ahead: int | None = None
) -> Generator[Prepared, None, None]:
    """Pictures in order, each opened and fitted. One that cannot be read has an `error`.

    Files are opened in threads or processes before they are asked for. A picture that comes as an object is prepared
    when it is taken, since the caller may use the object again for the next.

    Args:
        ahead: pictures that wait for the network, beside those being opened; None for as many as these.
    """
    workers = options.workers or cores()
    most = workers + (workers if ahead is None else ahead)
    isolate = options.isolate
    if isolate is None:
        isolate = isinstance(images, Sized) and len(images) > FEW
    pool: _Pool | None = None

    def start(image: ImageSource) -> Prepared | Future[Prepared]:
        nonlocal pool
        if not isinstance(image, str | os.PathLike):
            return prepare(image, recipe)
        pool = pool or _Pool(recipe, workers, options.timeout, isolate)
        return pool.submit(os.fspath(image))

    try:
        for item in _queued(map(start, images), most - 1):
            yield item.result() if isinstance(item, Future) else item
    finally:
        if pool is not None:
            pool.close()


def _queued(items: Iterable[T], count: int) -> Iterator[T]:
    """The items in order, with `count` of them taken ahead."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def fitted(paths: Sequence[str], recipe: Recipe, most: int) -> NDArray[np.uint8]:
    """(n, H, W, 3) of at most `most` of the pictures, taken evenly, without unreadable ones; a DataError if all are."""
    some = [paths[place * len(paths) // most] for place in range(most)] if len(paths) > most else list(paths)
    opened = list(load(some, recipe))
    pixels = [item.pixels for item in opened if item.pixels is not None]
    if not pixels:
        first = f"; the first: {opened[0].path}: {opened[0].error}" if opened else ""
        raise DataError(f"of {len(opened):,} pictures none can be read{first}\nName others.")
    return np.stack(pixels)


class _Task(NamedTuple):
    path: str
    future: Future[Prepared]


class _Opener(threading.Thread):
    """Prepares one picture after another, by itself or with a worker process of its own."""

    def __init__(
        self, tasks: "queue.SimpleQueue[_Task | None]", recipe: Recipe, timeout: float | None, isolate: bool
    ) -> None:
        # What is left behind keeps no program from ending.
        super().__init__(name="visiontool-open", daemon=True)
        self._tasks = tasks
        self._recipe = recipe
        self._timeout = timeout
        self._isolate = isolate
        self._worker: Worker | None = None
        self._lock = threading.Lock()
        self._current: _Task | None = None
        self._seconds = 0.0  # since the current one was begun
        self._is_over = False

    def run(self) -> None:
        while not self._is_over and (task := self._tasks.get()) is not None:
            try:
                settle = partial(task.future.set_result, self._prepare(task))
            except BaseException as error:
                settle = partial(task.future.set_exception, error)
            with self._lock:
                self._current = None
                if not self._is_over:
                    settle()
        if self._worker is not None:
            self._worker.close()

    def _prepare(self, task: _Task) -> Prepared:
        if not self._isolate:
            self._begin(task)
            with contextlib.suppress(NotPlainError):
                return prepare(task.path, self._recipe, plain_only=True)
        worker = self._running_worker()
        self._begin(task)
        start = time.perf_counter()
        try:
            prepared: Prepared = worker.call(task.path)
            return prepared
        except EndedError as ended:
            self._worker = None
            error = f"the process that opened it {ended}"
            return Prepared(task.path, error=error, decode_s=time.perf_counter() - start)

    def _begin(self, task: _Task) -> None:
        with self._lock:
            self._current, self._seconds = task, 0.0

    def _running_worker(self) -> Worker:
        """The process, started where none is running; that is in no picture's time."""
        worker = self._worker
        if worker is None or not worker.is_alive():
            if worker is not None:
                worker.close()
            memory = _MEMORY_BASE + _MEMORY_PER_PIXEL * self._recipe.limits.max_pixels
            worker = Worker(partial(prepare, recipe=self._recipe), memory)
            with self._lock:
                self._worker, self._current = worker, None
                if self._is_over:
                    worker.kill()
            worker.start()
        return worker

    def tick(self, passed: float) -> bool:
        """Counts the seconds that passed. True where they were too many for its picture, and it is over."""
        with self._lock:
            if self._current is None or self._timeout is None:
                return self._is_over
            if self._seconds < self._timeout:
                self._seconds += passed
                return False
            task, self._current, self._is_over = self._current, None, True
        error = f"took longer than {self._timeout:g} s to open (--timeout)"
        task.future.set_result(Prepared(task.path, error=error, decode_s=self._seconds))
        self.end()
        return True

    def end(self) -> None:
        """Has it end: at once with a process, without one after its picture, since a thread cannot be killed."""
        with self._lock:
            self._is_over = True
            if self._worker is not None:
                self._worker.kill()


class _Pool:
    """The openers. One whose picture takes too long is given up, and another, with a process, takes its place."""

    def __init__(self, recipe: Recipe, workers: int, timeout: float | None, isolate: bool) -> None:
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._new = partial(_Opener, self._tasks, recipe, timeout)
        self._workers = workers
        self._isolate = isolate
        self._openers: list[_Opener] = []
        self._is_closed = threading.Event()
        self._watch = threading.Thread(target=self._replace_overdue, name="visiontool-watch", daemon=True)
        if timeout is not None:
            _start(self._watch)

    def submit(self, path: str) -> "Future[Prepared]":
        if len(self._openers) < self._workers:
            opener = self._new(self._isolate)
            _start(opener)
            self._openers.append(opener)
        task = _Task(path, Future())
        self._tasks.put(task)
        return task.future

    def close(self) -> None:
        """Ends the threads and kills their processes. Pictures that were not begun are dropped."""
        self._is_closed.set()
        if self._watch.is_alive():
            self._watch.join()
        for opener in self._openers:
            opener.end()
            self._tasks.put(None)
        until = time.monotonic() + _END_TIMEOUT_S
        for opener in self._openers:
            opener.join(max(0.0, until - time.monotonic()))

    def _replace_overdue(self) -> None:
        before = time.monotonic()
        while not self._is_closed.wait(_WATCH_S):
            now = time.monotonic()
            # While the run is stopped, as by Ctrl-Z, a clock goes on; that is no picture's fault.
            passed, before = min(now - before, 2 * _WATCH_S), now
            for place, opener in enumerate(self._openers):
                if opener.tick(passed):
                    with contextlib.suppress(VisiontoolError):  # tried again next time
                        # What hangs in a thread goes on to take time and memory there. One is enough.
                        another = self._new(True)
                        _start(another)
                        self._openers[place] = another


def _start(thread: threading.Thread) -> None:
    try:
        thread.start()
    except RuntimeError as error:
        raise VisiontoolError(
            f"no thread could be started to open pictures in: {error}\nOpen fewer at once: -j 1."
        ) from None


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one with what is left."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def map_ahead(
    function: Callable[[T], U], items: Iterable[T], at_once: int, times: StageTimes
) -> Generator[tuple[T, U], None, None]:
    """Each item with what `function` gives for it, in order; `at_once` calls go on at the same time."""

    def timed(item: T) -> tuple[U, float]:
        start = time.perf_counter()
        return function(item), time.perf_counter() - start

    pool = ThreadPoolExecutor(at_once, thread_name_prefix="visiontool-network")
    try:
        for item, future in _queued(((item, pool.submit(timed, item)) for item in items), at_once):
            result, seconds = future.result()
            times.network_s += seconds
            yield item, result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
