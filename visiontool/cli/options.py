"""What several options and commands share: how values are read, and completion."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from visiontool.errors import UsageError
from visiontool.model.spec import Activation, Interpolation

if TYPE_CHECKING:
    from visiontool.model.foreign import Description

COUNT = click.IntRange(1, 4096)
FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
PROVIDER = click.option(
    "--provider", metavar="NAME", help="The provider that runs it: cpu, cuda, tensorrt or another (docs/gpu.md)."
)
TIMEOUT = click.option(
    "--timeout",
    type=click.FloatRange(0, 86400, min_open=True),
    default=10.0,
    metavar="S",
    help="Give a picture up after S seconds.  [default: 10]",
)
VERBOSE = click.option("-v", "--verbose", is_flag=True, help="Say on stderr what runs which share of the network.")


def complete_model(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    """The names of built-in and pulled networks and of the classics, or files where none fits."""
    from click.shell_completion import CompletionItem

    from visiontool.hub.cache import all_cached
    from visiontool.hub.resolve import built_in_names

    known = [*built_in_names(), *(model.name for model in all_cached()), *_classics()]
    names = [CompletionItem(name) for name in dict.fromkeys(known) if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]  # bash shows no names beside files


def complete_classic(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    """The names of the classics."""
    return [name for name in _classics() if name.startswith(incomplete)]


def _classics() -> list[str]:
    """Those that have weights to pull."""
    from visiontool.hub.catalog import classics

    return [entry.architecture for entry in classics() if entry.source and entry.source != "built-in"]


def complete_cached(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    """The names of pulled networks."""
    from visiontool.hub.cache import all_cached

    return [model.name for model in all_cached() if model.name.startswith(incomplete)]


def side(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """The side of a square in pixels."""
    height, width = size(context, parameter, value) or (None, None)
    if height != width:
        raise click.BadParameter(f"{value!r} is not one side of a square, such as 224")
    return height


def numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """One number, or one for each channel: 0.5 or 0.485,0.456,0.406."""
    if value is None:
        return None
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not one number, or three with commas between") from None


def size(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """A side in pixels, or HEIGHTxWIDTH."""
    if value is None:
        return None
    sides = value.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and len(side) < 6 for side in sides):
        raise click.BadParameter(f"{value!r} is not a size: expected pixels such as 224, or HEIGHTxWIDTH")
    return (int(sides[0]), int(sides[-1]))


def amount(
    thousand: int, *, or_zero: bool = False
) -> Callable[[click.Context, click.Parameter, str | None], int | None]:
    """Reads 250000, 500K, 100M or 2G, where a K is `thousand`."""

    def read(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
        if value is None:
            return None
        if or_zero and value == "0":
            return 0
        match = re.fullmatch(r"([1-9]\d{0,14})([KMG]?)", value, re.ASCII | re.IGNORECASE)
        if match is None:
            raise click.BadParameter(f"{value!r} is not an amount: expected a number such as 250000, 500K, 100M or 2G")
        factor: int = thousand ** " KMG".index(match[2].upper() or " ")
        return int(match[1]) * factor

    return read


def shard(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """I/N, from 1/N to N/N."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", value, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter(f"{value!r} is not I/N with I from 1 to N, such as 1/4")
    return int(match[1]), int(match[2])


MAX_PIXELS = click.option(
    "--max-pixels", callback=amount(1000), metavar="N", help="Refuse bigger pictures.  [default: 100M]"
)
MAX_BYTES = click.option("--max-bytes", callback=amount(1024), metavar="N", help="Refuse bigger files.  [default: 64M]")


OUTSIDE = ("class_names", "mean", "std", "img_size", "crop_pct", "interpolation", "activation", "spec")


def of_outside_files(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say of a file from another tool what it does not say itself: `OUTSIDE`."""
    for option in reversed(
        (
            click.option(
                "--class-names", type=FILE, metavar="FILE", help="Names of classes that have none, one a line."
            ),
            click.option("--mean", callback=numbers, metavar="R,G,B", help="Other tool's file: mean, scale 0 to 1."),
            click.option(
                "--std", callback=numbers, metavar="R,G,B", help="Other tool's file: deviation, scale 0 to 1."
            ),
            click.option("--img-size", callback=size, metavar="N|HxW", help="Other tool's file: size in pixels."),
            click.option("--crop-pct", type=float, metavar="P", help="Other tool's file: what a crop keeps."),
            click.option(
                "--interpolation", type=click.Choice(get_args(Interpolation)), help="Other tool's file: resizing."
            ),
            click.option(
                "--activation",
                type=click.Choice(get_args(Activation)),
                help="Other tool's file: softmax where it gives probabilities.",
            ),
            click.option("--spec", type=FILE, metavar="FILE", help="Other tool's file: a manifest that says it all."),
        )
    ):
        command = option(command)
    return command


def description(said: dict[str, Any]) -> "Description | None":
    """What the options of `of_outside_files` say; None where none was given."""
    if not any(value is not None for value in said.values()):
        return None
    from visiontool.model.foreign import Description

    return Description(**said)


def check_loudness(quiet: bool, verbose: bool) -> None:
    """Raises UsageError where both -q and -v were given."""
    if quiet and verbose:
        raise UsageError("--quiet and --verbose contradict each other; leave one of them out")
