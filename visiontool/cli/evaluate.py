"""`visiontool evaluate`: how good models are on pictures whose classes are known."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from visiontool.cli import SOME_FAILED, options
from visiontool.cli.output.answers import check_file, write_errors, write_probabilities
from visiontool.cli.text import json_text, say
from visiontool.errors import UsageError
from visiontool.text import plural

if TYPE_CHECKING:
    from visiontool.evaluation.evaluate import Evaluation
    from visiontool.inference.classifier import Classifier

_SPLITS = ("train", "val", "test", "all")


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

    classifiers = _load(args, models or [None])
    evaluations, notes = _evaluate_all(args, classifiers, Path(data))
    if args.errors is not None:
        write_errors(args.errors, evaluations)
    if args.probabilities is not None:
        write_probabilities(args.probabilities, evaluations)
    _print(args, evaluations, [_latency_ms(each) for each in classifiers] if len(classifiers) > 1 else [], notes)
    return _report_unreadable(evaluations)


def _evaluate_all(
    args: SimpleNamespace, classifiers: "Sequence[Classifier]", data: Path
) -> "tuple[list[Evaluation], list[str]]":
    """The evaluation of each model, and what should be known of them."""
    from visiontool.cli.progress import Stages, only_ours_on_stderr
    from visiontool.evaluation.evaluate import read_map

    mapping = None if args.map_ is None else read_map(args.map_)
    evaluations, notes = [], dict[str, None]()
    with only_ours_on_stderr(), Stages({"evaluate": "Evaluating"}, enabled=not args.quiet) as stages:
        for classifier in classifiers:
            evaluation, its_notes = _evaluate(args, classifier, data, mapping, stages)
            evaluations.append(evaluation)
            notes |= dict.fromkeys(its_notes)
    return evaluations, [*notes]


def _print(
    args: SimpleNamespace, evaluations: "Sequence[Evaluation]", latencies: Sequence[float], notes: Sequence[str]
) -> None:
    from visiontool.cli.output import evaluation as output

    differences = output.differences_of(evaluations)
    if args.as_json:
        click.echo(json_text(output.json_of(evaluations, latencies, differences, notes), indent=1))
        return
    if len(evaluations) == 1:
        lines = output.lines_of(evaluations[0])
    else:
        lines = output.table_of(evaluations, latencies, differences)
    click.echo("\n".join(lines))
    for note in () if args.quiet else notes:
        say(note)


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
