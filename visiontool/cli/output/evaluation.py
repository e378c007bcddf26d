"""What `visiontool evaluate` prints: the figures of one model, several beside each other, JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from visiontool.cli.text import printable, shortened, wrapped
from visiontool.text import plural, some

if TYPE_CHECKING:
    from visiontool.evaluation.decisions import Decided
    from visiontool.evaluation.evaluate import Evaluation

_MOST_CLASSES = 20  # that have a line each
_WORST_CLASSES = 10  # of more
_LABEL, _MODEL = 36, 28  # characters


def lines_of(evaluation: "Evaluation") -> list[str]:
    """The figures of one model, in lines of at most 80 characters, then those of its classes."""
    metrics, labels = evaluation.metrics, evaluation.spec.labels
    absent = [one.label for one in metrics.per_class if not one.pictures]
    facts = [
        ("Model", f"{evaluation.spec.name}: {plural(len(labels), 'class')}"),
        *([("Weights", source)] if (source := evaluation.spec.weights.get("source")) else []),
        ("Judged by", f"{plural(metrics.pictures, 'picture')}: {evaluation.origin}"),
        ("Top-1", f"{metrics.accuracy:.1%}{_range(evaluation, 'accuracy', '.1%')} with 95 % confidence"),
    ]
    if len(labels) > 5:
        facts.append(("Top-5", f"{metrics.top5:.1%}{_range(evaluation, 'top5', '.1%')}"))
    means = [
        (
            name.title(),
            f"precision {getattr(metrics, f'{name}_precision'):.3f}, recall {getattr(metrics, f'{name}_recall'):.3f}, "
            f"F1 {getattr(metrics, f'{name}_f1'):.3f}",
        )
        for name in ("macro", "weighted")
    ]
    balanced = f"{metrics.balanced_accuracy:.1%}{_range(evaluation, 'balanced_accuracy', '.1%')}"
    facts += [
        ("Balanced", f"{balanced}, the mean recall of the classes"),
        *means,
        ("Log loss", f"{metrics.nll:.3f}{_range(evaluation, 'nll', '.3f')}; Brier {metrics.brier:.3f}"),
        ("Calibration", f"error {metrics.ece:.3f}"),
    ]
    if absent:
        facts.append(("No picture", f"of {plural(len(absent), 'class')}: {some(absent)}"))
    confused = metrics.confusion.copy()
    confused[range(len(labels)), range(len(labels))] = 0
    if confused.any():
        truth, answer = divmod(int(confused.argmax()), len(labels))
        facts.append(
            ("Confused", f"{labels[truth]} taken for {labels[answer]}: {plural(int(confused.max()), 'picture')}")
        )
    lines = [line for name, text in facts for line in wrapped(text, f"{name:<12}", " " * 12)]
    return [*lines, "", *_class_lines(evaluation)]


def _range(evaluation: "Evaluation", name: str, form: str) -> str:
    low, high = evaluation.metrics.intervals[name]
    return f", {low:{form}} to {high:{form}}"


def _class_lines(evaluation: "Evaluation") -> list[str]:
    present = [one for one in evaluation.metrics.per_class if one.pictures]
    is_many = len(present) > _MOST_CLASSES
    if is_many:
        present = sorted(present, key=lambda one: one.f1 or 0.0)[:_WORST_CLASSES]
    title = "Worst classes" if is_many else "Class"
    lines = [f"{title:<{_LABEL}} {'pictures':>9} {'precision':>10} {'recall':>8} {'F1':>8}"]
    for one in present:
        shares = (one.precision, one.recall, one.f1)
        cells = ("-" if share is None else f"{share:.3f}" for share in shares)
        precision, recall, f1 = cells
        label = shortened(printable(one.label), _LABEL)
        lines.append(f"{label:<{_LABEL}} {one.pictures:>9,} {precision:>10} {recall:>8} {f1:>8}")
    return lines


def table_of(evaluations: "Sequence[Evaluation]", latencies: Sequence[float], differences: Sequence[Any]) -> list[str]:
    """A line a model, then whether the best is really better than each other."""
    lines = [f"{'Model':<{_MODEL}} {'top-1':>7} {'top-5':>7} {'macro F1':>9} {'log loss':>9} {'ms':>7} {'MB':>6}"]
    for evaluation, latency in zip(evaluations, latencies, strict=True):
        metrics, name = evaluation.metrics, shortened(printable(evaluation.spec.name), _MODEL)
        size = evaluation.size_bytes / 1e6
        lines.append(
            f"{name:<{_MODEL}} {metrics.accuracy:>7.1%} {metrics.top5:>7.1%} {metrics.macro_f1:>9.3f} "
            f"{metrics.nll:>9.3f} {latency:>7.1f} {size:>6.1f}"
        )
    first = evaluations[0].metrics
    lines += [
        "",
        f"Judged by {plural(first.pictures, 'picture')}: {evaluations[0].origin}. ms: one picture, one thread.",
    ]
    lines += [line for text in sentences_on(differences) for line in wrapped(text)]
    return lines


def sentences_on(differences: Sequence[Any]) -> list[str]:
    """Whether the best model is really better than each other."""
    sentences = []
    for better, worse, found in differences:
        low, high = found.interval
        how = f"better than {worse.spec.name} by {100 * found.accuracy:.1f} points"
        text = f"{better.spec.name} is {how if found.accuracy else f'as good as {worse.spec.name}'}"
        text += f" ({100 * low:.1f} to {100 * high:.1f}; McNemar p = {found.p_value:.2g})"
        sentences.append(f"{text}: {'a real difference' if found.is_real else 'these pictures show no difference'}.")
    return sentences


def differences_of(evaluations: "Sequence[Evaluation]") -> list[tuple[Any, Any, Any]]:
    """The best model beside each of the others: both, and how they differ."""
    from visiontool.evaluation.evaluate import compare

    best = max(evaluations, key=lambda one: one.metrics.accuracy)
    return [(best, other, compare(best, other)) for other in evaluations if other is not best]


def decided_lines(decided: "Decided", file: Path) -> list[str]:
    """What half of the pictures set, and what the other half says of it."""
    lines = [f"Set by {plural(decided.set_by, 'picture')}, judged by {decided.judged_by:,} others:"]
    if decided.right is not None:
        asked = f"{decided.decisions.precision:.1%} was asked for"
        lines.append(f"  precision of the answers {decided.right:.1%} ({asked}); {decided.answered:.1%} are answered")
    else:
        asked = f"{decided.decisions.coverage:.1%} was asked for"
        lines.append(
            f"  sets hold the class of {decided.covered:.1%} ({asked}); {decided.set_size:.2f} classes in a set"
        )
    if decided.never:
        lines += wrapped(f"Always unknown, since it never gets so precise: {some(decided.never)}", "  ", "  ")
    how = "predict says unknown below them" if decided.right is not None else "predict --sets gives them"
    return [*lines, *wrapped(f"{file}: {how}.")]


def json_of(
    evaluations: "Sequence[Evaluation]",
    latencies: Sequence[float],
    differences: Sequence[Any],
    decided: "Decided | None",
    notes: Sequence[str],
) -> dict[str, Any]:
    """The document of --json; the confusion matrix is a list of what is confused, the most frequent first."""
    models = []
    for index, evaluation in enumerate(evaluations):
        labels, metrics = evaluation.spec.labels, evaluation.metrics
        confused = metrics.confusion.copy()
        np.fill_diagonal(confused, 0)
        pairs = sorted(np.argwhere(confused).tolist(), key=lambda pair: -int(confused[*pair]))
        models.append(
            {"name": evaluation.spec.name, "path": str(evaluation.path), "judged_by": evaluation.origin}
            | ({"latency_ms": round(latencies[index], 3)} if latencies else {})
            | {"size_bytes": evaluation.size_bytes, **metrics.to_json()}
            | {
                "per_class": [vars(one) for one in metrics.per_class if one.pictures or one.precision is not None],
                "confusion": [
                    {"label": labels[true], "answer": labels[answer], "pictures": int(confused[true, answer])}
                    for true, answer in pairs
                ],
                "absent": [one.label for one in metrics.per_class if not one.pictures],
                "unreadable": [{"path": path, "error": why} for path, why in evaluation.unreadable.items()],
            }
        )
    found = [
        {"better": better.spec.name, "worse": worse.spec.name, **vars(one)}
        | {"interval": list(one.interval), "is_real": one.is_real}
        for better, worse, one in differences
    ]
    document = {"schema": 1, "models": models, "differences": found, "notes": list(notes)}
    if decided is not None:
        figures = {
            name: value for name, value in decided._asdict().items() if name != "decisions" and value is not None
        }
        document["decided"] = {**decided.decisions.to_json(), **figures}
    return document
