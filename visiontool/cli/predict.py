"""`visiontool predict`: what is on pictures."""

import contextlib
import gc
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource

from visiontool.cli import exit_codes, options
from visiontool.cli.output import FORMATS, check_output, choose_format, is_begun, is_resumable, rows_to
from visiontool.cli.sorting import Sorting, check_sorting, undo_sorting
from visiontool.cli.text import Sample, printable, say
from visiontool.errors import DataError
from visiontool.spec import CropMode

if TYPE_CHECKING:
    from visiontool.classifier import Classifier
    from visiontool.cli.output import Format, Rows
    from visiontool.cli.progress import Progress
    from visiontool.result import Result

_FINISHED = "its row is there already"  # marks a result that did not come from the network


@click.command(no_args_is_help=True)
@click.argument("paths", nargs=-1, metavar="PATHS...", type=click.Path())
@click.option(
    "-m",
    "--model",
    metavar="MODEL",
    shell_complete=options.complete_model,
    help="A name of `models`, or an .onnx file.",
)
@click.option(
    "-k", "--top-k", type=options.COUNT, default=5, show_default=True, metavar="N", help="Classes in an answer."
)
@click.option("--format", "format_", type=click.Choice(FORMATS), help="Default: a table on a terminal, else JSON.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("-o", "--output", metavar="FILE", type=options.FILE, help="Write the rows to FILE.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--resume", is_flag=True, help="Go on with the rows in FILE; those that failed are done again.")
@click.option(
    "--shard", callback=options.shard, metavar="I/N", help="Every N-th input from the I-th on: one machine's."
)
@click.option("--sort-into", metavar="DIR", type=options.FOLDER, help="Put the pictures into class folders of DIR.")
@click.option("--mode", type=click.Choice(("copy", "link", "move")), help="How to sort.  [default: copy]")
@click.option("--yes", is_flag=True, help="Yes, move: --mode move takes pictures out of their folders.")
@click.option("--undo", is_flag=True, help="Take back all that was sorted into DIR.")
@click.option(
    "-b", "--batch-size", type=options.COUNT, metavar="N", help="Pictures in one run. Default: 8; more on a GPU."
)
@click.option("-j", "--workers", type=options.COUNT, metavar="N", help="Pictures opened at once. Default: one a core.")
@click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="Where the network runs."
)
@options.PROVIDER
@click.option(
    "--min-probability",
    type=click.FloatRange(0.0, 1.0),
    default=0.0,
    metavar="P",
    help='Rows whose best class is below P say "unknown".',
)
@click.option("--crop-mode", type=click.Choice(get_args(CropMode)), help="Instead of the model's own.")
@click.option("--no-recursive", is_flag=True, help="Leave out the folders inside a folder.")
@options.MAX_PIXELS
@options.MAX_BYTES
@click.option(
    "--on-truncated",
    type=click.Choice(("fail", "fill")),
    default="fail",
    show_default=True,
    help="A JPEG that is cut off: fail, or classify what is there.",
)
@options.TIMEOUT
@click.option("--weights", type=options.FILE, metavar="FILE", help="Weights of the network that -m names.")
@click.option("--offline", is_flag=True, help="Use no network, also where -m is not on this machine.")
@click.option("-q", "--quiet", is_flag=True, help="No remarks on stderr; errors stay.")
@click.option("-v", "--verbose", is_flag=True, help="Say on stderr what runs the network, and what was left out.")
@options.of_outside_files
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
    resume: bool,
    shard: tuple[int, int] | None,
    sort_into: Path | None,
    mode: Any,
    yes: bool,
    undo: bool,
    batch_size: int | None,
    workers: int | None,
    device: str,
    provider: str | None,
    min_probability: float,
    crop_mode: CropMode | None,
    no_recursive: bool,
    max_pixels: int | None,
    max_bytes: int | None,
    on_truncated: Any,
    timeout: float,
    weights: Path | None,
    offline: bool,
    quiet: bool,
    verbose: bool,
    **description: Any,
) -> int:
    """Tell what is on pictures.

    PATHS are files, folders and globs, in the order given; - and @FILE read a list of them, @FILE.csv the column path.
    Each input gives one row. A picture that cannot be read gives a row that says why, and exit code 7.

    \b
    visiontool predict img.jpg
    visiontool predict photos/ -o rows.csv
    visiontool predict "scans/**/*.png" -m lenet5 --json
    find /disk -name "*.jpg" -print0 | visiontool predict - -o rows.jsonl --resume
    visiontool predict photos/ --sort-into sorted/
    """
    if undo:
        return undo_sorting(context, sort_into, quiet)
    if not paths:
        raise click.UsageError("name pictures, folders or globs; or - for a list on stdin", context)
    check_sorting(sort_into, mode, yes)
    options.check_loudness(quiet, verbose)

    from visiontool.find import count_images, find_images, is_fed, is_one_file
    from visiontool.find.hints import hint, is_gone
    from visiontool.pipeline import FEW

    relative = [path for path in paths if path != "-" and not os.path.isabs(path.removeprefix("@"))]
    if relative and is_gone():
        raise DataError(f"no picture was found in {', '.join(relative)}")
    single = len(paths) == 1 and is_one_file(paths[0]) and shard is None
    format_ = choose_format(format_, as_json, output, single=single)
    resumable = is_resumable(format_, output)
    check_output(output, force=force, resume=resume, resumable=resumable)
    where: dict[str, Any] = {
        "recursive": not no_recursive,
        "exclude": None if sort_into is None else os.fspath(sort_into),
    }
    empty = Sample()
    left_out: defaultdict[str, Sample] = defaultdict(Sample)
    found = find_images(paths, on_empty=empty.add, on_pass=lambda kind, path: left_out[kind].add(path), **where)
    # Who feeds a list may feed it slowly, and is not made to wait until we know whether it is long.
    fed = any(map(is_fed, paths))
    first = list(islice(found, 1 if fed else FEW + 1))
    if not first and not (resume and output is not None and is_begun(output)):
        what = f" (left out: {_counts(left_out)})" if left_out else ""
        remedy = hint(paths) or "Name pictures, folders that hold some, or globs."
        raise DataError(f"no picture was found in {', '.join(paths)}{what}\n{remedy}")
    many = len(first) > FEW or fed
    inputs: Iterator[str] = chain(first, found)
    if shard is not None:
        inputs = islice(inputs, shard[0] - 1, None, shard[1])

    from visiontool.classifier import Classifier
    from visiontool.cli.progress import Progress, Stop, only_ours_on_stderr
    from visiontool.cli.pulling import obtain
    from visiontool.images import DEFAULT_LIMITS, Limits

    class_names = description.pop("class_names") if weights is not None else None
    classifier = Classifier.load(
        obtain(model, weights=weights, class_names=class_names, offline=offline, quiet=quiet),
        device=device,
        provider=provider,
        threads=1 if many else 0,
        crop_mode=crop_mode,
        description=options.description(description),
        limits=Limits(max_pixels or DEFAULT_LIMITS.max_pixels, max_bytes or DEFAULT_LIMITS.max_bytes, on_truncated),
        gpu=options.gpu_options(provider, batch_size),
    )
    if not quiet:
        _remark(classifier, model)
    if verbose:
        from visiontool.cli.running import say_how

        say_how(classifier, batch_size)
    gc.freeze()  # else the first collection walks all that the start made, which takes 10 ms
    gc.enable()  # off since the start (visiontool/__main__.py)

    top_k = min(top_k, len(classifier.spec.labels))
    on_terminal = sys.stderr.isatty() and not (output is None and sys.stdout.isatty())  # a bar among rows is in the way
    with contextlib.ExitStack() as stack:
        if resumable and output is not None:
            run = _run_id(classifier, top_k, min_probability)
            rows = stack.enter_context(_row_file(output, format_, top_k, run, force=force, resume=resume))
        else:
            detailed = single or context.get_parameter_source("top_k") is not ParameterSource.DEFAULT
            rows = stack.enter_context(
                _row_stream(output, format_, top_k, force=force, single=single, detailed=detailed)
            )
        if rows.finished and not quiet:
            say(f"Going on: {rows.finished:,} rows are there already.")
        sorting = stack.enter_context(Sorting(sort_into, mode or "copy", classifier.spec.labels))
        stop = stack.enter_context(Stop())
        count = partial(_count, partial(count_images, paths, stop=lambda: stop.asked, **where), shard)
        stack.enter_context(only_ours_on_stderr())
        progress = stack.enter_context(Progress(shown=on_terminal and not quiet, count=count))
        results = classifier.predict_stream(
            stop.until(_with_finished(inputs, rows, classifier.spec.name)),
            top_k=top_k,
            min_probability=min_probability,
            batch_size=batch_size,
            workers=workers,
            timeout=timeout,
            isolate=many,
            times=progress.times,
        )
        meant = _write(stack.enter_context(contextlib.closing(results)), rows, sorting, progress)
        if stop.asked:
            raise KeyboardInterrupt
    for path in empty.some:
        say(f"No picture was found in {path}.")
    if empty.count > len(empty.some):
        say(f"Nor in {empty.count - len(empty.some):,} others.")
    if left_out and not quiet:
        say(f"Left out: {_counts(left_out)}{'' if verbose else ' (-v names them)'}.")
    if verbose:
        for kind, sample in left_out.items():
            more = f" and {sample.count - len(sample.some):,} more" if sample.count > len(sample.some) else ""
            say(f"  {kind}: {', '.join(map(printable, sample.some))}{more}")
    failed = progress.failed + rows.failed
    told = [] if quiet or single else [progress.summary()]
    if failed:
        told.append(f"{failed:,} of {progress.fresh + rows.finished:,} inputs failed; their rows say why.")
    if told:
        say(" ".join(told))
    if not quiet and (meant := meant or hint(empty.some)):
        say(meant)
    sorting.tell()
    return exit_codes.SOME_FAILED if failed or sorting.failed else 0


