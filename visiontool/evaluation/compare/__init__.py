"""Whether a model answers as another does: both on the same pictures, through the code that users run.

A is the reference and B is judged: an export by its source, a file on one device by the same file on another.
"""

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.data.loader import batches as batches_of
from visiontool.data.loader import load
from visiontool.data.prepare import Recipe
from visiontool.errors import DataError, GateError
from visiontool.evaluation.compare.comparison import Accumulator, ComparedModel, Comparison, Pictures
from visiontool.evaluation.compare.gates import gate_for, label_differences, manifest_differences
from visiontool.evaluation.compare.layers import first_difference
from visiontool.files import MODEL_FILE
from visiontool.images.decode import DEFAULT_LIMITS
from visiontool.inference.classifier import DEFAULT_BATCH_SIZE, Classifier
from visiontool.model.difference import BATCHES, batches_for, padded, relative_l2
from visiontool.progress import Progress, silent

__all__ = ["BATCHES", "Comparison", "Pictures", "check", "compare", "first_difference"]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

_MAX_EMBEDDED = 256  # pictures whose embeddings are compared, since each goes through both networks once more
_MAX_FIRST_BYTES = 64 * 2**20  # of pixels, for batches and speed
_ROUNDS = 5


class PicturePair(NamedTuple):
    number: int  # among all pictures
    path: str
    a: Pixels  # as A takes it
    b: Pixels


def compare(a: Classifier, b: Classifier, pictures: Pictures, *, progress: Progress = silent) -> Comparison:
    """Compares B with A on pictures, each prepared for each of the two by its own manifest.

    However many pictures there are, memory holds some tens of them. Pictures that cannot be read are left out.

    Args:
        progress: called with "compare" and how many pictures of all are done.

    Raises:
        GateError: the two have another number of classes, so there is nothing to compare.
    """
    if len(a.spec.labels) != len(b.spec.labels):
        (first,) = label_differences(a.spec, b.spec)
        raise GateError(f"{_name(b)} cannot answer as {_name(a)} does, it knows other classes: {first}")
    gate = gate_for(a, b)
    totals = Accumulator(a, b, gate.sure)
    first_pairs = _compare_pictures(a, b, pictures, totals, progress)
    if totals.worst is None:
        raise DataError(f"{pictures.origin}: none of the pictures can be read\n{totals.first_unreadable}")
    worst_path, *worst_answers = totals.worst
    pixels_a, pixels_b = [pair.a for pair in first_pairs], [pair.b for pair in first_pairs]
    speeds = _images_per_s((a, b), (pixels_a, pixels_b))
    accuracies = totals.accuracies if pictures.targets is not None else (None, None)
    models = [
        ComparedModel(
            name=model.spec.name,
            path=str(model.path),
            device=model.device,
            precision=model.spec.precision,
            size_bytes=model.path.stat().st_size,
            images_per_s=speed,
            accuracy=accuracy,
            worst_answer=answer,
        )
        for model, speed, accuracy, answer in zip((a, b), speeds, accuracies, worst_answers, strict=True)
    ]
    return Comparison(
        a=models[0],
        b=models[1],
        origin=pictures.origin,
        worst=worst_path,
        **totals.figures(),
        batch_difference=_batch_difference(b, pixels_b),
        batches=BATCHES,
        gate=gate,
        manifest_differences=tuple(manifest_differences(a.spec, b.spec)),
    )


def check(a: Classifier, b: Classifier, comparison: Comparison) -> None:
    """Raises GateError for a comparison with faults: the first, the worst picture, and the first layer that differs."""
    faults = comparison.faults
    if not faults:
        return
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    answers = f"{comparison.a.worst_answer} became {comparison.b.worst_answer}"
    worst = f"The worst picture is {comparison.worst}: {answers}.\n" if comparison.differs else ""
    layer = first_difference(a, b, comparison.worst) or "their layers cannot be matched by name"
    raise GateError(
        f"{_name(b)} does not answer as {_name(a)} does: {faults[0]}{more}\n{worst}{layer[:1].upper()}{layer[1:]}."
    )


def _name(model: Classifier) -> str:
    return model.spec.name if model.path.name == MODEL_FILE else model.path.name


