"""The two models at work: pictures through both as users run them, at several batch sizes, and against the clock."""

import time
from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.data.loader import LoadOptions, load
from visiontool.data.prepare import Recipe
from visiontool.images.decode import Limits
from visiontool.inference.classifier import DEFAULT_BATCH_SIZE, Classifier
from visiontool.runtime.alike import batches_for, padded, relative_l2

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

_ROUNDS = 5


class Pair(NamedTuple):
    """One picture as each of the two sees it; `place` is its own among all."""

    place: int
    path: str
    a: Pixels
    b: Pixels


class Unreadable(NamedTuple):
    """A picture that one of the two cannot be given."""

    path: str
    error: str


Stream = Generator[Pair | Unreadable, None, None]


def at_once(a: Classifier, b: Classifier) -> int:
    """The pictures in one run of either."""
    return min(a.batch_size(None), b.batch_size(None))


def pairs(a: Classifier, b: Classifier, paths: Sequence[str], limits: Limits, timeout: float) -> Stream:
    """Each picture, made ready for each model by what its own file says; opened once where that is the same."""
    recipes = [Recipe.of(model.spec, limits) for model in (a, b)]
    if recipes[0] == recipes[1]:
        del recipes[1]
    options = LoadOptions(timeout=timeout)
    streams = [load(paths, recipe, options, ahead=2 * at_once(a, b)) for recipe in recipes]
    try:
        for place, (path, *both) in enumerate(zip(paths, *streams, strict=True)):
            errors = [item.error for item in both if item.error is not None]
            pixels = [item.pixels for item in both if item.pixels is not None]
            yield Unreadable(path, errors[0]) if errors else Pair(place, path, pixels[0], pixels[-1])
    finally:
        for stream in streams:
            stream.close()


def both(a: Classifier, b: Classifier, some: Sequence[Pair], outputs: tuple[str, str]) -> tuple[Floats, Floats]:
    """An output of each model for these pictures."""
    return _run(a, [pair.a for pair in some], outputs[0]), _run(b, [pair.b for pair in some], outputs[1])


def _run(model: Classifier, pixels: Sequence[Pixels], output: str) -> Floats:
    if len({picture.shape for picture in pixels}) == 1:  # a graph that resizes takes pictures of any size
        return model.outputs(np.stack(pixels), output)
    return np.concatenate([model.outputs(picture[None], output) for picture in pixels])


def batch_difference(model: Classifier, pixels: Sequence[Pixels], batches: Sequence[int]) -> float:
    """How far logits depend on the batch that a picture is in: the largest relative L2 difference between those of the
    first pictures in a batch of each size and those of each alone.

    Args:
        pixels: pictures; where they are too few, they are padded with flips and shifts.
    """
    height, width = pixels[0].shape[:2]
    sizes = batches_for((height, width), batches)
    views = _padded(pixels, max(sizes))
    alone = np.concatenate([model.outputs(view[None], model.spec.logits) for view in views])
    largest = 0.0
    for size in sizes:
        together = model.outputs(views[:size], model.spec.logits)
        largest = max(largest, relative_l2(alone[:size], together))
    return largest


def _padded(pixels: Sequence[Pixels], count: int) -> Pixels:
    return padded([picture for picture in pixels if picture.shape == pixels[0].shape], count)


def images_per_s(
    a: Classifier, b: Classifier, pixels: tuple[Sequence[Pixels], Sequence[Pixels]]
) -> tuple[float, float]:
    """How many pictures a second go through each network, from pixels in memory to logits: the median of a few runs of
    up to 8 of them (or as many as a graph takes, no other number), the two in turn, so that what else the machine does
    meets both.
    """
    batches = [
        _padded(some, model.fixed_batch or min(len(some), DEFAULT_BATCH_SIZE))
        for model, some in zip((a, b), pixels, strict=True)
    ]
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(_ROUNDS):
        for model, batch, taken in zip((a, b), batches, seconds, strict=True):
            start = time.perf_counter()
            model.outputs(batch, model.spec.logits)
            taken.append((time.perf_counter() - start) / len(batch))
    return 1 / float(np.median(seconds[0])), 1 / float(np.median(seconds[1]))