def _row_file(
    output: Path, format_: "Format", top_k: int, run: str, *, force: bool, resume: bool
) -> contextlib.AbstractContextManager["Rows"]:
    from visiontool.cli.rowfile import RowFile
    from visiontool.cli.rows import make_lines

    return RowFile(output, make_lines(format_, top_k, run), force=force, resume=resume)


def _row_stream(
    output: Path | None, format_: "Format", top_k: int, *, force: bool, single: bool, detailed: bool
) -> contextlib.AbstractContextManager["Rows"]:
    from visiontool.cli.rows import make_writer

    return rows_to(output, force, partial(make_writer, format_, single=single, detailed=detailed, top_k=top_k))


def _with_finished(paths: Iterable[str], rows: "Rows", model: str) -> Iterator["str | Result"]:
    """The paths; for those whose rows are there already a result, which goes through the network's queue untouched."""
    from visiontool.result import Result

    for path in paths:
        yield Result(path, model, notes=(_FINISHED,)) if rows.has(path) else path


def _write(results: "Iterable[Result]", rows: "Rows", sorting: Sorting, progress: "Progress") -> str | None:
    """Gives the first hint that there is for a path that failed."""
    from visiontool.find.hints import hint

    meant: str | None = None
    for result in results:
        path = result.path or ""
        if _FINISHED in result.notes:
            row = rows.keep(path)
            sorting.place(path, row.class_id, row.unknown)
            progress.add(kept=True)
        else:
            rows.write(result)
            sorting.place(path, result.predictions[0].index if result.predictions else None, result.unknown)
            progress.add(failed=result.error is not None)
            if result.error is not None and meant is None:
                meant = hint([path])
    return meant


