"""Options that several commands share, how their values are read, and completion."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import reduce
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from visiontool.errors import UsageError, missing_extra
from visiontool.model.spec import Activation, CropMode, Interpolation

if TYPE_CHECKING:
    from visiontool.data.loader import LoadOptions
    from visiontool.images.decode import Limits
    from visiontool.model.foreign import Description

COUNT = click.IntRange(1, 4096)
SECONDS = click.FloatRange(0, 86400, min_open=True)
SHARE = click.FloatRange(0, 1)
SIDE = click.IntRange(1, 99_999)
PATH = click.Path(path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


def numbers(value: str) -> tuple[float, ...]:
    """Reads one number, or one for each channel: 0.5 or 0.485,0.456,0.406."""
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not one number, or three with commas between") from None


def size(value: str) -> tuple[int, int]:
    """Reads a side in pixels, or HEIGHTxWIDTH."""
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", value, re.ASCII | re.IGNORECASE)
    if match is None:
        raise click.BadParameter(f"{value!r} is not a size: expected pixels such as 224, or HEIGHTxWIDTH")
    return int(match[1]), int(match[2] or match[1])


def amount(thousand: int = 1000, least: int = 1) -> Callable[[str], int]:
    """Gives what reads 250000, 500K, 100M or 2G, where a K is `thousand`."""

    def read(value: str) -> int:
        match = re.fullmatch(r"(\d{1,15})([KMG]?)", value, re.ASCII | re.IGNORECASE)
        if match is None or int(match[1]) < least:
            raise click.BadParameter(f"{value!r} is not an amount: expected a number such as 250000, 500K, 100M or 2G")
        factor: int = thousand ** " KMG".index(match[2].upper() or " ")
        return int(match[1]) * factor

    return read


def shard(value: str) -> tuple[int, int]:
    """Reads I/N, from 1/N to N/N."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", value, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter(f"{value!r} is not I/N with I from 1 to N, such as 1/4")
    return int(match[1]), int(match[2])


