"""`visiontool evaluate`: how good models are on pictures whose classes are known."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from visiontool.cli import SOME_FAILED, options
from visiontool.cli.output import evaluation as output
from visiontool.cli.output.target import check_output, reporting_errors
from visiontool.cli.pull import load_all
from visiontool.cli.text import json_text, say
from visiontool.errors import UsageError
from visiontool.files import MODEL_FILE
from visiontool.text import plural

if TYPE_CHECKING:
    from visiontool.evaluation.decisions import Decided
    from visiontool.evaluation.evaluate import Evaluation
    from visiontool.inference.classifier import Classifier

_SPLITS = ("train", "val", "test", "all")
_KINDS = ("average", "vote", "weighted", "stacking", "greedy")


@click.command(no_args_is_help=True)
@click.argument("arguments", nargs=-1, metavar="[MODEL...] DATA", shell_complete=options.complete_model)
@options.model("A model beside those before DATA.")
@click.option("--split", type=click.Choice(_SPLITS), help="Which pictures.  [default: test, else val, else all]")
@click.option("--labels", type=options.FILE, metavar="FILE.csv", help="path,label[,split,group] a line.")
@click.option("--group", metavar="REGEX", help="Paths with the same match are no independent evidence.")
@click.option("--map", "map_", type=options.FILE, metavar="FILE.csv", help="LABEL,CLASS a line: the model's names.")
@click.option("--tta", type=click.Choice(("flip", "crops")), help="Average over views of each picture.")
@click.option("--precision", type=options.SHARE, metavar="P", help="Thresholds above which answers are so often right.")
@click.option("--conformal", type=options.SHARE, metavar="P", help="Sets that hold the true class so often.")
@click.option("--ensemble", type=click.Choice(_KINDS), help="How the models answer together.")
@click.option("-o", "--output", type=options.FILE, metavar="FILE", help="The model with these, or the ensemble.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--errors", type=options.FILE, metavar="FILE.csv", help="Write the misclassified pictures.")
@click.option("--probabilities", type=options.FILE, metavar="FILE", help="Write all probabilities: .csv or .parquet.")
@click.option("--report", type=options.FILE, metavar="FILE.html", help="Write a page to look at.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of the table.")
@options.answering
@options.foreign_model
@click.pass_context
def evaluate(context: click.Context, /, **values: Any) -> int:
    """Measure how good models are on pictures whose classes are known.

    DATA is a folder with a folder of pictures for each class, or with train/, val/ and test/ that hold those. Folders
    are matched with a model's classes by id or name. A run is judged by what it was not trained on; a search stands for
    the runs that it kept. Exit code 7 where pictures cannot be read.

    \b
    visiontool evaluate photos/
    visiontool evaluate runs/mydata mydata/ --errors errors.csv
    visiontool evaluate efficientnet_lite0 resnet50 photos/ --json
    visiontool evaluate runs/mydata mydata/ --precision 0.98 -o sure.onnx
    visiontool evaluate runs/a runs/b mydata/ --ensemble weighted -o both.json
    """
    args = SimpleNamespace(**values)
    *names, data = args.arguments or (None,)
    if data is None:
        raise click.UsageError("name the folder of the data", context)
    names = _names([*names, args.model])
    _check(args, len(names))
    models = load_all(names or [None], args, *[{"threads": 1}] * max(1, len(names)))
    evaluations, notes = _evaluate_all(args, models, Path(data))
    code = _report_unreadable(evaluations)
    decided = None
    if args.ensemble is not None:
        evaluations = _answer_together(args, models, evaluations)
    elif args.output is not None:
        from visiontool.evaluation import decisions

        decided = decisions.decide(evaluations[0], precision=args.precision, coverage=args.conformal)
        decisions.write(models[0], args.output, decided.decisions)
    if args.errors is not None:
        output.write_errors(args.errors, evaluations)
    if args.probabilities is not None:
        output.write_probabilities(args.probabilities, evaluations)
    if args.report is not None:
        _write_page(args, models, evaluations, notes)
    _print(args, evaluations, decided, notes)
    return code


def _names(given: Sequence[str | None]) -> list[str]:
    """The models that are named, with the runs of a search in its place."""
    from visiontool.training.run import kept_by

    return [run for name in given if name is not None for run in kept_by(name)]


def _check(args: SimpleNamespace, models: int) -> None:
    options.check_file("--errors", args.errors, ".csv")
    options.check_file("--probabilities", args.probabilities, ".csv", ".parquet")
    options.check_file("--report", args.report, ".html")
    if args.weights is not None and models > 1:
        raise UsageError("--weights FILE holds the weights of one network; name it alone, or pull it first")
    options_ = ("precision", "conformal", "ensemble")
    given = [f"--{name}" for name in options_ if getattr(args, name) is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are not for one file; run evaluate once for each")
    if not given:
        if args.output is not None or args.force:
            raise UsageError(f"-o FILE is for the model of one of --{', --'.join(options_)}; name one, or leave -o out")
        return
    if args.output is None:
        raise UsageError(f"{given[0]} makes a model: name its file with -o")
    if args.ensemble is not None and models < 2:
        raise UsageError("--ensemble takes two models or more; name them before DATA")
    if args.ensemble is None and models > 1:
        raise UsageError(f"{given[0]} is about one model, not {models}")
    options.check_file("-o", args.output, ".json", *([".onnx"] if args.ensemble is None else []))
    check_output(args.output, "json", force=args.force, resume=False)


def _answer_together(
    args: SimpleNamespace, models: "Sequence[Classifier]", evaluations: "Sequence[Evaluation]"
) -> "list[Evaluation]":
    """Writes the ensemble; gives the evaluations of its members and its own, on what it was not fitted on."""
    from visiontool.evaluation.ensembling import ensemble_of

    ensemble, judged = ensemble_of(args.ensemble, models, evaluations, args.output.stem)
    ensemble.save(args.output)
    if not args.quiet:
        shares = zip(ensemble.members, ensemble.combination.weights, strict=True)
        text = ", ".join(f"{weight:.2f} {member.spec.name}" for member, weight in shares)
        say(f"{args.output}: {args.ensemble} of {text}; fitted on half of the pictures, judged by the other half.")
    return judged


def _evaluate_all(
    args: SimpleNamespace, classifiers: "Sequence[Classifier]", data: Path
) -> "tuple[list[Evaluation], list[str]]":
    """The evaluation of each model, and what should be known of them."""
    from visiontool.cli.progress import Stages, only_ours_on_stderr
    from visiontool.data.dataset import read
    from visiontool.evaluation.benchmark.process import latency_of
    from visiontool.evaluation.evaluate import evaluate, read_map
    from visiontool.training.pictures import run_of
    from visiontool.training.seen import notes_on, with_splits_of

    mapping = {} if args.map_ is None else read_map(args.map_)
    if run_of(data / MODEL_FILE) is not None:
        raise UsageError(f"{data} is a run, no data. Name its data behind it: visiontool evaluate {data} DATA")
    as_given = read(data, labels_file=args.labels, group=args.group)
    evaluations, notes = [], list[str]()
    with only_ours_on_stderr(), Stages({"evaluate": "Evaluating"}, enabled=not args.quiet) as stages:
        for classifier in classifiers:
            run = run_of(classifier.path)
            dataset = as_given if run is None else with_splits_of(run, as_given)
            evaluation = evaluate(
                classifier,
                dataset,
                args.split,
                mapping=mapping,
                options=options.loading(vars(args)),
                tta=args.tta,
                fingerprints=run is not None,
                progress=stages.update,
            )
            latency_ms = latency_of(classifier) if len(classifiers) > 1 else None
            evaluations.append(replace(evaluation, latency_ms=latency_ms))
            notes += [] if run is None else notes_on(run, evaluation, drawn=dataset is not as_given)
    return evaluations, [*dict.fromkeys(notes)]


def _write_page(
    args: SimpleNamespace, models: "Sequence[Classifier]", evaluations: "Sequence[Evaluation]", notes: Sequence[str]
) -> None:
    from visiontool.evaluation import report
    from visiontool.evaluation.benchmark.machine import machine
    from visiontool.evaluation.evaluate import differences

    settings = {name: getattr(args, name) for name in ("split", "group", "tta", "crop_mode", "map_", "labels")}
    given = {name.strip("_").replace("_", " "): str(value) for name, value in settings.items() if value is not None}
    facts = {"model": ", ".join(str(model.path) for model in models), **given, **machine()}
    with reporting_errors(str(args.report)):
        report.write(
            args.report,
            evaluations,
            title=f"{', '.join(one.spec.name for one in evaluations)} on {evaluations[0].origin}",
            facts={name: str(value) for name, value in facts.items() if value is not None},
            notes=[*output.sentences_on(differences(evaluations)), *notes],
            models=[*models, *[None] * (len(evaluations) - len(models))],
            options=options.loading(vars(args)),
        )


def _print(
    args: SimpleNamespace, evaluations: "Sequence[Evaluation]", decided: "Decided | None", notes: Sequence[str]
) -> None:
    from visiontool.evaluation.evaluate import differences

    found = differences(evaluations)
    if args.as_json:
        click.echo(json_text(output.json_of(evaluations, found, decided, notes), indent=1))
        return
    if len(evaluations) == 1:
        (one,) = evaluations
        model = f"{one.spec.name}: {plural(len(one.spec.labels), 'class')}"
        judges = f"{plural(one.metrics.pictures, 'picture')}: {one.origin}"
        weights = [("Weights", source)] if (source := one.spec.weights.get("source")) else []
        lines = output.lines_of(one.metrics, ("Model", model), *weights, ("Judged by", judges))
    else:
        lines = output.table_of(evaluations, found)
    if decided is not None:
        lines += ["", *output.decided_lines(decided, args.output)]
    click.echo("\n".join(lines))
    for note in () if args.quiet else notes:
        say(note)


def _report_unreadable(evaluations: "Sequence[Evaluation]") -> int:
    unreadable = {path: why for evaluation in evaluations for path, why in evaluation.unreadable.items()}
    if not unreadable:
        return 0
    path, why = next(iter(unreadable.items()))
    say(f"Left out, since they cannot be read: {plural(len(unreadable), 'picture')}. The first: {path}: {why}")
    return SOME_FAILED
