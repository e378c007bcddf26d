"""What is measured of one network at one batch size, in the process that is there for it alone (`process`)."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.data.loader import TIMEOUT_S, LoadOptions, StageTimes, cores, load
from visiontool.data.prepare import Recipe
from visiontool.errors import DataError, ModelError
from visiontool.evaluation.benchmark import memory
from visiontool.images.decode import DEFAULT_LIMITS
from visiontool.inference.classifier import Classifier

_WARM_SHARE = 0.2  # of the time of a measurement, beside one run at least


class Task(NamedTuple):
    """One network at one batch size."""

    model: str
    device: str
    provider: str | None
    batch_size: int
    pictures: tuple[str, ...]  # paths; they are taken again and again
    seconds: float  # for all measurements together, at least a few runs each


class Round(NamedTuple):
    """What one process measured."""

    device: str
    provider: str
    latencies_ms: tuple[float, ...]  # of each run of the network, one at a time on the whole machine
    network_images_per_s: float  # as many runs at once as fill the machine
    opening_images_per_s: float  # pictures opened and fitted, without the network
    end_to_end_images_per_s: float
    decode_ms: float  # a picture, as are the next two; added up over all threads and processes
    preprocess_ms: float
    run_ms: float
    unreadable: float  # the share of the pictures
    peak_memory_bytes: int | None  # of the process with the network; None where nobody knows
    gpu_memory_bytes: int | None
    seconds: float  # that all of it took


def measure(task: Task) -> Round:
    """Measures.

    Raises:
        ModelError: the file takes another number of pictures at once, or onnxruntime cannot run it.
        DataError: none of the pictures can be read.
        DeviceError, UsageError: as `Classifier.load`.
    """
    began = time.perf_counter()
    free_before = memory.free_on_gpus()
    share = task.seconds / 5
    for_few = _load(task, threads=0)
    _check_batch(for_few, task.batch_size)
    recipe = Recipe.of(for_few.spec, DEFAULT_LIMITS)
    pixels = _pixels(task.pictures, recipe, task.batch_size)
    # As predict does it: on the CPU a run on all cores answers a few pictures soonest, and a run a core does many.
    latencies = _latencies(for_few, pixels, share) if for_few.provider == "cpu" else []
    del for_few
    for_many = _load(task, threads=1)
    latencies = latencies or _latencies(for_many, pixels, share)
    network = _network_rate(for_many, pixels, share)
    opening = _opening_rate(task.pictures, recipe, share)
    whole, times, unreadable = _end_to_end(for_many, task, 2 * share)
    return Round(
        device=for_many.device,
        provider=for_many.provider,
        latencies_ms=tuple(latencies),
        network_images_per_s=network,
        opening_images_per_s=opening,
        end_to_end_images_per_s=whole,
        decode_ms=1000 * times.decode_s,
        preprocess_ms=1000 * times.preprocess_s,
        run_ms=1000 * times.network_s,
        unreadable=unreadable,
        peak_memory_bytes=memory.peak_bytes(),
        gpu_memory_bytes=memory.taken_on_gpu(for_many.device, free_before),
        seconds=time.perf_counter() - began,
    )


def _load(task: Task, threads: int) -> Classifier:
    return Classifier.load(
        task.model, device=task.device, provider=task.provider, threads=threads, engine_batch=task.batch_size
    )


def _check_batch(classifier: Classifier, batch_size: int) -> None:
    fixed = classifier.fixed_batch
    if fixed is not None and batch_size % fixed:
        raise ModelError(f"the file takes {fixed} pictures at once, and {batch_size} is no multiple of that")


def _pixels(pictures: Sequence[str], recipe: Recipe, count: int) -> NDArray[np.uint8]:
    """`count` pictures (N, H, W, 3): the first that can be read, again and again. Where the graph resizes them itself,
    the first and others of its size.
    """
    some: list[NDArray[np.uint8]] = []
    error: str | None = None
    with closing(load(pictures, recipe, LoadOptions(isolate=False))) as items:
        for item in items:
            error = error or item.error
            if item.pixels is not None:
                if not some or item.pixels.shape == some[0].shape:
                    some.append(item.pixels)
                if len(some) == count:
                    break
    if not some:
        raise DataError(f"none of the pictures can be read; the first: {pictures[0]}: {error}")
    return np.stack(list(islice(cycle(some), count)))


def _latencies(classifier: Classifier, pixels: NDArray[np.uint8], seconds: float) -> list[float]:
    """Milliseconds of each run."""
    for _ in _for_seconds(_WARM_SHARE * seconds):
        classifier.outputs(pixels, classifier.spec.logits)
    latencies = []
    for _ in _for_seconds(seconds):
        start = time.perf_counter()
        classifier.outputs(pixels, classifier.spec.logits)
        latencies.append(1000 * (time.perf_counter() - start))
    return latencies


def _network_rate(classifier: Classifier, pixels: NDArray[np.uint8], seconds: float) -> float:
    """Pictures a second, with as many runs at once as fill the machine."""
    at_once = classifier.runs_at_once

    def rate(for_seconds: float) -> float:
        return len(pixels) * _per_second(for_seconds, lambda: classifier.outputs(pixels, classifier.spec.logits))

    with ThreadPoolExecutor(at_once) as pool:
        _take(pool.map(rate, [_WARM_SHARE * seconds] * at_once), at_once)
        return sum(pool.map(rate, [seconds] * at_once))


def _opening_rate(pictures: Sequence[str], recipe: Recipe, seconds: float) -> float:
    """Pictures a second that are opened and fitted, by as many processes as predict has."""
    workers = cores()
    with closing(load(cycle(pictures), recipe, LoadOptions(isolate=True), ahead=3 * workers)) as items:
        _take(items, 8 * workers)  # the processes have started
        return workers * _per_second(seconds, lambda: _take(items, workers))


def _end_to_end(classifier: Classifier, task: Task, seconds: float) -> tuple[float, StageTimes, float]:
    """From files to answers: pictures a second, the seconds of each stage for a picture, and the share of pictures that
    cannot be read.
    """
    times = StageTimes()
    results = classifier.predict_stream(
        cycle(task.pictures), top_k=1, batch_size=task.batch_size, timeout=TIMEOUT_S, isolate=True, times=times
    )
    # Results come by batches, and as many batches at about the same time as there are runs.
    step = task.batch_size * classifier.runs_at_once
    with closing(results):
        _take(results, step)
        before = StageTimes(times.decode_s, times.preprocess_s, times.network_s)
        unreadable = done = 0

        def go_on() -> None:
            nonlocal unreadable, done
            unreadable += sum(result.error is not None for result in islice(results, step))
            done += step

        rate = step * _per_second(seconds, go_on)
    a_picture = StageTimes(
        (times.decode_s - before.decode_s) / done,
        (times.preprocess_s - before.preprocess_s) / done,
        (times.network_s - before.network_s) / done,
    )
    return rate, a_picture, unreadable / done


def _per_second(seconds: float, work: Callable[[], object]) -> float:
    """How often a second `work` is done."""
    start = time.perf_counter()
    done = 0
    for _ in _for_seconds(seconds):
        work()
        done += 1
    return done / (time.perf_counter() - start)


def _for_seconds(seconds: float) -> Iterator[None]:
    """Goes on for so long, and once at least."""
    end = time.perf_counter() + seconds
    yield
    while time.perf_counter() < end:
        yield


def _take(items: Iterator[object], count: int) -> None:
    deque(islice(items, count), maxlen=0)
