"""`visiontool predict`: what is on pictures."""

import contextlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource

from visiontool.cli import exit_codes, options
from visiontool.cli.output.sort import Sorting, check_sorting, undo_sorting
from visiontool.cli.output.target import FORMATS, Rows, check_output, choose_format, is_begun, is_file, rows_to
from visiontool.cli.text import Sample, printable, say
from visiontool.errors import DataError
from visiontool.model.spec import CropMode

if TYPE_CHECKING:
    from visiontool.cli.output.rows import Encoder
    from visiontool.cli.output.target import Format
    from visiontool.cli.progress import Progress
    from visiontool.inference.classifier import Classifier


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
def predict(context: click.Context, /, **given: Any) -> int:
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
    args = SimpleNamespace(**given)
    if args.undo:
        return undo_sorting(context, args.sort_into, args.quiet)
    if not args.paths:
        raise click.UsageError("name pictures, folders or globs; or - for a list on stdin", context)
    check_sorting(args.sort_into, args.mode, args.yes)
    options.check_loudness(args.quiet, args.verbose)
    inputs = _Inputs(args)
    format_ = choose_format(args.format_, args.as_json, args.output, single=inputs.single)
    check_output(args.output, format_, force=args.force, resume=args.resume)
    inputs.find(or_none=args.resume and is_begun(args.output))
    classifier = _load(args, inputs)
    detailed = inputs.single or context.get_parameter_source("top_k") is not ParameterSource.DEFAULT
    encoder = _encoder(args, format_, classifier, single=inputs.single, detailed=detailed)
    sorting = Sorting(args.sort_into, args.mode or "copy", classifier.spec.labels)
    with rows_to(args.output, encoder, format_, resume=args.resume) as rows, sorting:
        progress, meant = _predict(args, classifier, inputs, rows, sorting)
    inputs.tell(quiet=args.quiet, verbose=args.verbose)
    _tell(args, progress, meant or inputs.hint(), is_summed_up=not inputs.single)
    sorting.tell()
    return exit_codes.SOME_FAILED if progress.failed or sorting.failed else 0


