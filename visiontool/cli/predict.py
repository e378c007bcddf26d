"""`visiontool predict`: what is on pictures."""

import contextlib
import hashlib
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from visiontool.cli import SOME_FAILED, options
from visiontool.cli.output.sort import Sorting, check_sorting, undo_sorting
from visiontool.cli.output.target import FORMATS, Rows, check_output, choose_format, is_file, partial_of, rows_to
from visiontool.cli.text import printable, say
from visiontool.errors import DataError, UsageError
from visiontool.files import model_sha256

if TYPE_CHECKING:
    from visiontool.cli.output.rows import Encoder
    from visiontool.cli.output.target import Format
    from visiontool.cli.progress import PictureCounter
    from visiontool.inference.classifier import Classifier

_MOST_EXAMPLES = 10
_EMPTY = "no picture in it"  # beside the kinds that `find_images` passes over


@click.command(no_args_is_help=True)
@click.argument("paths", nargs=-1, metavar="PATHS...", type=click.Path())
@options.model("A name of `models`, an .onnx file, or an ensemble's .json.")
@click.option("-k", "--top-k", type=options.COUNT, default=5, show_default=True, metavar="N", help="Classes in a row.")
@click.option("--format", "format_", type=click.Choice(FORMATS), help="Default: a table on a terminal, else JSON.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("-o", "--output", metavar="FILE", type=options.FILE, help="Write the rows to FILE.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--resume", is_flag=True, help="Keep the good rows of FILE and add the rest.")
@click.option("--shard", type=options.shard, metavar="I/N", help="Every N-th input from the I-th on: one machine's.")
@click.option("--sort-into", metavar="DIR", type=options.FOLDER, help="Put the pictures into class folders of DIR.")
@click.option("--mode", type=click.Choice(("copy", "link", "move")), help="How to sort.  [default: copy]")
@click.option("--yes", is_flag=True, help="Confirm --mode move: pictures leave their folders.")
@click.option("--undo", is_flag=True, help="Undo all sorting into DIR.")
@click.option("--min-probability", type=options.SHARE, default=0, metavar="P", help='Below P, the row says "unknown".')
@click.option("--among", type=options.names, metavar="FILE|A,B", help="Only these classes compete: labels or ids.")
@click.option("--sets", is_flag=True, help="Add the set of classes that it may be (evaluate --conformal).")
@click.option(
    "--on-truncated", type=click.Choice(("fail", "fill")), help="A cut-off JPEG: fail, or fill it.  [default: fail]"
)
@options.answering_paths
@click.pass_context
def predict(context: click.Context, /, **values: Any) -> int:
    """Classify pictures.

    PATHS are files, folders and globs, in the order given; - and @FILE read a list of them, @FILE.csv the column path.
    Each input gives one row. A picture that cannot be read gives a row that says why, and exit code 7.

    \b
    visiontool predict img.jpg
    visiontool predict photos/ -o rows.csv
    visiontool predict "scans/**/*.png" -m lenet5 --json
    find /disk -name "*.jpg" -print0 | visiontool predict - -o rows.jsonl --resume
    visiontool predict photos/ --sort-into sorted/
    """
    args = SimpleNamespace(**values)
    if args.undo:
        return undo_sorting(context, args.sort_into, args.quiet)
    if not args.paths:
        raise click.UsageError("name pictures, folders or globs; or - for a list on stdin", context)
    check_sorting(args.sort_into, args.mode, args.yes)
    options.check_loudness(args.quiet, args.verbose)
    inputs = Inputs(args)
    format_ = choose_format(args.format_, args.as_json, args.output, single=inputs.single)
    check_output(args.output, format_, force=args.force, resume=args.resume)
    inputs.find(may_be_none=args.resume and (args.output.exists() or partial_of(args.output).exists()))
    classifier = load(args, many=inputs.many)
    args.top_k = min(args.top_k, len(classifier.competing))
    detailed = inputs.single or context.get_parameter_source("top_k") is not ParameterSource.DEFAULT
    encoder = _encoder(args, format_, classifier, single=inputs.single, detailed=detailed)
    sorting = Sorting(args.sort_into, args.mode or "copy", classifier.spec.labels)
    with rows_to(args.output, encoder, format_, resume=args.resume) as rows, sorting:
        counter, hint = _predict(args, classifier, inputs, rows, sorting)
    inputs.report(quiet=args.quiet, verbose=args.verbose)
    if summary := counter.summary(failures_only=args.quiet or inputs.single):
        say(summary)
    if hint and not args.quiet:
        say(hint)
    sorting.report()
    return SOME_FAILED if counter.failed or sorting.failed else 0


class Inputs:
    """The pictures that PATHS name, and what is left out."""

    def __init__(self, args: SimpleNamespace) -> None:
        from visiontool.data.discover import is_one_file

        self._paths: tuple[str, ...] = args.paths
        self._where: dict[str, Any] = {
            "recursive": not args.no_recursive,
            "exclude": None if args.sort_into is None else os.fspath(args.sort_into),
        }
        first, step = args.shard or (1, 1)
        self._shard = slice(first - 1, None, step)
        self.single = len(args.paths) == 1 and is_one_file(args.paths[0]) and args.shard is None
        self.many = False
        self.pictures: Iterator[str] = iter(())
        self._counts: Counter[str] = Counter()
        self._examples: defaultdict[str, list[str]] = defaultdict(list)

    def find(self, *, may_be_none: bool) -> None:
        """Finds the first; raises DataError where there are none, and not `may_be_none`."""
        from visiontool.data.discover import find_images, hint, is_fed
        from visiontool.data.loader import FEW

        pictures = find_images(
            self._paths, on_empty=partial(self._leave_out, _EMPTY), on_pass=self._leave_out, **self._where
        )
        fed = any(map(is_fed, self._paths))  # a piped list may be slow; do not block to count it
        first = list(islice(pictures, 1 if fed else FEW + 1))
        if not first and not may_be_none:
            left_out = f" (left out: {self._left_out()})" if self._left_out() else ""
            remedy = hint(self._paths) or "Name pictures, folders that hold some, or globs."
            raise DataError(f"no picture was found in {', '.join(self._paths)}{left_out}\n{remedy}")
        self.many = len(first) > FEW or fed
        self.pictures = islice(chain(first, pictures), self._shard.start, None, self._shard.step)

    def count(self, stop: Callable[[], bool]) -> int | None:
        """How many there are at most; None where nobody knows, and as soon as `stop` returns True."""
        from visiontool.data.discover import count_images

        count = count_images(self._paths, stop=stop, **self._where)
        return None if count is None else len(range(count)[self._shard])

    def report(self, *, quiet: bool, verbose: bool) -> None:
        from visiontool.data.discover import hint

        for path in self._examples[_EMPTY]:
            say(f"No picture was found in {path}.")
        if self._counts[_EMPTY] > _MOST_EXAMPLES:
            say(f"Nor in {self._counts[_EMPTY] - _MOST_EXAMPLES:,} others.")
        if not quiet and (remedy := hint(self._examples[_EMPTY])):
            say(remedy)
        if not quiet and self._left_out():
            say(f"Left out: {self._left_out()}{'' if verbose else ' (-v names them)'}.")
        for kind, paths in self._examples.items() if verbose else ():
            if kind != _EMPTY:
                more = self._counts[kind] - len(paths)
                say(f"  {kind}: {', '.join(map(printable, paths))}{f' and {more:,} more' if more else ''}")

    def _leave_out(self, kind: str, path: str) -> None:
        self._counts[kind] += 1
        if self._counts[kind] <= _MOST_EXAMPLES:
            self._examples[kind].append(path)

    def _left_out(self) -> str:
        return ", ".join(f"{count:,} {kind}" for kind, count in self._counts.items() if kind != _EMPTY)


def load(args: SimpleNamespace, *, many: bool) -> "Classifier":
    """The model that the options name, pulled first where it is not here; says on stderr what answers."""
    from visiontool.cli.pull import load_all, say_how

    (classifier,) = load_all([args.model], args, {"threads": 1 if many else 0, "engine_batch": args.batch_size})
    of_one = [option for option in ("sort_into", "sets") if vars(args).get(option)]
    if classifier.spec.task == "multilabel" and of_one:
        name = of_one[0].replace("_", "-")
        raise UsageError(f"{classifier.spec.name} gives several labels a picture, and --{name} needs one: leave it out")
    if not args.quiet:
        _say_model(classifier, args.model)
    for member in classifier.members if args.verbose else ():
        say_how(member, args.batch_size)
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
    digest, labels = None, classifier.spec.task == "multilabel"
    if args.output is not None and is_file(args.output):  # rows that may be resumed, by a run of the same settings
        model = model_sha256(classifier.path), classifier.spec.to_json()
        settings = json.dumps([*model, args.top_k, args.min_probability, args.among, args.sets])
        digest = hashlib.sha256(settings.encode()).hexdigest()[:16]
    return rows.Csv(args.top_k, digest, sets=args.sets, labels=labels) if format_ == "csv" else rows.JsonLines(digest)


def _predict(
    args: SimpleNamespace, classifier: "Classifier", inputs: Inputs, rows: Rows, sorting: Sorting
) -> "tuple[PictureCounter, str | None]":
    """Gives the counts, and a hint for the first path that failed and has one."""
    from visiontool.cli.progress import PictureCounter, Stop, only_ours_on_stderr
    from visiontool.data.discover import hint

    if rows.finished and not args.quiet:
        say(f"Resuming: {len(rows.finished):,} rows are done.")
    first_hint: str | None = None
    # A bar among rows is in the way.
    has_bar = not args.quiet and sys.stderr.isatty() and not (args.output is None and sys.stdout.isatty())
    with (
        Stop() as stop,
        only_ours_on_stderr(),
        PictureCounter(enabled=has_bar, count=lambda: inputs.count(lambda: stop.requested)) as counter,
    ):
        results = classifier.predict_stream(
            _unfinished(stop.until(inputs.pictures), rows, sorting, counter),
            top_k=args.top_k,
            min_probability=args.min_probability,
            sets=args.sets,
            batch_size=args.batch_size,
            workers=args.workers,
            timeout=args.timeout,
            isolate=inputs.many,
            times=counter.times,
        )
        with contextlib.closing(results):
            for result in results:
                path = result.path or ""
                rows.write(result)
                sorting.place(path, result.predictions[0].index if result.predictions else None, result.unknown)
                counter.add(failed=result.error is not None)
                if result.error is not None and first_hint is None:
                    first_hint = hint([path])
        if stop.requested:
            raise KeyboardInterrupt
    return counter, first_hint


def _unfinished(paths: Iterable[str], rows: Rows, sorting: Sorting, counter: "PictureCounter") -> Iterator[str]:
    """The paths that have no row yet. The others may lack their place: a kill can come between the two."""
    for path in paths:
        class_id = rows.finished.class_of(path) if rows.finished else None
        if class_id is None:
            yield path
        else:
            counter.resumed += 1
            sorting.place(path, class_id, unknown=class_id < 0)


def _say_model(classifier: "Classifier", model: str | None) -> None:
    from visiontool.files import CACHE_VARIABLE, IN_MEMORY
    from visiontool.hub.resolve import DEFAULT_MODEL, MODEL_VARIABLE

    spec = classifier.spec
    device, provider = classifier.device, classifier.provider
    where = device if device.startswith(provider) else f"{device} by {provider}"
    is_default = model is None and spec.name == DEFAULT_MODEL
    text = f"Model {spec.name}: {len(spec.labels):,} {'ImageNet ' if is_default else ''}classes, on {where}."
    if model is None and os.environ.get(MODEL_VARIABLE):
        text += f" {MODEL_VARIABLE} names it."
    elif is_default:
        text += " The default; -m names another (visiontool models)."
    elif model is None:
        text += " Chosen by: models default."
    if len(classifier.competing) < len(spec.labels):
        text += f" {len(classifier.competing):,} of them compete."
    if spec.task == "multilabel":
        text += " A picture may have several of them, or none."
    elif spec.decisions.thresholds:
        text += f" Below a class's threshold, for a precision of {spec.decisions.precision}, it says unknown."
    say(text)
    if classifier.path in IN_MEMORY:
        say(
            "The cache cannot be written, so the model is made anew in memory each time.\n"
            f"Set {CACHE_VARIABLE} to a folder that you may write to."
        )
    if classifier.passed_over is not None:
        say('The GPU cannot be used; "visiontool doctor" says why.')
