"""`visiontool benchmark`: how fast networks are here, and what memory they take."""

import tempfile
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_args

import click

from visiontool.cli import INTERRUPTED, SOME_FAILED, options
from visiontool.cli.text import json_text, printable, say, wrapped
from visiontool.errors import DataError, UsageError
from visiontool.model.spec import Precision
from visiontool.text import plural

if TYPE_CHECKING:
    from visiontool.evaluation.benchmark import Measurement

_STAGES = {"convert": "Making files of other precisions", "measure": "Measuring"}
_MOST_PICTURES = 1000
_LARGEST_BATCH = 4096
_COLUMNS = "{:<4}{:>6}{:>7}{:>7}{:>9}{:>11}{:>8}{:>6}{:>7}{:>7}{:>7}"
_HEAD = "            latency, ms         pictures/s      ms of a picture        peak\n" + _COLUMNS.format(
    "", "batch", "p50", "p95", "network", "end to end", "decode", "prep", "run", "MB", "noise"
)
_NOISY = 0.2


def _batch_sizes(value: str) -> tuple[int, ...]:
    sizes = [int(size) if size.isdecimal() else 0 for size in value.split(",")]
    if not all(1 <= size <= _LARGEST_BATCH for size in sizes):
        raise click.BadParameter(f"{value!r}: expected numbers from 1 to {_LARGEST_BATCH} with commas, such as 1,8,64")
    return tuple(dict.fromkeys(sizes))


def _precisions(value: str) -> tuple[str, ...]:
    names = value.split(",")
    if not set(names) <= set(get_args(Precision)):
        raise click.BadParameter(f"{value!r}: expected some of {', '.join(get_args(Precision))}, with commas between")
    return tuple(dict.fromkeys(names))


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...", shell_complete=options.complete_model)
@click.option("-m", "--model", "more", multiple=True, shell_complete=options.complete_model, hidden=True)
@options.DEVICE
@options.PROVIDER
@click.option(
    "--precision",
    "precisions",
    type=_precisions,
    default="fp32",
    metavar="P,P",
    help="Some of fp32,fp16,int8.  [default: fp32]",
)
@click.option(
    "--batch-sizes",
    type=_batch_sizes,
    default="1,8,64",
    metavar="N,N",
    help="Pictures in one run.  [default: 1,8,64]",
)
@click.option("--on", metavar="FOLDER", help="Pictures to measure with.  [default: the samples of visiontool]")
@click.option(
    "--seconds", type=options.SECONDS, default=2.0, metavar="S", help="For each line of the table.  [default: 2]"
)
@click.option("--plot", type=options.FILE, metavar="FILE.png", help="Draw accuracy against speed.")
@click.option("--json", "as_json", is_flag=True, help="JSON, with more figures.")
@options.QUIET
def benchmark(**values: Any) -> int:
    """Measure how fast networks are here.

    Those are MODELs, or the default one. For each batch size: the latency of one run, pictures a second of the network
    alone and from files to answers, what opening and running take of it, and the peak of memory. docs/benchmark.md says
    how to read it.

    \b
    visiontool benchmark
    visiontool benchmark resnet50 runs/mydata --batch-sizes 1,8
    visiontool benchmark lenet5 --precision fp32,int8 --json
    """
    args = SimpleNamespace(**values)
    pictures = _pictures(args.on)
    rows, interrupted = _measure(args, pictures)
    if args.as_json:
        facts = {"pictures": len(pictures), "source": args.on or "samples", "seconds": args.seconds}
        document = {"schema": 1, "machine": _machine_of(rows), **facts, "rows": [row.to_json() for row in rows]}
        click.echo(json_text(document, indent=1))
    else:
        click.echo(table(rows))
    for remark in () if args.quiet else remarks(rows, pictures=args.on or "the samples of visiontool"):
        say(remark)
    if interrupted:
        say("Interrupted: these are the rounds that were done.")
        return INTERRUPTED
    if args.plot is not None:
        _draw(args.plot, rows)
    return 0 if all(row.error is None for row in rows) else SOME_FAILED


def _pictures(folder: str | None) -> list[str]:
    from visiontool.data.discover import find_images
    from visiontool.hub import resolve

    if folder is None:
        return [str(path) for path in resolve.sample_pictures()]
    pictures = list(islice(find_images([folder]), _MOST_PICTURES))
    if not pictures:
        raise DataError(f"no picture was found in {folder}\n--on takes a folder of pictures, or one picture.")
    return pictures


def _measure(args: SimpleNamespace, pictures: Sequence[str]) -> "tuple[list[Measurement], bool]":
    """The rows, and whether Ctrl-C ended it with some of them measured."""
    from visiontool.cli.progress import Stages, only_ours_on_stderr
    from visiontool.cli.pull import obtain
    from visiontool.evaluation import benchmark
    from visiontool.exporting.precision import reduced_file

    models = args.models + args.more or (None,)
    files = benchmark.model_files([obtain(model, quiet=args.quiet) for model in models])
    options.check_file("--plot", args.plot, ".png")  # before minutes of measuring
    rows: list[Measurement] = []
    with (
        tempfile.TemporaryDirectory(prefix="visiontool-") as folder,
        only_ours_on_stderr(),
        Stages(_STAGES, enabled=not args.quiet) as stages,
    ):
        try:
            work: dict[str, Any] = {"pictures": pictures, "progress": stages.update}
            rows = benchmark.measurements(
                files, args.precisions, args.batch_sizes, folder=Path(folder), reduce=reduced_file, **work
            )
            if args.plot is not None and all(row.file.accuracy is None for row in rows):
                names = ", ".join(dict.fromkeys(f"{row.file.name} ({row.file.spec.precision})" for row in rows))
                raise UsageError(
                    f"--plot draws accuracy against speed, and nobody has said how accurate {names} is.\n"
                    "Name a model whose accuracy is known too: visiontool models show NAME says it."
                )
            benchmark.measure(rows, seconds=args.seconds, device=args.device, provider=args.provider, **work)
        except KeyboardInterrupt:
            if not any(row.rounds for row in rows):
                raise
            return rows, True
    return rows, False


