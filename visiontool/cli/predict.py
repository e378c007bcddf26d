"""`visiontool predict`: what is on pictures."""

import gc
import os
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource

from visiontool.cli.output import FORMATS, check_output, choose_format, rows_to
from visiontool.cli.text import say
from visiontool.errors import DataError
from visiontool.spec import CropMode, Interpolation

if TYPE_CHECKING:
    from visiontool.classifier import Classifier
    from visiontool.outside import Description

EXIT_SOME_FAILED = 7


def _complete_model(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    from click.shell_completion import CompletionItem

    from visiontool.store import built_in_names

    names = [CompletionItem(name) for name in built_in_names() if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]  # bash shows no names beside files


def _numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """One number, or one for each channel: 0.5 or 0.485,0.456,0.406."""
    if value is None:
        return None
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not one number, or three with commas between") from None


def _size(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """A side in pixels, or HEIGHTxWIDTH."""
    if value is None:
        return None
    sides = value.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and len(side) < 6 for side in sides):
        raise click.BadParameter(f"{value!r} is not a size: expected pixels such as 224, or HEIGHTxWIDTH")
    return (int(sides[0]), int(sides[-1]))


_COUNT = click.IntRange(1, 4096)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(no_args_is_help=True)
@click.argument("paths", nargs=-1, required=True, metavar="PATHS...", type=click.Path())
@click.option(
    "-m", "--model", metavar="MODEL", shell_complete=_complete_model, help="An .onnx file or a built-in name."
)
@click.option("-k", "--top-k", type=_COUNT, default=5, show_default=True, metavar="N", help="Classes in an answer.")
@click.option("--format", "format_", type=click.Choice(FORMATS), help="Default: a table on a terminal, else JSON.")
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
@click.option("--crop-pct", type=float, metavar="P", help="Other tool's file: what a crop keeps.")
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
    from visiontool.find import find_images, is_one_file

    single = len(paths) == 1 and is_one_file(paths[0])
    format_ = choose_format(format_, as_json, output, single=single)
    check_output(output, force)
    empty: list[str] = []
    found = find_images(paths, recursive=not no_recursive, on_empty=empty.append)
    first = list(islice(found, 1))
    if not first:
        raise DataError(f"no picture was found in {', '.join(paths)}\nName pictures, folders that hold some, or globs.")

    from visiontool.classifier import Classifier
    from visiontool.cli.rows import make_writer

    classifier = Classifier.load(model, device=device, crop_mode=crop_mode, description=_description(description))
    if not quiet:
        _remark(classifier, model)
    _silence_pillow()
    gc.enable()  # off since the start (visiontool/__main__.py)
    results = classifier.predict_stream(
        chain(first, found), top_k=top_k, min_probability=min_probability, batch_size=batch_size, workers=workers
    )
    make = partial(
        make_writer,
        format_,
        single=single,
        detailed=single or context.get_parameter_source("top_k") is not ParameterSource.DEFAULT,
        top_k=min(top_k, len(classifier.spec.labels)),
    )
    done = failed = 0
    with rows_to(output, force, make) as write:
        for result in results:
            write(result)
            done += 1
            failed += result.error is not None
    for path in empty:
        say(f"No picture was found in {path}.")
    if failed:
        say(f"{failed} of {done} inputs failed; their rows say why.")
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


def _remark(classifier: "Classifier", model: str | None) -> None:
    """Says once, on stderr, which model answers."""
    from visiontool.store import MODEL_VARIABLE

    spec, chosen = classifier.spec, os.environ.get(MODEL_VARIABLE)
    text = f"Model {spec.name}: {len(spec.labels)} classes, on {classifier.device}."
    if model is None:
        text += f" {MODEL_VARIABLE} names it." if chosen else " Built in, small; -m names another."
    say(text)
    if classifier.assumed:
        say(f"Neither it nor you said, so taken: {', '.join(classifier.assumed)}.")
