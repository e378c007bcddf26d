"""The report of a run: metrics.json, and report.html, the page that `evaluate --report` gives too."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from visiontool.data.loader import LoadOptions
from visiontool.data.samples import Dataset
from visiontool.evaluation.benchmark.machine import machine
from visiontool.evaluation.evaluate import Evaluation
from visiontool.evaluation.metrics import MultilabelMetrics
from visiontool.evaluation.report import Curve
from visiontool.evaluation.report import write as write_page
from visiontool.files import MODEL_FILE
from visiontool.training.embed_dataset import SplitDataset
from visiontool.training.run import Run
from visiontool.training.settings import Settings, judge_of
from visiontool.training.train import Judged

METRICS_FILE, PAGE_FILE = "metrics.json", "report.html"
SCHEMA = 1

_NUMBERS = re.compile(r"\[\n([-+\deE.,\s]+)\]")  # a list of numbers over several lines, such as a row of the confusion


def write(
    folder: Path,
    run: Run,
    settings: Settings,
    data: Dataset,
    dataset: SplitDataset,
    judged: Judged,
    options: LoadOptions,
) -> None:
    """Writes metrics.json and the page.

    Args:
        data: as it was read, what `dataset` leaves out included.
        judged: the run's model, which the page's heat maps come from too.
    """
    text = json.dumps(to_json(run), indent=1, allow_nan=False)
    text = _NUMBERS.sub(lambda match: f"[{' '.join(match[1].split())}]", text)
    (folder / METRICS_FILE).write_text(text + "\n", encoding="utf-8")
    if isinstance(run.metrics, MultilabelMetrics):  # the page is about one class a picture
        return
    readable = {sample.path for sample in dataset.data.samples}
    evaluation = Evaluation(
        run.spec,
        run.folder / MODEL_FILE,
        f"{judge_of(run.folds)} of {data.root.name}",
        tuple(dataset.data.samples[index] for index in judged.pictures),
        dataset.class_ids[judged.pictures],
        judged.probabilities.astype(np.float32),
        run.metrics,
        {sample.path: "it cannot be read" for sample in data.samples if sample.path not in readable},
    )
    augment = ", ".join(f"{name} {value:g}" for name, value in asdict(settings.augment).items() if value)
    facts = {**json.loads(settings.to_json()), "augment": augment, **machine()}
    facts |= facts.pop("train") or {}
    if run.solution is not None:
        facts["head"] = run.solution.kind
    counts = {"Splits": run.splits, "Ignored": data.ignored}
    write_page(
        folder / PAGE_FILE,
        [evaluation],
        title=f"{run.spec.name}, finetuned on {data.root.name}",
        facts={name: str(value) for name, value in facts.items() if value not in (None, "", []) and name != "schema"},
        data={
            name: ", ".join(f"{count:,} {kind}" for kind, count in of.items()) or "none" for name, of in counts.items()
        },
        notes=() if run.solution is None else run.solution.notes,
        curves=curves_of(run),
        models=[judged.model],
        options=options,
    )


def curves_of(run: Run) -> dict[str, Curve]:
    """How the training of the network went, or how the strength of the head's penalty was chosen."""
    if run.training is not None:
        history = run.training.history
        best = history[run.training.best]
        names = {
            "val_loss": "log loss",
            "accuracy": "accuracy",
            "macro_f1": "macro F1",
            "loss": "loss in training",
            "lr": "learning rate",
        }
        return {
            f"{label[:1].upper()}{label[1:]} by epochs. The dashed line is epoch {best.epoch}, the best.": Curve(
                ("epoch", label), [(one.epoch, getattr(one, name), 0.0) for one in history], best.epoch, is_log=False
            )
            for name, label in names.items()
        }
    solution = run.solution
    if solution is None or not solution.path:
        return {}
    path, chosen = solution.path, solution.path[solution.chosen]
    x = "shrinkage of the covariance" if solution.kind == "lda" else "strength of the L2 penalty"
    losses = Curve((x, "log loss"), [(one.strength, one.nll, one.nll_error) for one in path], chosen.strength)
    shares = Curve((x, "accuracy"), [(one.strength, one.accuracy, 0.0) for one in path], chosen.strength)
    return {
        f"Training pictures held out, by the {x}: log loss with its standard error. The dashed line "
        f"is what was chosen, {chosen.strength:.3g}.": losses,
        f"The same of their accuracy, which is {chosen.accuracy:.3f} as chosen.": shares,
    }


def to_json(run: Run) -> dict[str, Any]:
    """What metrics.json holds."""
    solution, training = run.solution, run.training
    facts: dict[str, Any] = {
        "schema": SCHEMA,
        "run": run.spec.name,
        "judged_by": judge_of(run.folds),
        "val": run.metrics.to_json(),
        "pictures": run.splits,
        "backbone_passes": run.passes,
    }
    if solution is not None:
        facts["head"] = {
            "kind": solution.kind,
            "transform": solution.head.features.transform,
            "stages": len(solution.head.features.widths),
            "balance": solution.balance,
            "all_views": solution.all_views,
            "strength": solution.path[solution.chosen].strength if solution.path else None,
            "temperature": solution.head.temperature,
        }
        facts |= {"extended": solution.extended} if solution.extended else {}
        facts["path"] = [point._asdict() for point in solution.path]
        facts["candidates"] = [candidate._asdict() for candidate in solution.candidates]
    if training is not None:
        versus = training.versus_frozen
        facts["training"] = {
            "is_kept": training.is_kept,
            "val": training.metrics.to_json(),
            "versus_frozen": None if versus is None else {"accuracy": versus.accuracy, "interval": [*versus.interval]},
            "best_epoch": training.history[training.best].epoch,
            "history": [epoch._asdict() for epoch in training.history],
        }
    return facts
