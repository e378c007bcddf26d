"""`visiontool predict`: what is on pictures."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource

from visiontool.cli.text import printable
from visiontool.errors import DataError, UsageError
from visiontool.spec import CropMode, Interpolation

if TYPE_CHECKING:
    from visiontool.classifier import Classifier
    from visiontool.outside import Description

EXIT_SOME_FAILED = 7
_FORMATS = ("table", "json", "jsonl", "csv")


def _complete_model(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    from click.shell_completion import CompletionItem

    from visiontool.store import built_in_names

    names = [CompletionItem(name) for name in built_in_names() if name.startswith(incomplete)]
    return [*names, CompletionItem(incomplete, type="file")]


def _numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """One number, or one for each channel: 0.5 or 0.485,0.456,0.406."""
    if value is None:
        return None
    try:
        numbers = tuple(float(part) for part in value.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 3) or not all(abs(number) <= 1e3 for number in numbers):
        raise click.BadParameter(f"{value!r} is not one number or three with commas between, on the scale 0 to 1")
    return numbers


def _size(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """A side in pixels, or HEIGHTxWIDTH."""
    if value is None:
        return None
    sides = [int(part) if part.isdecimal() else 0 for part in value.lower().split("x")]
    if len(sides) > 2 or not all(0 < side <= 4096 for side in sides):
        raise click.BadParameter(f"{value!r} is not a size: expected pixels such as 224, or HEIGHTxWIDTH, up to 4096")
    return (sides[0], sides[-1])


_COUNT = click.IntRange(1, 4096)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(no_args_is_help=True)
@click.argument("paths", nargs=-1, required=True, metavar="PATHS...", type=click.Path())
@click.option(
    "-m", "--model", metavar="MODEL", shell_complete=_complete_model, help="An .onnx file or a built-in name."
)
@click.option("-k", "--top-k", type=_COUNT, default=5, show_default=True, metavar="N", help="Classes in an answer.")
@click.option("--format", "format_", type=click.Choice(_FORMATS), help="Default: a table on a terminal, else JSON.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("-o", "--output", metavar="FILE", type=_FILE, help="Write the rows to FILE.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("-b", "--batch-size", type=_COUNT, default=8, show_default=True, metavar="N", help="Pictures in one run.")
@click.option("-j", "--workers", type=_COUNT, metavar="N", help="Threads that open pictures. Default: one a core.")
@click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="Where the network runs."
)
@click.option(
    "--min-probability",
    type=click.FloatRange(0.0, 1.0),
    default=0.0,
    metavar="P",
    help='Rows whose best class is below P say "unknown".',
)
@click.option("--crop-mode", type=click.Choice(get_args(CropMode)), help="Instead of the model's own.")
@click.option("--no-recursive", is_flag=True, help="Leave out the folders inside a folder.")
@click.option("-q", "--quiet", is_flag=True, help="No remarks on stderr; errors stay.")
@click.option("--class-names", type=_FILE, metavar="FILE", help="Other tool's file: names, one a line.")
@click.option("--mean", callback=_numbers, metavar="R,G,B", help="Other tool's file: mean, scale 0 to 1.")
@click.option("--std", callback=_numbers, metavar="R,G,B", help="Other tool's file: deviation, scale 0 to 1.")
@click.option("--img-size", callback=_size, metavar="N|HxW", help="Other tool's file: size in pixels.")
@click.option("--crop-pct", type=click.FloatRange(0.1, 1.0), metavar="P", help="Other tool's file: what a crop keeps.")
@click.option("--interpolation", type=click.Choice(get_args(Interpolation)), help="Other tool's file: resizing.")
@click.option("--spec", type=_FILE, metavar="FILE", help="Other tool's file: a manifest that says it all.")
@click.pass_context
def predict(
    context: click.Context,
    /,
    paths: tuple[str, ...],
    model: str | None,
    top_k: int,
    format_: Any,
    as_json: bool,
    output: Path | None,
    force: bool,
    batch_size: int,
    workers: int | None,
    device: str,
    min_probability: float,
    crop_mode: CropMode | None,
    no_recursive: bool,
    quiet: bool,
    **description: Any,
) -> int:
    """Tell what is on pictures: files, folders and globs, in the order given.

    Each input gives one row. A picture that cannot be read gives a row that says why, and exit code 7.

    \b
    visiontool predict img.jpg
    visiontool predict photos/ -o rows.csv
    visiontool predict "scans/**/*.png" -m lenet5 --json
    """
    if as_json and format_ not in (None, "json"):
        raise UsageError(f"--json and --format {format_} contradict each other; leave one out")
    if force and output is None:
        raise UsageError("--force is about the file of -o; there is none")
    single = len(paths) == 1 and os.path.isfile(paths[0])
    format_ = "json" if as_json else format_ or _format_for(output, single)

    from visiontool.find import find_images

    empty: list[str] = []
    found = find_images(paths, recursive=not no_recursive, on_empty=empty.append)
    first = list(islice(found, 1))
    if not first:
        raise DataError(f"no picture was found in {', '.join(paths)}\nName pictures, folders that hold some, or globs.")

    from visiontool.classifier import Classifier
    from visiontool.cli.rows import make_writer

    classifier = Classifier.load(model, device=device, crop_mode=crop_mode, description=_description(description))
    if not quiet:
        _remark(classifier, is_default=model is None)
    _silence_pillow()
    gc.enable()  # off since the start (visiontool/__main__.py)
    results = classifier.predict_stream(
        chain(first, found), top_k=top_k, min_probability=min_probability, batch_size=batch_size, workers=workers
    )
    detailed = single or context.get_parameter_source("top_k") is not ParameterSource.DEFAULT
    done = failed = 0
    with _opened(output, force) as stream:
        writer = make_writer(
            format_, stream, single=single, detailed=detailed, top_k=min(top_k, len(classifier.spec.labels))
        )
        for result in results:
            writer.write(result)
            stream.flush()
            done += 1
            failed += result.error is not None
        writer.close()
    for path in empty:
        click.echo(f"No picture was found in {printable(path)}.", err=True)
    if failed:
        click.echo(f"{failed} of {done} inputs failed; their rows say why.", err=True)
    return EXIT_SOME_FAILED if failed else 0


def _silence_pillow() -> None:
    """Pillow warns of odd metadata; what matters to a picture's answer is in its row."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())


