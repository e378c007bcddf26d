"""The pictures of the page: the worst errors, each as the network saw it, with what speaks for its answer."""

import base64
from collections.abc import Sequence
from contextlib import closing, suppress
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visiontool.data.loader import LoadOptions, load
from visiontool.data.prepare import Recipe
from visiontool.errors import ConversionError, ModelError, UsageError
from visiontool.evaluation.evaluate import Evaluation, mistakes
from visiontool.inference.classifier import Classifier
from visiontool.inference.explain import Explanation, maps
from visiontool.inference.html import thumbnail

_MOST_SHOWN = 48
_HEAT = (255, 80, 0)
_MOST_OPAQUE = 200  # of 255
_MAP_SIDE = 56  # pixels; as large as it is shown would be a waste


def worst_errors(evaluation: Evaluation, model: Classifier | None, options: LoadOptions) -> list[dict[str, Any]]:
    """The misclassified pictures of the highest loss, at most 48, with their pictures and exact maps as data URIs."""
    worst = mistakes(evaluation)[:_MOST_SHOWN]
    samples, labels = [evaluation.samples[each.picture] for each in worst], evaluation.spec.labels
    paths = [sample.path for sample in samples]
    heat: Sequence[Explanation | None] = [None] * len(worst)
    if model is not None and len(model.members) == 1:
        with suppress(UsageError, ModelError, ConversionError):  # no exact maps, or a graph that nobody can read so far
            heat = list(maps(model, paths, [each.answer for each in worst], options))
    errors = []
    with closing(load(paths, Recipe.of(evaluation.spec, options.limits), options)) as opened:
        for mistake, sample, picture, one in zip(worst, samples, opened, heat, strict=True):
            row, shown = evaluation.probabilities[mistake.picture], (mistake.answer, mistake.runner_up, mistake.true)
            errors.append(
                {
                    "name": sample.name,
                    "true": mistake.true,
                    "answer": mistake.answer,
                    "probabilities": {labels[class_id]: float(row[class_id]) for class_id in shown},
                    "loss": mistake.loss,
                    "picture": None if picture.pixels is None else _uri("jpeg", thumbnail(picture.pixels)),
                    "heat": None if one is None else _overlay(one.map),
                }
            )
    return errors


def _overlay(heat: NDArray[np.float32]) -> str | None:
    """A heat map to lay over a picture: what speaks for the class, the more the less transparent."""
    for_class = np.maximum(np.nan_to_num(heat), 0)
    if not for_class.any():
        return None
    smooth = Image.fromarray(for_class / for_class.max()).resize((_MAP_SIDE, _MAP_SIDE), Image.Resampling.BICUBIC)
    pixels = np.full((_MAP_SIDE, _MAP_SIDE, 4), (*_HEAT, 0), np.uint8)
    pixels[..., 3] = np.round(np.clip(np.asarray(smooth), 0, 1) * _MOST_OPAQUE)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return _uri("png", file.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
