"""What the page says and shows of an evaluation, as values that its template only has to lay out."""

import base64
import math
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visiontool.data.loader import LoadOptions, load
from visiontool.data.prepare import Recipe
from visiontool.errors import ConversionError, ModelError, UsageError
from visiontool.evaluation.evaluate import Evaluation, mistakes
from visiontool.evaluation.metrics import Metrics, wilson
from visiontool.inference.classifier import Classifier
from visiontool.inference.explain import Explanation, maps
from visiontool.inference.html import thumbnail
from visiontool.text import listed, plural

_BINS, _LEAST_IN_BIN = 15, 10
_MOST_IN_TABLE = 30  # classes whose confusion matrix is a table of counts; of more it is a picture
_PAIRS_LISTED = 15
_MOST_TICKS = 10
_SMALL = 0.01  # of a range that three decimals are too few for
_MOST_SHOWN = 48  # errors
_HEAT = (255, 80, 0)
_MOST_OPAQUE = 200  # of 255
_MAP_SIDE = 56  # pixels; as large as it is shown would be a waste


class Curve(NamedTuple):
    """How a quantity depends on another one."""

    names: tuple[str, str]  # of x and y
    points: Sequence[tuple[float, float, float]]  # x, y and the standard error of y
    chosen: float  # x
    is_log: bool = True  # whether x has a logarithmic scale


class Plot(NamedTuple):
    """Points to draw; all places are from 0 to 1."""

    names: tuple[str, str]  # of the axes, x and y
    ticks: tuple[list[tuple[float, str]], list[tuple[float, str]]]
    points: Sequence[Sequence[float]]  # x, y, and where its interval begins and ends
    guide: tuple[float, float, float, float]  # a dashed line: x, y, x, y
    is_joined: bool = False


def percent(share: float | None) -> str:
    """ "93.5%", or a dash where there is none."""
    return "–" if share is None else f"{share:.1%}"


def plot_of(curve: Curve) -> Plot:
    """The curve as a plot, with a dashed line at what was chosen."""
    x, y, error = np.array(curve.points, np.float64).T
    chosen = curve.chosen
    if curve.is_log:
        x, chosen = np.log10(x), np.log10(chosen)
    left, low = x.min(), (y - error).min()
    width, height = x.max() - left or 1.0, (y + error).max() - low or 1.0
    ticks = range(math.ceil(left), math.floor(left + width) + 1)
    if not curve.is_log:
        ticks = ticks[:: math.ceil(len(ticks) / _MOST_TICKS)]
    points = np.stack([(x - left) / width, *((each - low) / height for each in (y, y - error, y + error))], axis=1)
    return Plot(
        curve.names,
        (
            [((tick - left) / width, f"{10.0**tick if curve.is_log else tick:g}") for tick in ticks],
            [(each, format(low + height * each, ".3f" if height > _SMALL else ".2g")) for each in np.linspace(0, 1, 5)],
        ),
        points.tolist(),
        (at := float((chosen - left) / width), 0, at, 1),
        is_joined=True,
    )


def section_of(evaluation: Evaluation, classes: int) -> dict[str, Any]:
    """Everything about one model but its pictures; `classes` are how many the largest model of the page has."""
    metrics, labels = evaluation.metrics, evaluation.spec.labels
    totals, confusions = metrics.confusion.sum(axis=1), metrics.confusions()
    occurring = np.flatnonzero(metrics.confusion.sum(axis=0) + totals)
    bins, latency = _bins(evaluation), evaluation.latency_ms
    percents = [(share / 100, f"{share}%") for share in (0, 25, 50, 75, 100)]
    return {
        "name": evaluation.spec.name,
        "origin": evaluation.origin,
        "pictures": metrics.pictures,
        "wrong": sum(count for *_, count in confusions),
        "measures": metrics.measures(classes),
        "costs": {"ms": f"{latency:.1f}", "MB": f"{evaluation.size_bytes / 1e6:.1f}"} if latency else {},
        "labels": labels,
        "classes": _classes(metrics, occurring, confusions),
        "confusions": [(*each, int(totals[each[0]])) for each in confusions[:_PAIRS_LISTED]],
        "matrix": _matrix(metrics.confusion, occurring, labels),
        "bins": bins,
        "plot": Plot(
            ("probability of the answer", "share of right answers"),
            (percents, percents),
            [point for _, *point in bins],
            (0, 0, 1, 1),
        ),
    }


def data_facts(evaluation: Evaluation) -> Mapping[str, str]:
    """What is judged: how many pictures, of how many classes, and how they are spread over these."""
    per_class = evaluation.metrics.per_class
    counts = sorted(each.pictures for each in per_class if each.pictures)
    facts = {
        "Judged": f"{evaluation.origin}: {plural(evaluation.metrics.pictures, 'picture')}",
        "Classes": f"{len(counts):,} of the model's {len(per_class):,} have pictures here",
        "Pictures in a class": f"{counts[0]:,} to {counts[-1]:,}, median {np.median(counts):,.0f}",
    }
    without = [each.label for each in per_class if not each.pictures]
    facts |= {"Without a picture": listed(without, "class", "classes")} if without else {}
    unread = [*evaluation.unreadable]
    return facts | {"Unreadable": listed(unread, "picture", "pictures") if unread else "none"}


def _classes(
    metrics: Metrics, occurring: NDArray[np.intp], confusions: Sequence[tuple[int, int, int]]
) -> list[dict[str, Any]]:
    """A row for each class that has pictures or was an answer: the worst F1 first, those without pictures last."""
    most = {true: (answer, count) for true, answer, count in reversed(confusions)}
    rows = [
        {"class_id": class_id, "metrics": metrics.per_class[class_id], "taken_for": most.get(class_id)}
        for class_id in occurring.tolist()
    ]
    return sorted(rows, key=lambda row: (not row["metrics"].pictures, row["metrics"].f1))


def _matrix(confusion: NDArray[np.int64], occurring: NDArray[np.intp], labels: Sequence[str]) -> dict[str, Any]:
    """The confusion matrix of the classes that occur: all counts, or of many classes those that are not zero."""
    part = confusion[np.ix_(occurring, occurring)]
    totals = part.sum(axis=1)
    matrix = {"class_ids": occurring.tolist(), "labels": [labels[i] for i in occurring], "totals": totals.tolist()}
    if len(part) <= _MOST_IN_TABLE:
        # The root of the share, in ten steps: a few pictures can be told from none.
        levels = np.ceil(10 * np.sqrt(part / np.maximum(totals, 1)[:, None])).astype(int)
        return {**matrix, "counts": part.tolist(), "levels": levels.tolist(), "cells": None}
    rows, columns = part.nonzero()
    return {**matrix, "cells": np.stack((rows, columns, part[rows, columns]), axis=1).tolist()}


def _bins(evaluation: Evaluation) -> list[tuple[int, float, float, float, float]]:
    """Of answers by their probability, in bins of equal size: how many, probability, share of right ones, interval."""
    sure = evaluation.probabilities.max(axis=1)
    right = evaluation.probabilities.argmax(axis=1) == evaluation.class_ids
    places = np.array_split(np.argsort(sure, kind="stable"), max(1, min(_BINS, len(sure) // _LEAST_IN_BIN)))
    return [
        (len(rows), float(sure[rows].mean()), float(right[rows].mean()), *wilson(int(right[rows].sum()), len(rows)))
        for rows in places
    ]


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
                    "picture": None if picture.pixels is None else uri("jpeg", thumbnail(picture.pixels)),
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
    return uri("png", file.getvalue())


def uri(kind: str, content: bytes) -> str:
    """Content of a page as an address."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