def _draw(plot: Path, rows: "Sequence[Measurement]") -> None:
    from visiontool.cli.output.target import reporting_errors
    from visiontool.evaluation.benchmark.plot import draw

    if not any(row.rounds and row.file.accuracy for row in rows):
        say("There is no plot: what has a known accuracy could not be measured.")
        return
    with reporting_errors(str(plot)):
        draw(plot, rows)


def _machine_of(rows: "Sequence[Measurement]") -> dict[str, Any]:
    from visiontool.evaluation.benchmark.machine import machine

    return machine(next((row.rounds[0].device for row in rows if row.rounds), "cpu"))


def table(rows: "Sequence[Measurement]") -> str:
    """All rows, below the name of the network that each is of."""
    facts = _machine_of(rows)
    texts = [
        f"{plural(facts['cores'], 'core')} of {facts['processor']}",
        facts["gpu"],
        facts["system"],
        f"Python {facts['python']}",
        f"onnxruntime {facts['onnxruntime']}",
    ]
    first = next((row.rounds[0] for row in rows if row.rounds), None)
    if first is not None:
        by = "" if first.device.startswith(first.provider) else f" by {first.provider}"
        texts.append(f"on {first.device}{by}")
    lines = [*wrapped(", ".join(filter(None, texts))), _HEAD]
    for _, group in groupby(rows, key=lambda row: row.file.name):
        rows_of_one = list(group)
        lines += [*_heading(rows_of_one), *map(_line, rows_of_one)]
    return "\n".join(lines)


def _heading(rows: "Sequence[Measurement]") -> list[str]:
    height, width = rows[0].file.spec.input.size
    facts = [f"{width}x{height} pixels"]
    accuracy = next((row.file.accuracy for row in rows if row.file.accuracy is not None), None)
    if accuracy is not None:
        facts.append(f"top-1 {accuracy.top1:.1%} ({accuracy.dataset})")
    rates = [round_.opening_images_per_s for row in rows for round_ in row.rounds]
    if rates:
        facts.append(f"opening alone {_figure(sorted(rates)[len(rates) // 2])} pictures/s")
    return ["", *wrapped(f"{rows[0].file.name}: {', '.join(facts)}")]


def _line(row: "Measurement") -> str:
    if not row.rounds:
        reason = (row.error or "interrupted").partition("\n")[0]
        return printable(f"{row.file.spec.precision:<4}{row.batch_size:>6}  not measured: {reason}")
    values = row.to_json()
    figures = (
        "latency_p50_ms",
        "latency_p95_ms",
        "network_images_per_s",
        "end_to_end_images_per_s",
        "decode_ms_per_image",
        "preprocess_ms_per_image",
        "run_ms_per_image",
    )
    peak = values["peak_memory_bytes"]
    return _COLUMNS.format(
        row.file.spec.precision,
        row.batch_size,
        *(_figure(values[name]) for name in figures),
        "?" if peak is None else f"{peak / 1e6:.0f}",
        "?" if row.noise is None else f"{row.noise:.0%}",
    )


def _figure(value: float) -> str:
    """In at most five characters up to 99,999: 0.012, 1.23, 12.3, 1234."""
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{decimals}f}"


def remarks(rows: "Sequence[Measurement]", *, pictures: str) -> Iterator[str]:
    """What one has to know to read the figures."""
    measured = [row for row in rows if row.rounds]
    counts = [len(row.latencies_ms) for row in measured]
    if measured:
        rounds = plural(max(len(row.rounds) for row in measured), "round")
        runs = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
        yield f"Medians of {rounds}, each in a process of its own; latencies of {runs} runs a line."
        yield f"Pictures: {pictures}."
    if min(counts, default=20) < 20:
        yield "With fewer than 20 runs p95 is the slowest of them; --seconds gives more."
    made_here = {row.file.spec.precision for row in measured if row.file.is_made_here}
    if "fp16" in made_here:
        yield "The fp16 files were made here to be measured; whether they answer right is for: visiontool export."
    if "int8" in made_here:
        yield (
            f"The int8 files were made here to be measured, calibrated on {pictures}: good for their speed alone.\n"
            "What they would answer is for: visiontool export --precision int8, with pictures like yours."
        )
    unreadable = max((row.median("unreadable") for row in measured), default=0.0)
    if unreadable:
        yield f"{unreadable:.0%} of the pictures cannot be read, and count as pictures all the same."
    gpu = max((row.peak("gpu_memory_bytes") or 0 for row in measured), default=0)
    if gpu:
        yield f"Of the GPU's memory, up to {gpu / 1e6:,.0f} MB were taken."
    noise = max((row.noise or 0.0 for row in measured), default=0.0)
    if noise > _NOISY:
        yield f"The rounds differ by up to {noise:.0%}: something else is running here, or --seconds is too small."