def _description(said: dict[str, Any]) -> "Description | None":
    if not any(value is not None for value in said.values()):
        return None
    from visiontool.outside import Description

    return Description(**said)


def _format_for(output: Path | None, single: bool) -> str:
    if output is not None and output.suffix.lower() in (".json", ".jsonl", ".csv"):
        return output.suffix.lower()[1:]
    if output is None and sys.stdout.isatty():
        return "table"
    return "json" if single else "jsonl"


def _remark(classifier: "Classifier", *, is_default: bool) -> None:
    """Says once, on stderr, which model answers."""
    spec = classifier.spec
    text = f"Model {printable(spec.name)}: {len(spec.labels)} classes, on {classifier.device}."
    if is_default:
        text += " Built in, small; -m names another."
    if classifier.assumed:
        text += f"\nNeither it nor you said, so taken: {', '.join(classifier.assumed)}."
    click.echo(text, err=True)


@contextmanager
def _opened(output: Path | None, force: bool) -> Iterator[IO[bytes]]:
    """stdout, or `output`, which appears under its name only once it is complete."""
    if output is None:
        yield sys.stdout.buffer
        return
    if output.exists() and not force:
        raise UsageError(f"{output} exists already. Give another name, or --force to replace it.")
    unfinished = output.with_name(output.name + ".partial")
    try:
        with open(unfinished, "wb") as stream:
            yield stream
        unfinished.replace(output)
    except OSError as error:
        kept = f" The rows so far are in {unfinished.name}." if unfinished.exists() else ""
        raise click.ClickException(printable(f"{output} cannot be written: {error.strerror}.{kept}")) from None
    except KeyboardInterrupt:
        click.echo(f"The rows so far are in {printable(str(unfinished))}.", err=True)
        raise
