"""`visiontool models`: which networks there are, what they are, and which of them are on this machine."""

import os
from pathlib import Path
from typing import Any

import click

from visiontool.cli import REFUSED, options
from visiontool.cli.models.listing import list_models
from visiontool.cli.models.show import show
from visiontool.cli.text import say
from visiontool.files import MODEL_FILE, on_disk


class _Models(click.Group):
    """`models FILTER` is `models list FILTER`, and `models` alone is `models list`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.resilient_parsing:  # to complete what is typed
            return super().parse_args(ctx, args)
        if not args or args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Models)
def models() -> None:
    """List, show, get and remove networks.

    \b
    visiontool models                the classics, oldest first
    visiontool models resnet         all whose name or family fits
    visiontool models show vgg16     what it is and what it costs
    visiontool models pull resnet50  its weights, as a model file
    """


models.add_command(list_models)
models.add_command(show)


@models.command(no_args_is_help=True)
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=options.complete_classic)
@click.option("--img-size", type=options.SIDE, metavar="N", help="Another side of the input, in pixels.")
@click.option("--weights", type=options.FILE, metavar="FILE", help="Weights on this disk, instead of a download.")
@click.option("--class-names", type=options.FILE, metavar="FILE", help="The classes of --weights: names, one a line.")
@click.option("--offline", is_flag=True, help="Use no network.")
@options.QUIET
def pull(names: tuple[str, ...], **how: Any) -> int:
    """Get networks, as checked ONNX files.

    Weights are downloaded from where they are published. Those of the classics are put into graphs that come with
    visiontool. Other networks, and some classics in another size, are converted by torch and compared with it, which
    needs the extra [train]. What was pulled needs no network any more. Prints the path of each model file.
    """
    from visiontool.cli.pull import pull
    from visiontool.hub.resolve import pullable

    if how["weights"] is not None and len(names) > 1:
        raise click.UsageError("--weights FILE is about one network; name one")
    for name in names[1:]:
        pullable(name, img_size=how["img_size"])  # a name mistyped among others is reported before anything is pulled
    for name in names:
        click.echo(pull(name, **how).path)
    return 0


@models.command(no_args_is_help=True)
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=options.complete_cached)
def remove(names: tuple[str, ...]) -> int:
    """Remove networks from this machine."""
    from visiontool.hub import cache
    from visiontool.hub.resolve import cached_name

    full_names = [cached_name(name) for name in names]  # a name mistyped among others removes nothing
    for name in full_names:
        cache.remove(name)
    say(f"Removed: {', '.join(full_names)}.")
    return 0


@models.command(no_args_is_help=True)
@click.argument("name", metavar="MODEL", shell_complete=options.complete_model)
def path(name: str) -> int:
    """Print where the file of a model is."""
    from visiontool.hub import resolve

    click.echo(on_disk(resolve.resolve(name)))
    return 0


@models.command()
@click.argument("name", required=False, metavar="[MODEL]", shell_complete=options.complete_model)
@click.option("--unset", is_flag=True, help="Back to EfficientNet-Lite0.")
def default(name: str | None, unset: bool) -> int:
    """Print the default model, or choose it.

    It answers where none is named.
    """
    from visiontool.hub import cache, resolve
    from visiontool.inference.classifier import Classifier

    if unset and name is not None:
        raise click.UsageError("give a model or --unset, not both")
    if name is not None:
        path = Classifier.load(name, device="cpu").path  # says what is wrong with it
        # A path is meant from wherever the next command runs.
        is_path = path in (Path(name), Path(name, MODEL_FILE))
        cache.set_default_model(os.path.abspath(name) if is_path else name)
    elif unset:
        cache.set_default_model(None)
    click.echo(resolve.default_model())
    if chosen := os.environ.get(resolve.MODEL_VARIABLE):
        say(f"{resolve.MODEL_VARIABLE} in the environment comes before it: {chosen}")
    return 0


@models.command()
@click.argument("names", nargs=-1, metavar="[NAME...]", shell_complete=options.complete_cached)
def verify(names: tuple[str, ...]) -> int:
    """Check that pulled files are unchanged.

    Those of the networks named, or all.
    """
    from visiontool.hub import cache
    from visiontool.hub.resolve import cached_name

    cached = {model.name: model for model in cache.all_cached()}
    is_damaged = False
    for name in [cached_name(name) for name in names] or cached:
        faults = cache.verify(name)
        click.echo(f"{name}: {'; '.join(faults) or 'as it was written'}")
        if faults:
            is_damaged = True
            say(cache.remedy(name, cached[name].source))
    return REFUSED if is_damaged else 0