def _counts(left_out: Mapping[str, Sample]) -> str:
    return ", ".join(f"{sample.count:,} {kind}" for kind, sample in left_out.items())


def _run_id(classifier: "Classifier", top_k: int, min_probability: float) -> str:
    """A digest of all that rows depend on: the model file, what it was said to be, and the options."""
    import hashlib

    from visiontool import cache

    weights = cache.model_sha256(classifier.path)
    said = json.dumps([weights, classifier.spec.to_json(), top_k, min_probability])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _count(count: Callable[[], int | None], shard: tuple[int, int] | None) -> int | None:
    """The number of inputs, of which a shard takes its part."""
    inputs = count()
    return inputs if inputs is None or shard is None else max(0, -((shard[0] - 1 - inputs) // shard[1]))


def _remark(classifier: "Classifier", model: str | None) -> None:
    """Says once, on stderr, which model answers."""
    from visiontool.store import DEFAULT_MODEL, MODEL_VARIABLE

    spec = classifier.spec
    device, provider = classifier.device, classifier.provider
    where = device if device.startswith(provider) else f"{device} by {provider}"
    text = f"Model {spec.name}: {len(spec.labels)} classes, on {where}."
    if model is None and os.environ.get(MODEL_VARIABLE):
        text += f" {MODEL_VARIABLE} names it."
    elif model is None:
        text += " Built in, small; -m names another." if spec.name == DEFAULT_MODEL else " Chosen by: models default."
    say(text)
    if classifier.passed_over is not None:
        say('The GPU cannot be used; "visiontool doctor" says why.')
    if classifier.assumed:
        who = "Nobody said when it was exported" if spec.assumed else "Neither it nor you said"
        say(f"{who}, so taken: {', '.join(classifier.assumed)}.")
