"""The answer for a picture."""

import base64
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from visiontool.text import on_one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from visiontool.images.fingerprint import Fingerprint
    from visiontool.model.spec import ModelSpec

SCHEMA = 1


class Answer(NamedTuple):
    """The whole answer for one picture: what `Classifier.answers` yields."""

    path: str | None
    probabilities: "NDArray[np.float64] | None"  # (C,), None where there is an error
    error: str | None
    fingerprint: "Fingerprint | None" = None  # where it was asked for
    notes: tuple[str, ...] = ()  # of `Result`
    pixels: "NDArray[np.uint8] | None" = None  # as the network sees it, of a picture that came as an object


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class of an answer."""

    label: str
    index: int
    probability: float
    label_id: str | None = None  # WordNet id where the model has them


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """The answer for one picture, or why there is none: each input has exactly one. A notebook shows it with bars."""

    path: str | None  # as it was given; None for a picture that came as an object
    model: str
    predictions: tuple[Prediction, ...] = ()  # most probable first; empty where there is an error
    unknown: bool = False  # the best probability is below the minimum that was asked for, or its class's threshold
    error: str | None = None
    notes: tuple[str, ...] = ()  # what was done to the picture that one should know, e.g. "first frame of several"
    thumbnail: bytes | None = field(default=None, compare=False)  # a small JPEG, where `Classifier.predict` says so
    label_set: tuple[str, ...] | None = None  # most probable first; one holds the true class as often as was asked for
    labels: tuple[str, ...] | None = None  # where a picture may have several: those it has, most probable first

    @property
    def status(self) -> Literal["ok", "error"]:
        """ "ok" or "error"."""
        return "ok" if self.error is None else "error"

    def to_dict(self) -> dict[str, Any]:
        """The JSON row of `visiontool predict` (docs/cli.md): `path_b64` is there for a path that is not UTF-8."""
        row: dict[str, Any] = {"schema": SCHEMA, **self._path(), "status": self.status, "model": self.model}
        if self.error is not None:
            row["error"] = self.error
        else:
            row["predictions"] = [
                {"label": item.label, "index": item.index, "probability": round(item.probability, 6)}
                | ({"label_id": item.label_id} if item.label_id else {})
                for item in self.predictions
            ]
        if self.labels is not None:
            row["labels"] = list(self.labels)
        if self.label_set is not None:
            row["set"] = list(self.label_set)
        if self.unknown:
            row["unknown"] = True
        if self.notes:
            row["notes"] = list(self.notes)
        return row

    def to_row(self) -> dict[str, Any]:
        """A flat row for a table, with the columns that `visiontool predict` writes to CSV: `label_1` and so on."""
        row: dict[str, Any] = {**self._path(), "status": self.status, "model": self.model}
        row["unknown"] = self.unknown
        for rank, item in enumerate(self.predictions, 1):
            row |= {f"label_{rank}": item.label, f"index_{rank}": item.index}
            row[f"probability_{rank}"] = round(item.probability, 6)
        row |= {} if self.labels is None else {"labels": "|".join(self.labels)}
        row |= {} if self.label_set is None else {"set": "; ".join(self.label_set)}
        return row | {"error": self.error, "notes": "; ".join(self.notes) or None}

    def _path(self) -> dict[str, str | None]:
        if self.path is None:
            return {"path": None}
        raw = os.fsencode(self.path)
        path = raw.decode("utf-8", "replace")
        if path.encode() == raw:
            return {"path": path}
        return {"path": path, "path_b64": base64.b64encode(raw).decode("ascii")}

    def __repr__(self) -> str:
        path = "" if self.path is None else f" {on_one_line(self.path)}"
        if self.error is not None:
            return f"<Result{path}: error: {self.error}>"
        if self.labels is not None:
            return f"<Result{path}: {on_one_line(', '.join(self.labels)) or 'no label'}>"
        best = self.predictions[0]
        unknown = "unknown, at best " if self.unknown else ""
        return f"<Result{path}: {unknown}{on_one_line(best.label)} ({best.probability:.1%})>"

    def _repr_html_(self) -> str:
        from visiontool.inference.html import html_of

        return html_of(self)


def result_of(
    answer: Answer, spec: "ModelSpec", competing: "NDArray[np.intp]", top_k: int, min_probability: float, sets: bool
) -> Result:
    """The result that `Classifier.predict_stream` gives for an answer."""
    probabilities = answer.probabilities
    if probabilities is None:
        return Result(answer.path, spec.name, error=answer.error, notes=answer.notes)
    order = competing[(-probabilities[competing]).argsort(kind="stable")]
    ids = spec.label_ids
    predictions = tuple(
        Prediction(spec.labels[i], i, float(probabilities[i]), ids[i] if ids else None) for i in order[:top_k].tolist()
    )
    thresholds, label_set = spec.decisions.thresholds, None
    if spec.task == "multilabel":
        least = [max(threshold, min_probability) for threshold in thresholds or [0.5] * len(spec.labels)]
        labels = tuple(spec.labels[i] for i in order.tolist() if probabilities[i] >= least[i])
        return Result(answer.path, spec.name, predictions, notes=answer.notes, labels=labels)
    if sets:
        is_in = 1 - probabilities <= spec.decisions.quantiles
        label_set = tuple(spec.labels[i] for i in order[is_in[order]].tolist())
    unknown = predictions[0].probability < max(min_probability, thresholds[order[0]] if thresholds else 0)
    return Result(answer.path, spec.name, predictions, unknown, notes=answer.notes, label_set=label_set)