def complete_model(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    """Completes names of built-in and pulled networks and of the classics, or files where none fits."""
    from click.shell_completion import CompletionItem

    from visiontool.hub.resolve import built_in_names

    cached = complete_cached(context, parameter, incomplete)
    names = [*built_in_names(), *cached, *complete_classic(context, parameter, incomplete)]
    items = [CompletionItem(name) for name in dict.fromkeys(names) if name.startswith(incomplete)]
    return items or [CompletionItem(incomplete, type="file")]  # bash shows no names beside files


def complete_classic(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    """Completes names of classics that have weights to pull."""
    from visiontool.hub.catalog import classics

    names = [entry.architecture for entry in classics() if entry.source and entry.source != "built-in"]
    return [name for name in names if name.startswith(incomplete)]


def complete_cached(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    """Completes names of pulled networks."""
    from visiontool.hub.cache import all_cached

    return [model.name for model in all_cached() if model.name.startswith(incomplete)]


def model(help_: str, multiple: bool = False) -> Callable[..., Any]:
    """-m, for the command's one model, or several."""
    return click.option("-m", "--model", metavar="MODEL", multiple=multiple, shell_complete=complete_model, help=help_)


def _adding(*options: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that adds all of these, in the order of --help."""
    return lambda command: reduce(lambda done, option: option(done), reversed(options), command)


BATCH_SIZE = click.option(
    "-b", "--batch-size", type=COUNT, metavar="N", help="Pictures in a run. Default: 8; more on a GPU."
)
DEVICE = click.option("--device", default="auto", metavar="auto|cpu|cuda[:N]", help="Where to run.  [default: auto]")
CROP_MODE = click.option("--crop-mode", type=click.Choice(get_args(CropMode)), help="Instead of the model's own.")
MAX_BYTES = click.option("--max-bytes", type=amount(1024), metavar="N", help="Refuse bigger files.  [default: 64M]")
MAX_PIXELS = click.option("--max-pixels", type=amount(), metavar="N", help="Refuse bigger pictures.  [default: 100M]")
OFFLINE = click.option("--offline", is_flag=True, help="Use no network, also where a model is not on this machine.")
PROVIDER = click.option(
    "--provider", metavar="NAME", help="onnxruntime's provider: cpu, cuda, tensorrt ... (docs/gpu.md)."
)
QUIET = click.option("-q", "--quiet", is_flag=True, help="Print only errors on stderr.")
TIMEOUT = click.option(
    "--timeout", type=SECONDS, default=10.0, metavar="S", help="Fail a picture after S seconds.  [default: 10]"
)
WEIGHTS = click.option("--weights", type=FILE, metavar="FILE", help="Weights of the network that -m names.")
WORKERS = click.option("-j", "--workers", type=COUNT, metavar="N", help="Pictures opened at once. Default: one a core.")

# `description` reads them.
foreign_model = _adding(
    click.option("--class-names", type=FILE, metavar="FILE", help="Names of classes that have none, one a line."),
    click.option("--mean", type=numbers, metavar="R,G,B", help="Other tool's file: mean, scale 0 to 1."),
    click.option("--std", type=numbers, metavar="R,G,B", help="Other tool's file: deviation, scale 0 to 1."),
    click.option("--img-size", type=size, metavar="N|HxW", help="Other tool's file: size in pixels."),
    click.option("--crop-pct", type=float, metavar="P", help="Other tool's file: what a crop keeps."),
    click.option("--interpolation", type=click.Choice(get_args(Interpolation)), help="Other tool's file: resizing."),
    click.option(
        "--activation", type=click.Choice(get_args(Activation)), help="Other tool's file: logits or probabilities."
    ),
    click.option("--spec", type=FILE, metavar="FILE", help="Other tool's file: a manifest that says it all."),
)
dataset = _adding(  # which pictures, and what for
    click.option("--labels", type=FILE, metavar="FILE.csv", help="path,label[,split,group] a line."),
    click.option("--splits", type=FILE, metavar="FILE.csv", help="A run's splits.csv: split in the same way."),
    click.option("--exclude", type=FILE, metavar="FILE.csv", help="Leave out what this list of check says."),
    click.option("--val-split", type=float, metavar="P", help="Share for validation.  [default: 0.2]"),
    click.option("--group", metavar="REGEX", help="Keep paths with the same match in one split."),
    click.option("--on-bad", type=click.Choice(("fail", "skip")), help="Unreadable or missing files.  [default: fail]"),
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), metavar="N", help="The random seed.  [default: 0]"),
)
opening = _adding(BATCH_SIZE, WORKERS, MAX_PIXELS, MAX_BYTES, TIMEOUT)  # `loading` reads them
answering = _adding(DEVICE, PROVIDER, CROP_MODE, opening, WEIGHTS, OFFLINE, QUIET)
answering_paths = _adding(
    click.option("--no-recursive", is_flag=True, help="Leave out the folders inside a folder."),
    answering,
    click.option("-v", "--verbose", is_flag=True, help="Print what runs the network, and what was left out."),
    foreign_model,
)


def description(values: Mapping[str, Any]) -> "Description | None":
    """What the options of `foreign_model` say; None where none was given."""
    from visiontool.model.foreign import Description

    given = {field.name: values[field.name] for field in fields(Description)}
    return None if all(value is None for value in given.values()) else Description(**given)


def names(value: str) -> list[str]:
    """Reads names with commas between them, or a file with a name a line."""
    from visiontool.model.class_names import MAX_NAMES_BYTES, read_text

    is_file = os.path.isfile(value)
    names = read_text(Path(value), MAX_NAMES_BYTES, "--among").splitlines() if is_file else value.split(",")
    return [name.strip() for name in names if name.strip()]


def limits(values: Mapping[str, Any]) -> "Limits":
    """What --max-pixels, --max-bytes and --on-truncated allow a picture."""
    from visiontool.images.decode import DEFAULT_LIMITS

    given = {name: values.get(name) for name in ("max_pixels", "max_bytes", "on_truncated")}
    return DEFAULT_LIMITS._replace(**{name: value for name, value in given.items() if value is not None})


def loading(values: Mapping[str, Any]) -> "LoadOptions":
    """How many pictures are opened at once, and with which limits."""
    from visiontool.data.loader import LoadOptions

    return LoadOptions(limits(values), values["workers"], values["timeout"], values["batch_size"])


def check_loudness(quiet: bool, verbose: bool) -> None:
    """Raises UsageError where both -q and -v were given."""
    if quiet and verbose:
        raise UsageError("--quiet and --verbose contradict each other; leave one of them out")


def check_file(option: str, file: Path | None, *endings: str) -> None:
    """Raises UsageError where the option's file has another ending, or cannot be written there."""
    if file is None:
        return
    if file.suffix.lower() not in endings:
        raise UsageError(f"{option} {file}: expected a file that ends in {' or '.join(endings)}")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"{option} {file}: there is no folder {file.absolute().parent}")
    if file.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise UsageError(missing_extra("parquet", "Writing Parquet"))
