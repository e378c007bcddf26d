"""`visiontool cache`: where pulled networks are kept, and how much of the disk they take."""

import click

from visiontool.cli import options
from visiontool.cli.text import say


@click.command()
@click.option(
    "--max-size",
    callback=options.amount(1000, or_zero=True),
    metavar="N",
    help="Remove what was not used for longest until N bytes (such as 2G) hold the rest.",
)
def cache(max_size: int | None) -> int:
    """Show where pulled networks are kept and what they take, or make that less."""
    from visiontool import cache

    if max_size is not None:
        for removed in cache.trim(max_size):
            say(f"Removed: {removed.name} ({removed.size_bytes / 1e6:,.1f} MB).")
    click.echo(cache.root())
    kept = cache.all_cached()
    for model in kept:
        click.echo(f"{model.size_bytes / 1e6:>10,.1f} MB  {model.name}")
    click.echo(f"{cache.size_bytes() / 1e6:>10,.1f} MB  in {len(kept)} networks and what was begun")
    return 0
