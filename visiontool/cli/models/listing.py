"""`visiontool models list`: one line a network."""

import json
import sys

import click

from visiontool.cli import options
from visiontool.cli.text import columns, say


@click.command("list")
@click.argument("text", metavar="[FILTER]", default="")
@click.option("--all", "everything", is_flag=True, help="Every name that timm and torchvision know.")
@click.option("--cached", is_flag=True, help="Only what is on this machine.")
@click.option(
    "--license", "license_", metavar="NAME|permissive", help="Weights of that license, or of any that allows all use."
)
@click.option("--max-params", type=options.amount(), metavar="N", help="At most N parameters, such as 5M.")
@click.option("--json", "as_json", is_flag=True, help="JSON, with all that is known.")
def list_models(
    text: str, everything: bool, cached: bool, license_: str | None, max_params: int | None, as_json: bool
) -> int:
    """List the classics, or what FILTER fits.

    FILTER looks in names, families and titles, of every name that timm and torchvision know. Without it the classics
    are listed, oldest first, and what is on this machine.

    Parameters in millions, multiply-accumulates (MACs) in billions at the usual input size, ImageNet-1k top-1 in
    percent as published for these weights.
    """
    from visiontool.hub.listing import models, table

    rows = models(text, all=everything, cached=cached, license=license_, max_params=max_params)
    if as_json:
        click.echo("[" + ",\n ".join(map(json.dumps, rows)) + "]")
        return 0
    for line in table(rows, columns(), on_terminal=sys.stdout.isatty()):
        click.echo(line)
    if not (text or everything or cached):
        say("More: visiontool models --all, or visiontool models FILTER.\nWhat one is: visiontool models show NAME")
    return 0
