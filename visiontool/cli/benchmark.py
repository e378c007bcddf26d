"""`visiontool benchmark`: how fast networks are here, and what memory they take."""

import os
import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from visiontool.cli import exit_codes, options
from visiontool.cli.text import say
from visiontool.errors import DataError, UsageError
from visiontool.model.spec import Precision

if TYPE_CHECKING:
    from visiontool.evaluation.benchmark import Measurement

_STAGES = {"convert": "Making files of other precisions", "measure": "Measuring"}
_MOST_PICTURES = 1000
_MOST_PER_RUN = 4096


def _batch_sizes(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    sizes = value.split(",")
    if not all(size.isascii() and size.isdigit() and 1 <= int(size) <= _MOST_PER_RUN for size in sizes):
        raise click.BadParameter(f"{value!r}: expected numbers from 1 to {_MOST_PER_RUN} with commas, such as 1,8,64")
    return tuple(dict.fromkeys(map(int, sizes)))


def _precisions(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    known = get_args(Precision)
    if not all(name in known for name in value.split(",")):
        raise click.BadParameter(f"{value!r}: expected some of {', '.join(known)}, with commas between")
    return tuple(dict.fromkeys(value.split(",")))


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...", shell_complete=options.complete_model)
@click.option(
    "-m", "--model", "more", multiple=True, metavar="MODEL", shell_complete=options.complete_model, hidden=True
)
@click.option("--device", default="auto", metavar="auto|cpu|cuda[:N]", help="Where to run.  [default: auto]")
@options.PROVIDER
@click.option(
    "--precision",
    "precisions",
    callback=_precisions,
    default="fp32",
    metavar="P,P",
    help="fp32,fp16,int8: made of float32 files, to be measured.  [default: fp32]",
)
@click.option(
    "--batch-sizes",
    callback=_batch_sizes,
    default="1,8,64",
    metavar="N,N",
    help="Pictures in one run.  [default: 1,8,64]",
)
@click.option(
    "--on", "folder", metavar="FOLDER", help="Pictures to measure with.  [default: the samples of visiontool]"
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, 3600, min_open=True),
    default=2.0,
    metavar="S",
    help="For each line of the table; long runs take longer.  [default: 2]",
)
@click.option("--plot", type=options.FILE, metavar="FILE.png", help="Draw accuracy against speed.")
@click.option("--json", "as_json", is_flag=True, help="JSON, with more figures.")
@click.option("-q", "--quiet", is_flag=True, help="No remarks on stderr; errors stay.")
def benchmark(
    models: tuple[str, ...],
    more: tuple[str, ...],
    device: str,
    provider: str | None,
    precisions: tuple[Precision, ...],
    batch_sizes: tuple[int, ...],
    folder: str | None,
    seconds: float,
    plot: Path | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Measure how fast networks are here.

    Those are MODELs, or the default one. For each batch size: the latency of one run, pictures a second of the network
    alone and from files to answers, what opening and running take of it, and the peak of memory. docs/benchmark.md says
    how to read it.

    \b
    visiontool benchmark
    visiontool benchmark resnet50 runs/mydata --batch-sizes 1,8
    visiontool benchmark lenet5 --precision fp32,int8 --json
    """
    from visiontool.cli.output.target import telling
    from visiontool.cli.progress import Stages, only_ours_on_stderr
    from visiontool.cli.pull import obtain
    from visiontool.cli.render.benchmark import as_object, remarks, table
    from visiontool.evaluation import benchmark as room
    from visiontool.export.precision import reduced_file

    pictures = _pictures(folder)
    asked = models + more or (None,)
    files = room.model_files([obtain(model, quiet=quiet) for model in asked])
    if plot is not None:
        _check_file(plot)
    rows: list[Measurement] = []
    interrupted = False
    with (
        tempfile.TemporaryDirectory(prefix="visiontool-") as made,
        only_ours_on_stderr(),
        Stages(_STAGES, shown=not quiet) as stages,
    ):
        try:
            rows = room.measurements(
                files, precisions, batch_sizes, pictures, Path(made), reduce=reduced_file, progress=stages.update
            )
            if plot is not None:
                _check_accuracies(rows)
            room.measure(rows, pictures, seconds=seconds, device=device, provider=provider, progress=stages.update)
        except KeyboardInterrupt:
            if not any(row.rounds for row in rows):
                raise
            interrupted = True
    said: dict[str, Any] = {"pictures": len(pictures), "source": folder or "samples", "seconds": seconds}
    click.echo(as_object(rows, said) if as_json else table(rows))
    if not quiet:
        for remark in remarks(rows, pictures=folder or "the samples of visiontool"):
            say(remark)
    if interrupted:
        say("Interrupted: these are the rounds that were done.")
        return exit_codes.INTERRUPTED
    if plot is not None:
        from visiontool.evaluation.benchmark.plot import draw

        if not any(row.rounds and row.file.accuracy for row in rows):
            say("There is no plot: what has a known accuracy could not be measured.")
            return exit_codes.SOME_FAILED
        with telling(str(plot)):
            draw(plot, rows)
    return exit_codes.SOME_FAILED if any(row.error is not None for row in rows) else 0


def _pictures(folder: str | None) -> list[str]:
    from visiontool.data.discover import find_images
    from visiontool.hub import resolve

    if folder is None:
        return [os.fspath(path) for path in resolve.sample_pictures()]
    found = list(islice(find_images([folder]), _MOST_PICTURES))
    if not found:
        raise DataError(f"no picture was found in {folder}\n--on takes a folder of pictures, or one picture.")
    return found


def _check_file(plot: Path) -> None:
    """Says before minutes of measuring what would keep the plot from being written."""
    if plot.suffix.lower() != ".png":
        raise UsageError(f"--plot {plot}: expected the name of a PNG file")
    if not plot.absolute().parent.is_dir():
        raise UsageError(f"--plot {plot}: there is no folder {plot.absolute().parent}")


def _check_accuracies(rows: "list[Measurement]") -> None:
    if all(row.file.accuracy is None for row in rows):
        names = ", ".join(dict.fromkeys(f"{row.file.name} ({row.file.spec.precision})" for row in rows))
        raise UsageError(
            f"--plot draws accuracy against speed, and nobody has said how accurate {names} is.\n"
            "Name a model whose accuracy is known too: visiontool models show NAME says it."
        )
