"""`visiontool evaluate`: how good models are on pictures whose classes are known."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from visiontool.cli import SOME_FAILED, options
from visiontool.cli.output.answers import check_file, write_errors, write_probabilities
from visiontool.cli.text import json_text, printable, say, shortened, wrapped
from visiontool.errors import UsageError
from visiontool.text import plural, some

if TYPE_CHECKING:
    from visiontool.evaluation.evaluate import Evaluation
    from visiontool.inference.classifier import Classifier

_SPLITS = ("train", "val", "test", "all")
_MOST_CLASSES = 20  # that have a line each
_WORST_CLASSES = 10  # of more
_LABEL, _MODEL = 36, 28  # characters


@click.command(no_args_is_help=True)
@click.argument("arguments", nargs=-1, metavar="[MODEL...] DATA", shell_complete=options.complete_model)
@options.model("A model beside those before DATA.")
@click.option("--split", type=click.Choice(_SPLITS), help="Which pictures.  [default: test, else val, else all]")
@click.option("--labels", type=options.FILE, metavar="FILE.csv", help="path,label[,split,group] a line.")
@click.option("--group", metavar="REGEX", help="Paths with the same match are no independent evidence.")
@click.option("--map", "map_", type=options.FILE, metavar="FILE.csv", help="LABEL,CLASS a line: the model's names.")
@click.option("--tta", type=click.Choice(("flip", "crops")), help="Average over views of each picture.")
@click.option("--errors", type=options.FILE, metavar="FILE.csv", help="Write the misclassified pictures.")
@click.option("--probabilities", type=options.FILE, metavar="FILE", help="Write all probabilities: .csv or .parquet.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of the table.")
@options.DEVICE
@options.PROVIDER
@options.CROP_MODE
@options.BATCH_SIZE
@options.WORKERS
@options.MAX_PIXELS
@options.MAX_BYTES
@options.TIMEOUT
@options.OFFLINE
@options.QUIET
@options.foreign_model
@click.pass_context
def evaluate(context: click.Context, /, **values: Any) -> int:
    """Measure how good models are on pictures whose classes are known.

    DATA is a folder with a folder of pictures for each class, or with train/, val/ and test/ that hold those. Folders
    are matched with a model's classes by id or name. A run is judged by what it was not trained on. Exit code 7 where
    pictures cannot be read.

    \b
    visiontool evaluate photos/
    visiontool evaluate runs/mydata mydata/ --errors errors.csv
    visiontool evaluate efficientnet_lite0 resnet50 photos/ --json
    """
    args = SimpleNamespace(**values)
    *models, data = args.arguments or (None,)
    if data is None:
        raise click.UsageError("name the folder of the data", context)
    models += [args.model] if args.model is not None else []
    check_file("--errors", args.errors, (".csv",))
    check_file("--probabilities", args.probabilities, (".csv", ".parquet"))

    from visiontool.cli.progress import Stages, only_ours_on_stderr
    from visiontool.evaluation.evaluate import read_map

    mapping = None if args.map_ is None else read_map(args.map_)
    classifiers = _load(args, models or [None])
    with only_ours_on_stderr(), Stages({"evaluate": "Evaluating"}, enabled=not args.quiet) as stages:
        evaluations, notes = [], dict[str, None]()
        for classifier in classifiers:
            evaluation, its_notes = _evaluate(args, classifier, Path(data), mapping, stages)
            evaluations.append(evaluation)
            notes |= dict.fromkeys(its_notes)
        latencies = [_latency_ms(classifier) for classifier in classifiers] if len(classifiers) > 1 else []
    if args.errors is not None:
        write_errors(args.errors, evaluations)
    if args.probabilities is not None:
        write_probabilities(args.probabilities, evaluations)
    differences = _differences(evaluations)
    if args.as_json:
        click.echo(json_text(_to_json(evaluations, latencies, differences, [*notes]), indent=1))
    else:
        lines = _lines(evaluations[0]) if len(evaluations) == 1 else _table(evaluations, latencies, differences)
        click.echo("\n".join(lines))
        for note in () if args.quiet else notes:
            say(note)
    return _report_unreadable(evaluations)


def _load(args: SimpleNamespace, names: Sequence[str | None]) -> "list[Classifier]":
    from visiontool.cli.pull import obtain
    from visiontool.inference.classifier import Classifier
    from visiontool.model.scan import scan
    from visiontool.model.spec import MANIFEST_KEY

    description = options.description(vars(args))
    paths = [obtain(name, offline=args.offline, quiet=args.quiet) for name in names]
    foreign = [MANIFEST_KEY not in scan(path).metadata for path in paths] if description or len(paths) > 1 else [True]
    if description is not None and not any(foreign):
        raise UsageError(f"the files say this of themselves; leave out {', '.join(description.options())}")
    classifiers = [
        Classifier.load(
            path,
            device=args.device,
            provider=args.provider,
            threads=1,
            crop_mode=args.crop_mode,
            description=description if is_foreign else None,
            limits=options.limits(vars(args)),
        )
        for path, is_foreign in zip(paths, foreign, strict=True)
    ]
    for classifier in classifiers:
        if classifier.assumed and not args.quiet:
            say(f"{classifier.path}: neither it nor you said, so assumed: {', '.join(classifier.assumed)}.")
    return classifiers


def _evaluate(
    args: SimpleNamespace, classifier: "Classifier", data: Path, mapping: dict[str, str] | None, stages: Any
) -> "tuple[Evaluation, list[str]]":
    from visiontool.data.dataset import read
    from visiontool.data.loader import LoadOptions
    from visiontool.evaluation.evaluate import evaluate, judges
    from visiontool.training.pictures import run_of
    from visiontool.training.seen import notes_on, with_splits_of

    run = run_of(classifier.path)
    dataset = as_given = read(data, labels_file=args.labels, group=args.group)
    if run is not None:
        dataset = with_splits_of(run, as_given)
    evaluation = evaluate(
        classifier,
        judges(dataset, args.split),
        mapping=mapping,
        options=LoadOptions(options.limits(vars(args)), args.workers, args.timeout, args.batch_size),
        tta=args.tta,
        fingerprints=run is not None,
        progress=stages.update,
    )
    return evaluation, [] if run is None else notes_on(run, evaluation, drawn=dataset is not as_given)


def _lines(evaluation: "Evaluation") -> list[str]:
    """The figures of one model, in lines of at most 80 characters, then those of its classes."""
    metrics, labels = evaluation.metrics, evaluation.spec.labels
    absent = [one.label for one in metrics.per_class if not one.pictures]
    facts = [
        ("Model", f"{evaluation.spec.name}: {plural(len(labels), 'class')}"),
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


def _table(evaluations: "Sequence[Evaluation]", latencies: Sequence[float], differences: Sequence[Any]) -> list[str]:
    """A line a model, then whether the best is really better than each other."""
    lines = [f"{'Model':<{_MODEL}} {'top-1':>7} {'top-5':>7} {'macro F1':>9} {'log loss':>9} {'ms':>7} {'MB':>6}"]
    for evaluation, latency in zip(evaluations, latencies, strict=True):
        metrics, name = evaluation.metrics, shortened(printable(evaluation.spec.name), _MODEL)
        size = evaluation.path.stat().st_size / 1e6 if evaluation.path.is_file() else 0.0
        lines.append(
            f"{name:<{_MODEL}} {metrics.accuracy:>7.1%} {metrics.top5:>7.1%} {metrics.macro_f1:>9.3f} "
            f"{metrics.nll:>9.3f} {latency:>7.1f} {size:>6.1f}"
        )
    first = evaluations[0].metrics
    lines += [
        "",
        f"Judged by {plural(first.pictures, 'picture')}: {evaluations[0].origin}. ms: one picture, one thread.",
    ]
    for better, worse, found in differences:
        low, high = found.interval
        how = f"better than {worse.spec.name} by {100 * found.accuracy:.1f} points"
        text = f"{better.spec.name} is {how if found.accuracy else f'as good as {worse.spec.name}'}"
        text += f" ({100 * low:.1f} to {100 * high:.1f}; McNemar p = {found.p_value:.2g})"
        verdict = "a real difference" if found.is_real else "these pictures show no difference"
        lines += wrapped(f"{text}: {verdict}.")
    return lines


def _differences(evaluations: "Sequence[Evaluation]") -> list[tuple[Any, Any, Any]]:
    """The best model beside each of the others: both, and how they differ."""
    from visiontool.evaluation.evaluate import compare

    best = max(evaluations, key=lambda one: one.metrics.accuracy)
    return [(best, other, compare(best, other)) for other in evaluations if other is not best]


def _to_json(
    evaluations: "Sequence[Evaluation]", latencies: Sequence[float], differences: Sequence[Any], notes: Sequence[str]
) -> dict[str, Any]:
    models = []
    for index, evaluation in enumerate(evaluations):
        facts = {"name": evaluation.spec.name, "path": str(evaluation.path), "judged_by": evaluation.origin}
        absent = [one.label for one in evaluation.metrics.per_class if not one.pictures]
        more = {"latency_ms": round(latencies[index], 3)} if latencies else {}
        if evaluation.path.is_file():
            more["size_bytes"] = evaluation.path.stat().st_size
        models.append(
            facts
            | more
            | evaluation.metrics.to_json()
            | {
                "absent": absent,
                "unreadable": [{"path": path, "error": why} for path, why in evaluation.unreadable.items()],
            }
        )
    pairs = [
        {
            "better": better.spec.name,
            "worse": worse.spec.name,
            **vars(found),
            "interval": list(found.interval),
            "is_real": found.is_real,
        }
        for better, worse, found in differences
    ]
    return {"schema": 1, "models": models, "differences": pairs, "notes": list(notes)}


def _latency_ms(classifier: "Classifier") -> float:
    """The median time of the network for one picture, on one thread."""
    import time

    import numpy as np

    pixels = np.zeros((1, *classifier.spec.input.size, 3), np.uint8)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        classifier.outputs(pixels, classifier.spec.logits)
        times.append(time.perf_counter() - start)
    return 1000 * sorted(times)[len(times) // 2]


def _report_unreadable(evaluations: "Sequence[Evaluation]") -> int:
    unreadable = {path: why for evaluation in evaluations for path, why in evaluation.unreadable.items()}
    if not unreadable:
        return 0
    path, why = next(iter(unreadable.items()))
    say(f"Left out, since they cannot be read: {plural(len(unreadable), 'picture')}. The first: {path}: {why}")
    return SOME_FAILED
