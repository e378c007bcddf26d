"""`visiontool finetune`: a folder of pictures becomes a model."""

import math
import os
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from visiontool.cli import options
from visiontool.cli.output.target import reporting_errors
from visiontool.cli.text import json_text, printable, say, shortened
from visiontool.cli.training_options import training_options
from visiontool.errors import UsageError
from visiontool.text import plural

if TYPE_CHECKING:
    from visiontool.training.finetune import Plan, Run, Settings

_STAGES = {
    "check": "Opening all pictures",
    "plain": "Pictures through the backbone",
    "views": "Views of the training pictures",
    "head": "Solving the head",
    "folds": "Judging by folds",
    "train": "Training",
}
_BALANCES = ("auto", "none", "weights", "logit-adjust")
_LEVELS = ("none", "light", "medium", "heavy")
_LONGEST_LABEL = 30  # characters
_PREVIEW_PICTURES, _PREVIEW_VIEWS = 6, 8


@click.command(no_args_is_help=True)
@click.argument("data", required=False, type=options.PATH, metavar="DATA")
@options.model("Backbone: a name, FILE or RUN; several join.", multiple=True)
@click.option("-o", "--output", type=options.FOLDER, metavar="DIR", help="The run's folder.  [default: runs/NAME]")
@click.option("--force", is_flag=True, help="Replace the run in DIR.")
@options.dataset
@click.option("--augment", type=click.Choice(_LEVELS), help="How views differ.  [default: light, a mirror]")
@click.option("--views", type=click.IntRange(1, 64), metavar="K", help="Views of a training picture.  [default: 2]")
@click.option("--mirror/--no-mirror", default=None, help="Left and right may change places.")
@click.option("--crop", type=float, metavar="P", help="Views show at least this share of the area.")
@click.option("--rotate", type=float, metavar="DEGREES", help="Views are turned up to so far to either side.")
@click.option("--shift", type=float, metavar="P", help="Views are moved up to this share of the side.")
@click.option("--zoom", type=float, metavar="P", help="Views are larger or smaller by up to this share.")
@click.option("--brightness", type=float, metavar="P", help="Views are darker or brighter by up to this share.")
@click.option("--contrast", type=float, metavar="P", help="The same for contrast.")
@click.option("--color", type=float, metavar="P", help="The same for saturation.")
@click.option("--preview-augment", type=options.FILE, metavar="SHEET.png", help="Draw some views and stop.")
@click.option("--balance", type=click.Choice(_BALANCES), help="For classes of unequal size.  [default: auto]")
@click.option("--head", type=click.Choice(("auto", "logistic", "lda", "means")), help="Its kind.  [default: auto]")
@click.option(
    "--transform", type=click.Choice(("auto", "none", "power")), help="Of what the head sees.  [default: auto]"
)
@click.option("--stages", metavar="auto|N", help="Outputs of the backbone that the head sees, 1 to 4.  [default: auto]")
@options.CROP_MODE
@click.option("--few", type=options.COUNT, metavar="N", help="Train on N pictures of each class.")
@click.option("--folds", type=click.IntRange(2, 100), metavar="N", help="Cross-validate, then train on all.")
@click.option("--device", metavar="auto|cpu|cuda[:N]", help="Where the backbone runs.  [default: auto]")
@options.PROVIDER
@options.opening
@training_options
@click.option("--extend", type=options.FOLDER, metavar="RUN", help="Add DATA's classes to those of RUN.")
@click.option("--from", "from_run", type=options.FOLDER, metavar="RUN", help="Use the settings of that run.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and stop.")
@options.WEIGHTS
@options.OFFLINE
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON, not the run's path.")
@options.QUIET
@click.option("-v", "--verbose", is_flag=True, help="Print what runs which share of the network.")
@click.pass_context
def finetune(context: click.Context, /, **values: Any) -> int:
    """Make a model for your own classes.

    DATA is a folder with a folder of pictures for each class, or with train/, val/ and test/ that hold those. The
    backbone stays as it is, so this takes seconds to minutes and no torch; with --unfreeze or --from-scratch torch
    trains the network. Prints the path of the run; its model is for predict.

    \b
    visiontool finetune mydata/
    visiontool finetune mydata/ -m resnet50 -o runs/first
    visiontool finetune mydata/ --few 5 --folds 5
    visiontool finetune mydata/ --unfreeze auto
    visiontool finetune digits/ --from-scratch -m lenet5 --augment none -e 10
    visiontool predict -m runs/mydata img.jpg
    """
    args = SimpleNamespace(**values)
    if args.force and args.output is None:
        raise UsageError("--force is about the folder of -o; there is none")
    if args.data is None and args.from_run is None and args.resume is None:
        raise click.UsageError("name the folder of the data", context)
    options.check_loudness(args.quiet, args.verbose)
    settings = _settings(args)
    model = _model(context, args, settings)
    if args.weights is not None and model is not None:
        settings = replace(settings, model=model.parent.name)  # with these weights, its name in the cache
    if args.preview_augment is not None:
        _write_preview(args, settings, model)
    elif args.find_lr is not None:
        _find_lr(args, settings, model)
    elif args.dry_run:
        _show_plan(args, settings, model)
    else:
        _train(args, settings, model)
    return 0


