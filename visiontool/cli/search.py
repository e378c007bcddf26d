"""`visiontool search`: the best settings of finetune for a dataset."""

import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from visiontool.cli import options
from visiontool.cli.text import json_text, say
from visiontool.cli.training_options import duration

if TYPE_CHECKING:
    from visiontool.searching.space import Space

_STAGES = {
    "trials": "Trials",
    "plain": "Pictures through the backbone",
    "views": "Views of the training pictures",
    "train": "Training",
}
_SHARED = ("labels", "splits", "exclude", "val_split", "group", "on_bad", "seed", "device")


@click.command(no_args_is_help=True)
@click.argument("data", type=options.PATH, metavar="DATA")
@options.model("Backbones to choose from.  [default: all that are on this machine]", multiple=True)
@click.option("-o", "--output", type=options.FOLDER, metavar="DIR", help="Its folder.  [default: runs/NAME-search]")
@click.option("--force", is_flag=True, help="Begin anew, without the search that is in DIR.")
@click.option("--trials", type=options.COUNT, default=30, metavar="N", help="In all.  [default: 30]")
@click.option("--time-limit", type=duration, metavar="TIME", help="Stop after 90s, 10m or 2h.")
@click.option("--sampler", type=click.Choice(("grid", "random", "tpe", "gp")), default="tpe", help="[default: tpe]")
@click.option("--space", type=options.FILE, metavar="FILE.yaml", help="What to choose from.")
@click.option("--unfreeze", is_flag=True, default=None, help="Search how to train the network too; needs torch.")
@click.option("--learning-curve", is_flag=True, help="Say whether more pictures would help.")
@click.option("--keep", type=click.IntRange(0, 100), default=0, metavar="N", help="Make runs of the best N.")
@options.dataset
@options.DEVICE
@options.opening
@options.OFFLINE
@click.option("--json", "as_json", is_flag=True, help="Print the trials as JSON, not the path.")
@options.QUIET
def search(**values: Any) -> int:
    """Find the best settings of finetune for a dataset.

    DATA is as for finetune. Each trial is judged by cross-validation; test, or else val, is kept aside and judges the
    winner alone. The same command goes on with a search that was stopped, or shares one that runs. Prints the path of
    the search, for finetune --from.

    \b
    visiontool search mydata/
    visiontool search mydata/ -m efficientnet_lite0 -m resnet18 --time-limit 10m
    visiontool search mydata/ --learning-curve
    visiontool finetune mydata/ --from runs/mydata-search
    """
    from visiontool.cli.output import leaderboard
    from visiontool.cli.progress import Stages, only_ours_on_stderr
    from visiontool.searching import Wanted
    from visiontool.searching import search as search_for

    args = SimpleNamespace(**values)
    wanted = Wanted(args.sampler, args.trials, args.time_limit, args.keep, args.learning_curve)
    folder = args.output or Path("runs", f"{Path(os.path.abspath(args.data)).name}-search")
    with only_ours_on_stderr(), Stages(_STAGES, enabled=not args.quiet) as stages:
        said: dict[str, logging.LogRecord] = {}  # what every trial finds in the same pictures is said once
        stages.addFilter(lambda record: said.setdefault(record.getMessage(), record) is record)
        how = {"force": args.force, "options": options.loading(vars(args)), "progress": stages.update}
        try:
            found = search_for(_space(args), folder, wanted, **how)
        except KeyboardInterrupt:
            stages.say("The same command goes on with the trials that are done.")
            raise
    if not args.quiet:
        say("\n".join(leaderboard.lines_of(found)))
    click.echo(json_text(found.to_json()) if args.as_json else str(folder))
    return 0


def _space(args: SimpleNamespace) -> "Space":
    """What is searched, with its models on this machine."""
    from visiontool.cli.pull import obtain
    from visiontool.hub.listing import models
    from visiontool.searching.space import Space

    shared = {name: getattr(args, name) for name in _SHARED}
    shared |= {"unfreeze": "auto"} if args.unfreeze else {}
    names = args.model
    if not names and args.space is None:
        rows = sorted(models(cached=True), key=lambda row: not row["default"])
        names = [row["name"] for row in rows if not row["damaged"]]
    space = Space.usual(args.data, shared, names, args.space)
    for name in space.models:
        obtain(name, offline=args.offline, quiet=args.quiet, labels_matter=False)
    return space
