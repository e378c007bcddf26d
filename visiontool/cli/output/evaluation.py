"""What `evaluate` prints, and `finetune` of one model: lines, a table, JSON; and the files of single answers."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visiontool.cli.output.rows import DIGITS, cell
from visiontool.cli.output.target import reporting_errors
from visiontool.cli.text import csv_cell, printable, shortened, wrapped
from visiontool.files import replacing
from visiontool.text import plural, some

if TYPE_CHECKING:
    from visiontool.evaluation.decisions import Decided
    from visiontool.evaluation.evaluate import Evaluation
    from visiontool.evaluation.metrics import Difference, Metrics, MultilabelMetrics

_MOST_CLASSES = 20  # that have a line each
_WORST_CLASSES = 10  # of more
_NAME, _LABEL, _MODEL = 18, 36, 28  # characters
_ERROR = ("model", "path", "label", "probability", "answer", "answer_probability", "runner_up", "runner_up_probability")


def lines_of(metrics: "Metrics | MultilabelMetrics", *facts: tuple[str, str]) -> list[str]:
    """Names and texts, the figures of one model, and those of its classes, in lines of at most 80 characters."""
    labels, shown = [one.label for one in metrics.per_class], [*facts]
    for measure in metrics.measures(len(labels)):
        sure = " with 95 % confidence" if measure.name == "Accuracy" else ""
        shown.append((measure.name, f"{measure.text}{measure.range and ', '}{measure.range}{sure}"))
    if absent := [one.label for one in metrics.per_class if not one.pictures]:
        shown.append(("No picture", f"of {plural(len(absent), 'class')}: {some(absent)}"))
    for truth, answer, count in metrics.confusions()[:1]:
        shown.append(("Confused", f"{labels[truth]} taken for {labels[answer]}: {plural(count, 'picture')}"))
    lines = [line for name, text in shown for line in wrapped(text, f"{name:<{_NAME}}", " " * _NAME)]
    return [*lines, "", *_class_lines(metrics)]


def _class_lines(metrics: "Metrics | MultilabelMetrics") -> list[str]:
    present = [one for one in metrics.per_class if one.pictures]
    is_many = len(present) > _MOST_CLASSES
    if is_many:
        present = sorted(present, key=lambda one: one.f1 or 0.0)[:_WORST_CLASSES]
    rows = [(one.label, one.pictures, one.precision, one.recall, one.f1) for one in present]
    rows += [(name, metrics.pictures, *shares) for name, shares in metrics.averages().items()]
    title = "Worst classes" if is_many else "Class"
    lines = [f"{title:<{_LABEL}} {'pictures':>9} {'precision':>10} {'recall':>8} {'F1':>8}"]
    for label, count, *shares in rows:
        precision, recall, f1 = ("-" if share is None else f"{share:.3f}" for share in shares)
        name = shortened(printable(label), _LABEL)
        lines.append(f"{name:<{_LABEL}} {count:>9,} {precision:>10} {recall:>8} {f1:>8}")
    return lines


def table_of(evaluations: "Sequence[Evaluation]", differences: "Sequence[Difference]") -> list[str]:
    """A line a model, then whether the best is really better than each other."""
    lines = [f"{'Model':<{_MODEL}} {'top-1':>7} {'top-5':>7} {'macro F1':>9} {'log loss':>9} {'ms':>7} {'MB':>6}"]
    for one in evaluations:
        metrics, name = one.metrics, shortened(printable(one.spec.name), _MODEL)
        lines.append(
            f"{name:<{_MODEL}} {metrics.accuracy:>7.1%} {metrics.top5:>7.1%} {metrics.macro_f1:>9.3f} "
            f"{metrics.nll:>9.3f} {one.latency_ms:>7.1f} {one.size_bytes / 1e6:>6.1f}"
        )
    first = evaluations[0].metrics
    lines += [
        "",
        f"Judged by {plural(first.pictures, 'picture')}: {evaluations[0].origin}. ms: one picture, one thread.",
    ]
    lines += [line for text in sentences_on(differences) for line in wrapped(text)]
    return lines


def sentences_on(differences: "Sequence[Difference]") -> list[str]:
    """Whether the best model is really better than each other."""
    sentences = []
    for one in differences:
        low, high = one.interval
        how = f"better than {one.worse} by {100 * one.accuracy:.1f} points"
        text = f"{one.better} is {how if one.accuracy else f'as good as {one.worse}'}"
        text += f" ({100 * low:.1f} to {100 * high:.1f}; McNemar p = {one.p_value:.2g})"
        sentences.append(f"{text}: {'a real difference' if one.is_real else 'these pictures show no difference'}.")
    return sentences


def decided_lines(decided: "Decided", file: Path) -> list[str]:
    """What half of the pictures set, and what the other half says of it."""
    if decided.right is not None:
        found, asked = f"precision of the answers {decided.right:.1%}", decided.decisions.precision
        rest, how = f"{decided.answered:.1%} are answered", "predict says unknown below them"
    else:
        found, asked = f"sets hold the class of {decided.covered:.1%}", decided.decisions.coverage
        rest, how = f"{decided.set_size:.2f} classes in a set", "predict --sets gives them"
    lines = [f"Set by {plural(decided.set_by, 'picture')}, judged by {decided.judged_by:,} others:"]
    lines.append(f"  {found} ({asked:.1%} was asked for); {rest}")
    if decided.never:
        lines += wrapped(f"Always unknown, since it never gets so precise: {some(decided.never)}", "  ", "  ")
    return [*lines, *wrapped(f"{file}: {how}.", break_words=False)]


def json_of(
    evaluations: "Sequence[Evaluation]",
    differences: "Sequence[Difference]",
    decided: "Decided | None",
    notes: Sequence[str],
) -> dict[str, Any]:
    """The document of --json; the confusion matrix is a list of what is confused, the most frequent first."""
    models = []
    for evaluation in evaluations:
        labels, metrics, latency = evaluation.spec.labels, evaluation.metrics, evaluation.latency_ms
        models.append(
            {"name": evaluation.spec.name, "path": str(evaluation.path), "judged_by": evaluation.origin}
            | ({} if latency is None else {"latency_ms": round(latency, 3)})
            | {"size_bytes": evaluation.size_bytes, **metrics.to_json()}
            | {
                "per_class": [vars(one) for one in metrics.per_class if one.pictures or one.precision is not None],
                "confusion": [
                    {"label": labels[true], "answer": labels[answer], "pictures": count}
                    for true, answer, count in metrics.confusions()
                ],
                "absent": [one.label for one in metrics.per_class if not one.pictures],
                "unreadable": [{"path": path, "error": why} for path, why in evaluation.unreadable.items()],
            }
        )
    found = [vars(one) | {"interval": list(one.interval), "is_real": one.is_real} for one in differences]
    document = {"schema": 1, "models": models, "differences": found, "notes": list(notes)}
    if decided is not None:
        figures = {
            name: value for name, value in decided._asdict().items() if name != "decisions" and value is not None
        }
        document["decided"] = {**decided.decisions.to_json(), **figures}
    return document


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
                    probabilities = (None if index is None else round(row[index], DIGITS) for index in order)
                    rows.writerow([*map(csv_cell, text), *probabilities])


def _texts(evaluation: "Evaluation") -> list[tuple[str, str, str, str]]:
    labels, answers = evaluation.spec.labels, evaluation.probabilities.argmax(axis=1).tolist()
    return [
        (evaluation.spec.name, printable(sample.path), labels[true], labels[answer])
        for sample, true, answer in zip(evaluation.samples, evaluation.class_ids.tolist(), answers, strict=True)
    ]