def _settings(args: SimpleNamespace) -> "Settings":
    from visiontool.cli.progress import Stages
    from visiontool.training.run import settings_for
    from visiontool.training.settings import Options

    given = {name: getattr(args, name) for name in (*Options.__annotations__, "batch_size")}
    with Stages({}, enabled=not args.quiet):  # says what a resumed run changes
        settings, args.output, args.resume = settings_for(args.data, given, args.output, force=args.force)
    return settings


def _model(context: click.Context, args: SimpleNamespace, settings: "Settings") -> Path | None:
    """The model file whose backbone is taken, until the end of the command, or None where there is none."""
    from visiontool.cli.progress import Stages
    from visiontool.cli.pull import obtain
    from visiontool.exporting.merge import joined_backbones

    if settings.train is not None and settings.train.from_scratch:
        if args.weights is not None:
            raise UsageError("--weights are for a network that has been trained; --from-scratch begins without")
        return None
    if args.weights is not None and settings.joined:
        raise UsageError("--weights are for one network; leave out all -m but one")
    how = {"weights": args.weights, "offline": args.offline, "quiet": args.quiet, "labels_matter": False}
    files = [obtain(name, **how) for name in (settings.model, *settings.joined)]
    with Stages({}, enabled=not args.quiet):  # says where pictures are prepared otherwise
        return context.with_resource(joined_backbones(files, settings.crop_mode))


def _execution(args: SimpleNamespace, model: Path | None) -> dict[str, Any]:
    """What does not change the run: where the model is, limits, processes."""
    from visiontool.cli.pull import say_how

    return {
        "model": model,
        "options": options.loading(vars(args)),
        "opened": lambda classifier: say_how(classifier, args.batch_size) if args.verbose else None,
    }


def _train(args: SimpleNamespace, settings: "Settings", model: Path | None) -> None:
    from visiontool.cli.progress import Stages, only_ours_on_stderr
    from visiontool.training.finetune import finetune
    from visiontool.training.report import to_json
    from visiontool.training.train import check_installed, follow, is_follower

    if settings.train is not None and is_follower():
        check_installed()
        follow(settings)
        return
    with only_ours_on_stderr(), Stages(_STAGES, enabled=not args.quiet) as stages:
        try:
            run = finetune(
                settings,
                output=args.output,
                force=args.force,
                resume=args.resume,
                progress=stages.update,
                **_execution(args, model),
            )
        except KeyboardInterrupt:
            if settings.train is None:
                stages.say("The same command goes on with what the cache holds.")
            raise
    if not args.quiet:
        _report(run)
    click.echo(json_text({"folder": str(run.folder), **to_json(run)}) if args.as_json else str(run.folder))


def _find_lr(args: SimpleNamespace, settings: "Settings", model: Path | None) -> None:
    from visiontool.cli.progress import Stages, only_ours_on_stderr
    from visiontool.training.finetune import find_lr
    from visiontool.training.history import draw_rates

    file: Path = args.find_lr
    options.check_file("--find-lr", file, ".png")
    if settings.train is None:
        raise UsageError("--find-lr is for training the network: add --unfreeze or --from-scratch")
    with only_ours_on_stderr(), Stages(_STAGES, enabled=not args.quiet) as stages:
        tried, best = find_lr(settings, progress=stages.update, **_execution(args, model))
        with reporting_errors(str(file)):
            draw_rates(file, tried, best)
    click.echo(f"{best:.2g}")


