"""One round of a measurement, in a process of its own: peaks of memory do not mix, and a crash costs one row."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import cycle, islice
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.data.loader import TIMEOUT_S, LoadOptions, StageTimes, cores, fitted, load
from visiontool.data.prepare import Recipe
from visiontool.data.worker import EndedError, Worker
from visiontool.errors import DataError, DeviceError, ModelError, UsageError, VisiontoolError, first_line
from visiontool.evaluation.benchmark import machine
from visiontool.images.decode import DEFAULT_LIMITS
from visiontool.inference.classifier import Classifier

_WARM_UP = 0.2  # share of the time of a measurement
_TIMED_S = 0.2  # for one latency


class Job(NamedTuple):
    model: str
    device: str
    provider: str | None
    batch_size: int
    pictures: tuple[str, ...]  # paths; they are used again and again
    seconds: float  # for all that is measured together


class Round(NamedTuple):
    device: str
    provider: str
    latencies_ms: tuple[float, ...]  # of single batches, one after another on the whole machine
    network_images_per_s: float  # with as many batches at once as fill the machine
    opening_images_per_s: float  # opened and fitted, without the network
    end_to_end_images_per_s: float
    decode_ms_per_image: float  # added up over all threads and processes, as are the next two
    preprocess_ms_per_image: float
    run_ms_per_image: float
    unreadable: float  # share of the pictures
    peak_memory_bytes: int | None  # of the process; None where it is not known
    gpu_memory_bytes: int | None
    seconds: float  # that the whole round took


def measure_in_process(job: Job) -> Round:
    """`measure` in a process of its own; ModelError for all that would not keep another job from being done."""
    worker = Worker(_measure_or_error)
    try:
        worker.start()
        answer = worker.call(job)
    except EndedError as ended:
        raise ModelError(f"its process {ended}") from None
    finally:
        worker.close()
    if isinstance(answer, VisiontoolError):
        raise answer
    return answer  # type: ignore[no-any-return]


def _measure_or_error(job: Job) -> Round | VisiontoolError:
    try:
        return measure(job)
    except (DeviceError, UsageError, DataError) as error:
        return error
    except VisiontoolError as error:
        return ModelError(str(error))
    except Exception as error:
        if "VISIONTOOL_DEBUG" in os.environ:
            raise
        return ModelError(f"{type(error).__name__}: {first_line(error)}")


def measure(job: Job) -> Round:
    start = time.perf_counter()
    free_before = machine.free_on_gpus()
    share = job.seconds / 5
    for_few = _load(job, threads=0)
    fixed = for_few.fixed_batch
    if fixed is not None and job.batch_size % fixed:
        raise ModelError(f"the file takes {fixed} pictures at once, and {job.batch_size} is no multiple of that")
    recipe = Recipe.of(for_few.spec, DEFAULT_LIMITS)
    # A graph that resizes pictures takes those of one size together.
    pictures = job.pictures[:1] if for_few.spec.resize == "graph" else job.pictures
    pixels = fitted(pictures, recipe, job.batch_size)
    pixels = pixels[np.arange(job.batch_size) % len(pixels)]
    # As predict does it: on the CPU one batch on all cores is soonest for a few pictures, a batch a core for many.
    latencies_ms = latencies(for_few, pixels, share) if for_few.provider == "cpu" else []
    del for_few
    for_many = _load(job, threads=1)
    latencies_ms = latencies_ms or latencies(for_many, pixels, share)
    network = _network_rate(for_many, pixels, share)
    opening = _opening_rate(job.pictures, recipe, share)
    end_to_end, times, unreadable = _end_to_end(for_many, job, 2 * share)
    return Round(
        device=for_many.device,
        provider=for_many.provider,
        latencies_ms=tuple(latencies_ms),
        network_images_per_s=network,
        opening_images_per_s=opening,
        end_to_end_images_per_s=end_to_end,
        decode_ms_per_image=1000 * times.decode_s,
        preprocess_ms_per_image=1000 * times.preprocess_s,
        run_ms_per_image=1000 * times.network_s,
        unreadable=unreadable,
        peak_memory_bytes=machine.peak_bytes(),
        gpu_memory_bytes=machine.taken_on_gpu(for_many.device, free_before),
        seconds=time.perf_counter() - start,
    )


def _load(job: Job, threads: int) -> Classifier:
    return Classifier.load(
        job.model, device=job.device, provider=job.provider, threads=threads, engine_batch=job.batch_size
    )


def latencies(classifier: Classifier, pixels: NDArray[np.uint8], seconds: float) -> list[float]:
    """The milliseconds of runs of the network on the pixels (N, H, W, 3), one after another for so long."""
    for _ in _repeat_for(_WARM_UP * seconds):
        classifier.outputs(pixels, classifier.spec.logits)
    times = []
    for _ in _repeat_for(seconds):
        start = time.perf_counter()
        classifier.outputs(pixels, classifier.spec.logits)
        times.append(1000 * (time.perf_counter() - start))
    return times


def latency_of(model: Classifier) -> float:
    """The median milliseconds of the network for one picture; of several models together their sum."""
    sizes = [(1, *member.spec.input.size, 3) for member in model.members]
    timed = [latencies(one, np.zeros(size, np.uint8), _TIMED_S) for one, size in zip(model.members, sizes, strict=True)]
    return sum(map(median, timed))


def _network_rate(classifier: Classifier, pixels: NDArray[np.uint8], seconds: float) -> float:
    """Pictures a second, with as many batches at once as fill the machine."""
    at_once = classifier.runs_at_once

    def rate(for_seconds: float) -> float:
        return len(pixels) * _per_second(for_seconds, lambda: classifier.outputs(pixels, classifier.spec.logits))

    with ThreadPoolExecutor(at_once) as pool:
        _skip(pool.map(rate, [_WARM_UP * seconds] * at_once), at_once)
        return sum(pool.map(rate, [seconds] * at_once))


def _opening_rate(pictures: Sequence[str], recipe: Recipe, seconds: float) -> float:
    """Pictures a second that are opened and fitted, by as many processes as predict has."""
    workers = cores()
    with closing(load(cycle(pictures), recipe, LoadOptions(isolate=True), ahead=3 * workers)) as items:
        _skip(items, 8 * workers)  # the processes have started
        return workers * _per_second(seconds, lambda: _skip(items, workers))


def _end_to_end(classifier: Classifier, job: Job, seconds: float) -> tuple[float, StageTimes, float]:
    """From files to answers: pictures a second, the seconds of each stage for a picture, and the unreadable share."""
    times = StageTimes()
    results = classifier.predict_stream(
        cycle(job.pictures), top_k=1, batch_size=job.batch_size, timeout=TIMEOUT_S, isolate=True, times=times
    )
    # Results come by batches, and as many batches at about the same time as the machine takes at once.
    step = job.batch_size * classifier.runs_at_once
    done = unreadable = 0

    def take() -> None:
        nonlocal done, unreadable
        unreadable += sum(result.error is not None for result in islice(results, step))
        done += step

    with closing(results):
        _skip(results, step)
        times.decode_s = times.preprocess_s = times.network_s = 0.0
        rate = step * _per_second(seconds, take)
    each = StageTimes(times.decode_s / done, times.preprocess_s / done, times.network_s / done)
    return rate, each, unreadable / done


def _per_second(seconds: float, work: Callable[[], object]) -> float:
    start = time.perf_counter()
    done = 0
    for _ in _repeat_for(seconds):
        work()
        done += 1
    return done / (time.perf_counter() - start)


def _repeat_for(seconds: float) -> Iterator[None]:
    """Yields until the time is over, once at least."""
    end = time.perf_counter() + seconds
    yield
    while time.perf_counter() < end:
        yield


def _skip(items: Iterator[object], count: int) -> None:
    deque(islice(items, count), maxlen=0)
