"""What a run tells of itself: metrics.json and three pictures."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visiontool.images.decode import Limits
from visiontool.training import plots
from visiontool.training.embed_dataset import Embedded

if TYPE_CHECKING:
    from visiontool.training.finetune import Run

METRICS_FILE = "metrics.json"
SCHEMA = 1

_NUMBERS = re.compile(r"\[\n([-+\deE.,\s]+)\]")  # a list of numbers over several lines, such as a row of the confusion


def write(
    folder: Path,
    run: "Run",
    seen: Embedded,
    judged: NDArray[np.intp],
    probabilities: NDArray[np.float64],
    limits: Limits,
) -> None:
    """Writes metrics.json, curves.png, confusion.png and confused.png.

    Args:
        judged: indices of the pictures that the run is judged by.
        probabilities: (N, C) of these.
    """
    text = json.dumps(to_json(run), indent=1, allow_nan=False)
    text = _NUMBERS.sub(lambda match: f"[{' '.join(match[1].split())}]", text)
    (folder / METRICS_FILE).write_text(text + "\n", encoding="utf-8")
    plots.confusion(folder / "confusion.png", run.metrics, seen.data.labels)
    if run.solved.path:
        plots.curves(folder / "curves.png", run.solved)
    if found := mistakes(seen, judged, probabilities):
        plots.confused(folder / "confused.png", found, limits)


def to_json(run: "Run") -> dict[str, Any]:
    """What metrics.json holds."""
    solved = run.solved
    return {
        "schema": SCHEMA,
        "run": run.spec.name,
        "judged_by": "val" if run.folds is None else f"{run.folds} folds",
        "val": run.metrics.to_json(),
        "pictures": run.splits,
        "backbone_passes": run.passes,
        "head": {
            "kind": solved.kind,
            "balance": solved.balance,
            "all_views": solved.all_views,
            "strength": solved.path[solved.chosen].strength if solved.path else None,
            "temperature": solved.head.temperature,
        },
        "path": [step._asdict() for step in solved.path],
    }


def mistakes(
    seen: Embedded, judged: NDArray[np.intp], probabilities: NDArray[np.float64]
) -> list[tuple[str, str, str, float]]:
    """The pictures that are taken for something else, the surest first: path, label, and what it is taken for."""
    predicted = probabilities.argmax(axis=1)
    sure = probabilities[np.arange(len(judged)), predicted]
    wrong = np.flatnonzero(predicted != seen.class_ids[judged])
    labels = seen.data.labels
    found = []
    for place in wrong[np.argsort(-sure[wrong], kind="stable")].tolist():
        sample = seen.data.samples[judged[place]]
        found.append((sample.path, labels[sample.class_id], labels[predicted[place]], float(sure[place])))
    return found