def _show_plan(args: SimpleNamespace, settings: "Settings", model: Path | None) -> None:
    from visiontool.cli.progress import only_ours_on_stderr
    from visiontool.training.finetune import plan

    with only_ours_on_stderr():
        planned = plan(settings, **_execution(args, model))
    data = planned.data
    if not args.as_json:
        click.echo(_plan_text(planned, settings))
        for note in () if args.quiet else data.notes:
            say(note[:1].upper() + note[1:])
        return
    facts: dict[str, Any] = {
        "data": str(data.root),
        "labels": data.labels,
        "pictures": planned.splits,
        "ignored": dict(data.ignored),
        "model": planned.spec.name,
        "device": planned.device,
        "views": settings.views,
        "backbone_passes": planned.passes,
        "memory_bytes": planned.memory_bytes,
        "seconds": None if planned.seconds is None else round(planned.seconds, 1),
    }
    facts |= {"steps": planned.steps} if settings.train else {}
    click.echo(json_text(facts))


def _plan_text(planned: "Plan", settings: "Settings") -> str:
    data, spec = planned.data, planned.spec
    height, width = spec.input.size
    labels = ", ".join(shortened(label, _LONGEST_LABEL) for label in data.labels[:5])
    passes, seconds = plural(planned.passes, "picture"), planned.seconds or 0.0
    time = f"{math.ceil(seconds)} s" if seconds < 90 else f"{math.ceil(seconds / 60):,} min"
    lines = [
        ("Data", f"{data.root}: {plural(len(data.samples), 'picture')}, {plural(len(data.labels), 'class')}"),
        ("Classes", labels if len(data.labels) <= 5 else f"{labels} and {len(data.labels) - 5:,} more"),
        ("Ignored", ", ".join(f"{count:,} {kind}" for kind, count in data.ignored.items()) or "nothing"),
        ("Split", ", ".join(f"{count:,} {split}" for split, count in planned.splits.items())),
        ("Model", f"{spec.name}, {width}x{height} pixels, crop mode {spec.crop_mode}, on {planned.device}"),
    ]
    frozen = [
        ("Views", f"{settings.views} of each training picture; {passes} through the backbone at most"),
        ("Memory", f"{planned.memory_bytes / 1e6:,.1f} MB for the embeddings"),
        ("Time", f"about {time} with nothing cached" + (", then the training" if settings.train else "")),
    ]
    lines += frozen if planned.seconds is not None else []
    if settings.train is not None:
        recipe = settings.train
        batch = f"{recipe.batch_size * recipe.accumulate:,} pictures"
        lines.append(("Training", f"{planned.steps:,} steps of {batch}, {recipe.optimizer}"))
    return "\n".join(f"{name:<9}{printable(text)}" for name, text in lines)


def _report(run: "Run") -> None:
    from visiontool.cli.output.evaluation import lines_of

    by = " of val" if run.folds is None else f", in {run.folds} folds"
    judges = f"{plural(run.metrics.pictures, 'picture')}{by}; {run.splits.get('train', 0):,} for training"
    say("\n".join(lines_of(run.metrics, ("Judged by", judges))))
    folder = min(str(run.folder), os.path.relpath(run.folder), key=len)
    say(f"Next: visiontool predict -m {shlex.quote(folder)} PICTURE")


def _write_preview(args: SimpleNamespace, settings: "Settings", model: Path | None) -> None:
    file: Path = args.preview_augment
    options.check_file("--preview-augment", file, ".png")
    from visiontool.cli.progress import only_ours_on_stderr
    from visiontool.images import augment
    from visiontool.training.finetune import preview

    with only_ours_on_stderr():
        rows, headings = preview(settings, model, options.limits(vars(args)), _PREVIEW_PICTURES, _PREVIEW_VIEWS)
    with reporting_errors(str(file)):
        augment.sheet(rows, headings).save(file)
    click.echo(file)