def _compare_pictures(
    a: Classifier, b: Classifier, pictures: Pictures, totals: Accumulator, progress: Progress
) -> list[PicturePair]:
    """Adds what both give for all pictures to `totals`; returns the first few pictures."""
    count = len(pictures.paths)
    embedded_step = -(-count // _MAX_EMBEDDED)
    batch_size = min(a.batch_size(None), b.batch_size(None))
    first_pairs: list[PicturePair] = []
    first_bytes = 0
    with closing(_pairs(a, b, pictures.paths, batch_size, totals)) as stream:
        for pairs in batches_of(stream, batch_size):
            targets = None if pictures.targets is None else [pictures.targets[pair.number] for pair in pairs]
            logits_a, logits_b = _outputs(a, b, pairs, (a.spec.logits, b.spec.logits))
            totals.add([pair.path for pair in pairs], logits_a, logits_b, targets)
            embedded = [pair for pair in pairs if pair.number % embedded_step == 0]
            if embedded and a.spec.embedding is not None and b.spec.embedding is not None:
                totals.add_embeddings(*_outputs(a, b, embedded, (a.spec.embedding, b.spec.embedding)))
            for pair in pairs:
                size = pair.a.nbytes + pair.b.nbytes
                if len(first_pairs) < max(BATCHES) and (not first_pairs or first_bytes + size <= _MAX_FIRST_BYTES):
                    first_pairs.append(pair)
                    first_bytes += size
            progress("compare", totals.pictures + totals.no_numbers + totals.unreadable, count)
    return first_pairs


def _pairs(
    a: Classifier, b: Classifier, paths: Sequence[str], batch_size: int, totals: Accumulator
) -> Generator[PicturePair, None, None]:
    """Each picture prepared for each model, opened once where that is the same; `totals` counts the unreadable."""
    recipes = [Recipe.of(model.spec, DEFAULT_LIMITS) for model in (a, b)]
    if recipes[0] == recipes[1]:
        del recipes[1]
    streams = [load(paths, recipe, ahead=2 * batch_size) for recipe in recipes]
    try:
        for index, (path, *items) in enumerate(zip(paths, *streams, strict=True)):
            errors = [item.error for item in items if item.error is not None]
            pixels = [item.pixels for item in items if item.pixels is not None]
            if errors:
                totals.add_unreadable(path, errors[0])
            else:
                yield PicturePair(index, path, pixels[0], pixels[-1])
    finally:
        for stream in streams:
            stream.close()


def _outputs(a: Classifier, b: Classifier, pairs: Sequence[PicturePair], names: tuple[str, str]) -> list[Floats]:
    result = []
    for model, name, pixels in ((a, names[0], [pair.a for pair in pairs]), (b, names[1], [pair.b for pair in pairs])):
        if len({picture.shape for picture in pixels}) == 1:  # a graph that resizes takes pictures of any size
            result.append(model.outputs(np.stack(pixels), name))
        else:
            result.append(np.concatenate([model.outputs(picture[None], name) for picture in pixels]))
    return result


def _batch_difference(model: Classifier, pixels: Sequence[Pixels]) -> float:
    """The largest relative L2 difference between the logits of pictures in a batch of each size and one by one."""
    sizes = batches_for(pixels[0].shape[:2])
    inputs = _of_one_size(pixels, max(sizes))
    alone = np.concatenate([model.outputs(picture[None], model.spec.logits) for picture in inputs])
    return max(relative_l2(alone[:size], model.outputs(inputs[:size], model.spec.logits)) for size in sizes)


def _of_one_size(pixels: Sequence[Pixels], count: int) -> Pixels:
    """`count` inputs: the pictures of the size of the first, padded with flips and shifts."""
    return padded([picture for picture in pixels if picture.shape == pixels[0].shape], count)


def _images_per_s(models: Sequence[Classifier], pixels: Sequence[Sequence[Pixels]]) -> list[float]:
    """Pictures a second through each network alone: the median of a few batches, the models in turn, for fairness."""
    batches = [
        _of_one_size(inputs, model.fixed_batch or min(len(inputs), DEFAULT_BATCH_SIZE))
        for model, inputs in zip(models, pixels, strict=True)
    ]
    rates = np.zeros((_ROUNDS, len(models)))
    for round_number in range(_ROUNDS):
        for number, (model, batch) in enumerate(zip(models, batches, strict=True)):
            start = time.perf_counter()
            model.outputs(batch, model.spec.logits)
            rates[round_number, number] = len(batch) / (time.perf_counter() - start)
    return [float(rate) for rate in np.median(rates, axis=0)]
