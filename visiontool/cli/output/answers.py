"""Files that `visiontool evaluate` writes: the misclassified pictures, and all probabilities."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from visiontool.cli.output.target import reporting_errors
from visiontool.cli.text import csv_cell, printable
from visiontool.files import replacing

if TYPE_CHECKING:
    from visiontool.evaluation.evaluate import Evaluation

_DIGITS = 6
_ERROR = ("model", "path", "label", "probability", "answer", "answer_probability", "runner_up", "runner_up_probability")


def write_errors(file: Path, evaluations: "Sequence[Evaluation]") -> None:
    """A line for each misclassified picture of each model, the largest loss first."""
    from visiontool.evaluation.evaluate import mistakes

    with (
        reporting_errors(str(file)),
        replacing(file) as partial,
        open(partial, "w", encoding="utf-8", newline="") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow([*_ERROR, "loss"])
        for evaluation in evaluations:
            for picture, *class_ids, loss in mistakes(evaluation):
                row: list[object] = [evaluation.spec.name, evaluation.samples[picture].path]
                for one in class_ids:
                    row += [evaluation.spec.labels[one], float(evaluation.probabilities[picture, one])]
                writer.writerow(map(cell, [*row, loss]))


def write_probabilities(file: Path, evaluations: "Sequence[Evaluation]") -> None:
    """A row for each picture of each model: path, label, answer, and the probability of each class of the model.

    Models whose classes differ have the columns of all; what is not a class of one is empty there.
    """
    labels = list(dict.fromkeys(label for evaluation in evaluations for label in evaluation.spec.labels))
    header = ["model", "path", "label", "answer", *(f"p({printable(label)})" for label in labels)]
    with reporting_errors(str(file)), replacing(file) as partial:
        if file.suffix.lower() == ".parquet":
            import pyarrow as pa
            from pyarrow import parquet

            kinds = [pa.string()] * 4 + [pa.float32()] * len(labels)
            schema = pa.schema(list(zip(header, kinds, strict=True)))
            with parquet.ParquetWriter(partial, schema) as writer:
                for evaluation in evaluations:
                    texts = [list(column) for column in zip(*_texts(evaluation), strict=True)]
                    columns = {label: evaluation.probabilities[:, i] for i, label in enumerate(evaluation.spec.labels)}
                    absent = pa.nulls(len(evaluation.samples), pa.float32())
                    values = [columns.get(label, absent) for label in labels]
                    writer.write_table(pa.table([*texts, *values], schema=schema))
            return
        with open(partial, "w", encoding="utf-8", newline="") as stream:
            rows = csv.writer(stream)
            rows.writerow(map(csv_cell, header))
            for evaluation in evaluations:
                place = {label: index for index, label in enumerate(evaluation.spec.labels)}
                order = [place.get(label) for label in labels]
                for text, row in zip(_texts(evaluation), evaluation.probabilities.tolist(), strict=True):
                    probabilities = (None if index is None else round(row[index], _DIGITS) for index in order)
                    rows.writerow([*map(csv_cell, text), *probabilities])


def _texts(evaluation: "Evaluation") -> list[tuple[str, str, str, str]]:
    labels, answers = evaluation.spec.labels, evaluation.probabilities.argmax(axis=1).tolist()
    return [
        (evaluation.spec.name, printable(sample.path), labels[true], labels[answer])
        for sample, true, answer in zip(evaluation.samples, evaluation.class_ids.tolist(), answers, strict=True)
    ]


def cell(value: object) -> object:
    """A value of a CSV file: a number with six digits, or text that is safe to show."""
    return round(value, _DIGITS) if isinstance(value, float) else csv_cell(str(value))
