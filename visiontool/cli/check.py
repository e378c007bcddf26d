"""`visiontool check`: what is wrong with a dataset."""

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from visiontool.cli import REFUSED, options
from visiontool.cli.output import findings as output
from visiontool.cli.output.target import reporting_errors
from visiontool.cli.text import json_text, say

if TYPE_CHECKING:
    from visiontool.checking import Checked

_STAGES = {"embed": "Pictures through the network", "check": "Checking"}


@click.command(no_args_is_help=True)
@click.argument("data", type=options.FOLDER, metavar="DATA")
@options.model("Whose embeddings tell what is alike.")
@click.option("--labels", type=options.FILE, metavar="FILE.csv", help="path,label[,split,group] a line.")
@click.option("--group", metavar="REGEX", help="Paths with the same match belong together.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, metavar="N", help="Of the folds.  [default: 0]")
@click.option("--strict", is_flag=True, help="Exit code 6 where a finding is serious.")
@click.option("--list", "list_", type=options.FILE, metavar="FILE.csv", help="Write the pictures of all findings.")
@click.option("--report", type=options.FILE, metavar="FILE.html", help="Write a page to look at.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
@options.answering
@options.foreign_model
def check(**values: Any) -> int:
    """Find what is wrong with a dataset, before a model learns it.

    DATA is as for finetune. Broken and odd files, classes, copies inside and across splits, series that belong on one
    side of a split, wrong labels, outliers, and splits from different places: the most serious first. Nothing in DATA
    is changed; finetune --exclude FILE.csv leaves out what the list of --list says.

    \b
    visiontool check mydata/
    visiontool check mydata/ --list faults.csv --report faults.html
    visiontool finetune mydata/ --exclude faults.csv
    """
    args = SimpleNamespace(**values)
    options.check_file("--list", args.list_, ".csv")
    options.check_file("--report", args.report, ".html")
    checked = _check(args)
    if args.list_ is not None:
        with reporting_errors(str(args.list_)):
            output.write_list(args.list_, checked)
    if args.report is not None:
        _write_page(args, checked)
    if args.as_json:
        click.echo(json_text(output.to_json(checked)))
    else:
        click.echo("\n".join(output.lines_of(checked)))
    return REFUSED if args.strict and checked.is_serious else 0


def _check(args: SimpleNamespace) -> "Checked":
    from visiontool.checking import check as check_data
    from visiontool.cli.progress import Stages, only_ours_on_stderr
    from visiontool.cli.pull import load_all
    from visiontool.data.dataset import read

    (classifier,) = load_all([args.model], args, {"threads": 1}, are_single=True)
    known = dict(zip(classifier.spec.label_ids or (), classifier.spec.labels, strict=False))
    data = read(args.data, labels_file=args.labels, skip_missing=True, group=args.group, known=known or None)
    with only_ours_on_stderr(), Stages(_STAGES, enabled=not args.quiet) as stages:
        loading = options.loading(vars(args))
        return check_data(data, classifier, seed=args.seed, options=loading, progress=stages.update)


def _write_page(args: SimpleNamespace, checked: "Checked") -> None:
    from visiontool.checking.report import write

    file: Path = args.report
    with reporting_errors(str(file)):
        write(file, checked, options.loading(vars(args)))
    if not args.quiet:
        say(f"The page: {file}")
