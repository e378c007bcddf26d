"""`visiontool cache`: where pulled networks and embeddings are kept, and how much of the disk they take."""

import click

from visiontool.cli import options
from visiontool.cli.text import say
from visiontool.files import cache_root
from visiontool.text import plural


@click.command()
@click.option(
    "--max-size", type=options.amount(least=0), metavar="N", help="Remove the longest unused, down to N (such as 2G)."
)
def cache(max_size: int | None) -> int:
    """Show or shrink what is kept on this disk.

    That is pulled networks and embeddings of pictures: where they are, and what they take.
    """
    from visiontool.hub import cache

    if max_size is not None:
        features_before = cache.features_bytes()
        removed = cache.trim(max_size)
        if freed := features_before - cache.features_bytes():
            say(f"Removed: embeddings of pictures ({freed / 1e6:,.1f} MB).")
        for model in removed:
            say(f"Removed: {model.name} ({model.size_bytes / 1e6:,.1f} MB).")
    click.echo(cache_root())
    models = cache.all_cached()
    for model in models:
        click.echo(f"{model.size_bytes / 1e6:>10,.1f} MB  {model.name}")
    click.echo(f"{cache.features_bytes() / 1e6:>10,.1f} MB  embeddings of pictures")
    total = f"in {plural(len(models), 'network')}, embeddings and what was begun"
    click.echo(f"{cache.size_bytes() / 1e6:>10,.1f} MB  {total}")
    return 0
