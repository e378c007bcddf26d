"""The report of a run: metrics.json, and report.html, the page that `evaluate --report` gives too."""

import json
import re
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visiontool.data.loader import LoadOptions
from visiontool.data.samples import Dataset
from visiontool.evaluation.benchmark.machine import machine
from visiontool.evaluation.evaluate import Evaluation
from visiontool.evaluation.report import Curve
from visiontool.evaluation.report import write as write_page
from visiontool.files import MODEL_FILE
from visiontool.inference.classifier import Classifier
from visiontool.inference.explain import heat_maps
from visiontool.training.embed_dataset import EmbeddedDataset
from visiontool.training.head import Solution
from visiontool.training.run import Run
from visiontool.training.settings import Settings, judge_of

METRICS_FILE, PAGE_FILE = "metrics.json", "report.html"
SCHEMA = 1

_NUMBERS = re.compile(r"\[\n([-+\deE.,\s]+)\]")  # a list of numbers over several lines, such as a row of the confusion


def write(
    folder: Path,
    model: Classifier,
    run: Run,
    settings: Settings,
    data: Dataset,
    embedded: EmbeddedDataset,
    judged: NDArray[np.intp],
    probabilities: NDArray[np.float64],
    options: LoadOptions,
) -> None:
    """Writes metrics.json and the page, from the probabilities (N, C) of the `judged` pictures.

    Args:
        model: the run's, which the page's heat maps come from.
        data: as it was read, what `embedded` leaves out included.
    """
    text = json.dumps(to_json(run), indent=1, allow_nan=False)
    text = _NUMBERS.sub(lambda match: f"[{' '.join(match[1].split())}]", text)
    (folder / METRICS_FILE).write_text(text + "\n", encoding="utf-8")
    readable = {sample.path for sample in embedded.data.samples}
    evaluation = Evaluation(
        run.spec,
        run.folder / MODEL_FILE,
        f"{judge_of(run.folds)} of {data.root.name}",
        tuple(embedded.data.samples[index] for index in judged),
        embedded.class_ids[judged],
        probabilities.astype(np.float32),
        run.metrics,
        {sample.path: "it cannot be read" for sample in data.samples if sample.path not in readable},
    )
    augment = ", ".join(f"{name} {value:g}" for name, value in asdict(settings.augment).items() if value)
    facts = {**json.loads(settings.to_json()), "augment": augment, "head": run.solution.kind, **machine()}
    counts = {"Splits": run.splits, "Ignored": data.ignored}
    write_page(
        folder / PAGE_FILE,
        [evaluation],
        title=f"{run.spec.name}, finetuned on {data.root.name}",
        facts={name: str(value) for name, value in facts.items() if value not in (None, "") and name != "schema"},
        data={
            name: ", ".join(f"{count:,} {kind}" for kind, count in of.items()) or "none" for name, of in counts.items()
        },
        notes=run.solution.notes,
        curves=curves_of(run.solution),
        maps=[partial(heat_maps, model, options=options)],
        options=options,
    )


def curves_of(solution: Solution) -> dict[str, Curve]:
    """How the strength of the penalty was chosen: log loss and accuracy of pictures held out; none of nearest means."""
    if not solution.path:
        return {}
    path, chosen, x = solution.path, solution.path[solution.chosen], "strength of the L2 penalty"
    losses = Curve((x, "log loss"), [(one.strength, one.nll, one.nll_error) for one in path], chosen.strength)
    shares = Curve((x, "accuracy"), [(one.strength, one.accuracy, 0.0) for one in path], chosen.strength)
    return {
        "Training pictures held out, by the strength of the penalty: log loss with its standard error. The dashed line "
        f"is what was chosen, {chosen.strength:.3g}.": losses,
        f"The same of their accuracy, which is {chosen.accuracy:.3f} as chosen.": shares,
    }


def to_json(run: Run) -> dict[str, Any]:
    """What metrics.json holds."""
    solution = run.solution
    return {
        "schema": SCHEMA,
        "run": run.spec.name,
        "judged_by": judge_of(run.folds),
        "val": run.metrics.to_json(),
        "pictures": run.splits,
        "backbone_passes": run.passes,
        "head": {
            "kind": solution.kind,
            "balance": solution.balance,
            "all_views": solution.all_views,
            "strength": solution.path[solution.chosen].strength if solution.path else None,
            "temperature": solution.head.temperature,
        },
        "path": [point._asdict() for point in solution.path],
    }