class _Inputs:
    """The pictures that PATHS mean, and what is left out."""

    def __init__(self, args: SimpleNamespace) -> None:
        from visiontool.data.discover import is_one_file

        self.paths: tuple[str, ...] = args.paths
        self.shard: tuple[int, int] | None = args.shard
        self.single = len(self.paths) == 1 and is_one_file(self.paths[0]) and self.shard is None
        self.many = False
        self.found: Iterator[str] = iter(())
        exclude = None if args.sort_into is None else os.fspath(args.sort_into)
        self._where: dict[str, Any] = {"recursive": not args.no_recursive, "exclude": exclude}
        self._empty = Sample()
        self._left_out: defaultdict[str, Sample] = defaultdict(Sample)

    def find(self, *, or_none: bool) -> None:
        """Finds out whether there are any, and many.

        Raises:
            DataError: there are none, and not `or_none`.
        """
        from visiontool.data.discover import find_images, hint, is_fed, is_gone
        from visiontool.data.loader import FEW

        relative = [path for path in self.paths if path != "-" and not os.path.isabs(path.removeprefix("@"))]
        if relative and is_gone():
            raise DataError(f"no picture was found in {', '.join(relative)}")
        pass_over = lambda kind, path: self._left_out[kind].add(path)  # noqa: E731
        found = find_images(self.paths, on_empty=self._empty.add, on_pass=pass_over, **self._where)
        fed = any(map(is_fed, self.paths))  # a piped list may be slow; do not block to count it
        first = list(islice(found, 1 if fed else FEW + 1))
        if not first and not or_none:
            what = f" (left out: {self._counts()})" if self._left_out else ""
            remedy = hint(self.paths) or "Name pictures, folders that hold some, or globs."
            raise DataError(f"no picture was found in {', '.join(self.paths)}{what}\n{remedy}")
        self.many = len(first) > FEW or fed
        self.found = chain(first, found)
        if self.shard is not None:
            self.found = islice(self.found, self.shard[0] - 1, None, self.shard[1])

    def count(self, stop: Callable[[], bool]) -> int | None:
        """How many there are at most; None where nobody knows, and as soon as `stop` returns True."""
        from visiontool.data.discover import count_images

        count = count_images(self.paths, stop=stop, **self._where)
        if count is None or self.shard is None:
            return count
        return max(0, -((self.shard[0] - 1 - count) // self.shard[1]))

    def hint(self) -> str | None:
        """What somebody may have meant by those that held no picture."""
        from visiontool.data.discover import hint

        return hint(self._empty.some)

    def tell(self, *, quiet: bool, verbose: bool) -> None:
        """Says what held no picture and what was left out."""
        for path in self._empty.some:
            say(f"No picture was found in {path}.")
        if self._empty.count > len(self._empty.some):
            say(f"Nor in {self._empty.count - len(self._empty.some):,} others.")
        if self._left_out and not quiet:
            say(f"Left out: {self._counts()}{'' if verbose else ' (-v names them)'}.")
        for kind, sample in self._left_out.items() if verbose else ():
            more = f" and {sample.count - len(sample.some):,} more" if sample.count > len(sample.some) else ""
            say(f"  {kind}: {', '.join(map(printable, sample.some))}{more}")

    def _counts(self) -> str:
        return ", ".join(f"{sample.count:,} {kind}" for kind, sample in self._left_out.items())


def _load(args: SimpleNamespace, inputs: _Inputs) -> "Classifier":
    from visiontool.cli.pull import obtain
    from visiontool.images.decode import DEFAULT_LIMITS, Limits
    from visiontool.inference.classifier import Classifier

    described = {name: getattr(args, name) for name in options.OUTSIDE}
    class_names = described.pop("class_names") if args.weights is not None else None
    limits = (args.max_pixels or DEFAULT_LIMITS.max_pixels, args.max_bytes or DEFAULT_LIMITS.max_bytes)
    classifier = Classifier.load(
        obtain(args.model, weights=args.weights, class_names=class_names, offline=args.offline, quiet=args.quiet),
        device=args.device,
        provider=args.provider,
        threads=1 if inputs.many else 0,
        crop_mode=args.crop_mode,
        description=options.description(described),
        limits=Limits(*limits, args.on_truncated),
        engine_batch=args.batch_size,
    )
    if not args.quiet:
        _remark(classifier, args.model)
    if args.verbose:
        from visiontool.cli.render.runtime import say_how

        say_how(classifier, args.batch_size)
    args.top_k = min(args.top_k, len(classifier.spec.labels))
    return classifier


def _encoder(
    args: SimpleNamespace, format_: "Format", classifier: "Classifier", *, single: bool, detailed: bool
) -> "Encoder":
    from visiontool.cli.output import rows

    if format_ == "table":
        from visiontool.cli.output.table import TableRows

        return TableRows(detailed=detailed, on_terminal=args.output is None and sys.stdout.isatty())
    if format_ == "json":
        return rows.Json(single)
    # What is written into a file may be gone on with.
    in_file = args.output is not None and is_file(args.output)
    run = _run_id(classifier, args.top_k, args.min_probability) if in_file else None
    return rows.Csv(args.top_k, run) if format_ == "csv" else rows.JsonLines(run)


def _predict(
    args: SimpleNamespace, classifier: "Classifier", inputs: _Inputs, rows: Rows, sorting: Sorting
) -> "tuple[Progress, str | None]":
    """Gives what was counted, and the first hint that there is for a path that failed."""
    from visiontool.cli.progress import Progress, Stop, only_ours_on_stderr
    from visiontool.data.discover import hint

    if rows.finished and not args.quiet:
        say(f"Going on: {len(rows.finished):,} rows are there already.")
    meant: str | None = None
    # A bar among rows is in the way.
    shown = not args.quiet and sys.stderr.isatty() and not (args.output is None and sys.stdout.isatty())
    with (
        Stop() as stop,
        only_ours_on_stderr(),
        Progress(shown=shown, count=lambda: inputs.count(lambda: stop.asked)) as progress,
    ):
        results = classifier.predict_stream(
            _unfinished(stop.until(inputs.found), rows, sorting, progress),
            top_k=args.top_k,
            min_probability=args.min_probability,
            batch_size=args.batch_size,
            workers=args.workers,
            timeout=args.timeout,
            isolate=inputs.many,
            times=progress.times,
        )
        with contextlib.closing(results):
            for result in results:
                path = result.path or ""
                rows.write(result)
                sorting.place(path, result.predictions[0].index if result.predictions else None, result.unknown)
                progress.add(failed=result.error is not None)
                if result.error is not None and meant is None:
                    meant = hint([path])
        if stop.asked:
            raise KeyboardInterrupt
    return progress, meant


def _unfinished(paths: Iterable[str], rows: Rows, sorting: Sorting, progress: "Progress") -> Iterator[str]:
    """The paths that have no row yet. The others may lack their place: a kill can come between the two."""
    for path in paths:
        class_id = rows.finished.class_of(path) if rows.finished else None
        if class_id is None:
            yield path
        else:
            progress.kept += 1
            sorting.place(path, class_id, unknown=class_id < 0)


def _tell(args: SimpleNamespace, progress: "Progress", meant: str | None, *, is_summed_up: bool) -> None:
    told = [progress.summary()] if is_summed_up and not args.quiet else []
    if progress.failed:
        told.append(f"{progress.failed:,} of {progress.done + progress.kept:,} inputs failed; their rows say why.")
    if told:
        say(" ".join(told))
    if meant and not args.quiet:
        say(meant)


def _run_id(classifier: "Classifier", top_k: int, min_probability: float) -> str:
    """A digest of all that rows depend on: the model file, what it was said to be, and the options."""
    import hashlib

    from visiontool.hub import cache

    weights = cache.model_sha256(classifier.path)
    said = json.dumps([weights, classifier.spec.to_json(), top_k, min_probability])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _remark(classifier: "Classifier", model: str | None) -> None:
    """Says once, on stderr, which model answers."""
    from visiontool.hub.resolve import DEFAULT_MODEL, MODEL_VARIABLE

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
