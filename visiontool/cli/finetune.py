"""`visiontool finetune`: a folder of pictures becomes a model."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from visiontool.cli import options
from visiontool.cli.text import json_text
from visiontool.errors import UsageError
from visiontool.model.spec import CropMode

if TYPE_CHECKING:
    from visiontool.training.finetune import Settings

_STAGES = {
    "check": "Opening all pictures",
    "plain": "Pictures through the backbone",
    "views": "Views of the training pictures",
    "head": "Solving the head",
    "folds": "Judging by folds",
}
_BALANCES = ("auto", "none", "weights", "logit-adjust")
_LEVELS = ("none", "light", "medium", "heavy")
_CHANGES = ("mirror", "crop", "rotate", "shift", "zoom", "brightness", "contrast", "color")  # fields of Augment


@click.command(no_args_is_help=True)
@click.argument("data", required=False, type=click.Path(path_type=Path), metavar="DATA")
@click.option(
    "-m", "--model", metavar="MODEL", shell_complete=options.complete_model, help="Whose backbone: a name, FILE or RUN."
)
@click.option("-o", "--output", type=options.FOLDER, metavar="DIR", help="The run's folder.  [default: runs/NAME]")
@click.option("--force", is_flag=True, help="Replace the run in DIR.")
@click.option("--labels", "labels_file", type=options.FILE, metavar="FILE.csv", help="path,label[,split,group] a line.")
@click.option("--splits", "splits_file", type=options.FILE, metavar="FILE.csv", help="The splits.csv of a run, again.")
@click.option("--val-split", "val_share", type=float, metavar="P", help="Share for validation.  [default: 0.2]")
@click.option("--group", metavar="REGEX", help="Paths with the same match stay on one side.")
@click.option("--on-bad", type=click.Choice(("fail", "skip")), help="Unreadable or missing pictures.  [default: fail]")
@click.option("--augment", "level", type=click.Choice(_LEVELS), help="How views differ.  [default: light, a mirror]")
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
@click.option("--crop-mode", type=click.Choice(get_args(CropMode)), help="Instead of the model's own.")
@click.option("--few", type=options.COUNT, metavar="N", help="Train on N pictures of each class.")
@click.option("--folds", type=click.IntRange(2, 100), metavar="N", help="Cross-validate, then train on all.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), metavar="N", help="For all that is drawn.  [default: 0]")
@click.option("--device", metavar="auto|cpu|cuda[:N]", help="Where the backbone runs.  [default: auto]")
@options.PROVIDER
@click.option("-j", "--workers", type=options.COUNT, metavar="N", help="Pictures opened at once. Default: one a core.")
@click.option(
    "-b", "--batch-size", type=options.COUNT, metavar="N", help="Pictures in one run. Default: 8; more on a GPU."
)
@options.MAX_PIXELS
@options.MAX_BYTES
@options.TIMEOUT
@click.option("--from", "from_run", type=options.FOLDER, metavar="RUN", help="With the settings of that run.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and stop.")
@click.option("--weights", type=options.FILE, metavar="FILE", help="Weights of the network that -m names.")
@click.option("--offline", is_flag=True, help="Use no network, also where -m is not on this machine.")
@click.option("--json", "as_json", is_flag=True, help="What came out as JSON, instead of the run's path.")
@click.option("-q", "--quiet", is_flag=True, help="No remarks on stderr; errors stay.")
@options.VERBOSE
@click.pass_context
def finetune(
    context: click.Context,
    /,
    output: Path | None,
    force: bool,
    preview_augment: Path | None,
    workers: int | None,
    batch_size: int | None,
    max_pixels: int | None,
    max_bytes: int | None,
    timeout: float,
    dry_run: bool,
    weights: Path | None,
    offline: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **said: Any,
) -> int:
    """Make a model for your own classes.

    DATA is a folder with a folder of pictures for each class, or with train/, val/ and test/ that hold those. The
    backbone stays as it is, so this takes seconds to minutes and no torch. Prints the path of the run; its model is for
    predict.

    \b
    visiontool finetune mydata/
    visiontool finetune mydata/ -m resnet50 -o runs/first
    visiontool finetune mydata/ --few 5 --folds 5
    visiontool predict -m runs/mydata img.jpg
    """
    if force and output is None:
        raise UsageError("--force is about the folder of -o; there is none")
    options.check_loudness(quiet, verbose)

    from visiontool.cli.progress import Stages, only_ours_on_stderr
    from visiontool.cli.pull import obtain
    from visiontool.cli.render.finetune import show_plan, show_run, write_preview
    from visiontool.cli.render.runtime import say_how
    from visiontool.data.loader import LoadOptions
    from visiontool.images.decode import DEFAULT_LIMITS, Limits
    from visiontool.training.finetune import finetune as run_finetune

    wanted = _settings(context, **said)
    model = obtain(wanted.model, weights=weights, offline=offline, quiet=quiet, labels_matter=False)
    if weights is not None:
        wanted = replace(wanted, model=Path(model or "").parent.name)  # with these weights, by its name in the cache
    limits = Limits(max_pixels or DEFAULT_LIMITS.max_pixels, max_bytes or DEFAULT_LIMITS.max_bytes)
    means: dict[str, Any] = {
        "model": model,
        "options": LoadOptions(limits, workers, timeout, batch_size),
        "opened": (lambda classifier: say_how(classifier, batch_size)) if verbose else (lambda classifier: None),
    }
    if preview_augment is not None:
        with only_ours_on_stderr():
            write_preview(preview_augment, wanted, model=model, limits=limits)
        click.echo(preview_augment)
        return 0
    if dry_run:
        from visiontool.training.plan import plan

        with only_ours_on_stderr():
            planned = plan(wanted, **means)
        show_plan(planned, wanted, as_json=as_json, quiet=quiet)
        return 0

    with only_ours_on_stderr(), Stages(_STAGES, shown=not quiet) as stages:
        try:
            run = run_finetune(wanted, output=output, force=force, progress=stages.update, **means)
        except KeyboardInterrupt:
            if not quiet:
                stages.say("The same command goes on with what the cache holds.")
            raise
    if not quiet:
        show_run(run)
    if as_json:
        from visiontool.training.report import to_json

        click.echo(json_text({"folder": str(run.folder), **to_json(run)}))
    else:
        click.echo(str(run.folder))
    return 0


def _settings(context: click.Context, *, data: Path | None, from_run: Path | None, **said: Any) -> "Settings":
    """The settings: those of the run of --from, if there is one, changed by what was typed."""
    from visiontool.images.augment import LEVELS
    from visiontool.training.settings import Settings, usual_views

    if data is None and from_run is None:
        raise click.UsageError("name the folder of the data", context)
    changes = {name: value for name in _CHANGES if (value := said.pop(name)) is not None}
    level = said.pop("level")
    typed = {name: value for name, value in said.items() if value is not None}
    if data is not None:
        typed["data"] = data
    before = None if from_run is None else Settings.of_run(from_run)
    if before is not None and "folds" in typed:  # what is typed takes the place of what would contradict it
        before = replace(before, splits_file=None)
    if before is not None and "splits_file" in typed:
        before = replace(before, folds=None)
    augment = LEVELS[level] if level else LEVELS["light"] if before is None else before.augment
    augment = replace(augment, **changes)
    if level or changes:
        typed.setdefault("views", usual_views(augment))
    return replace(before, **typed, augment=augment) if before else Settings(**typed, augment=augment)
