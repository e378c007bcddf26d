"""`visiontool embed`: pictures as vectors, which of them are similar, and a map of all."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from visiontool.cli import SOME_FAILED, options
from visiontool.cli.output.rows import cell, csv_line
from visiontool.cli.output.target import check_output, choose_format, reporting_errors
from visiontool.cli.predict import Inputs, load
from visiontool.cli.text import csv_cell, json_text, printable, say
from visiontool.errors import DataError, UsageError
from visiontool.files import replacing
from visiontool.text import plural

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from visiontool.cli.output.target import Format
    from visiontool.data.loader import LoadOptions
    from visiontool.inference.classifier import Classifier

_COLUMNS = ("path", "status", "error")
_NEIGHBOR_COLUMNS = ("path", "status", "neighbor", "cosine", "error")


@click.command(no_args_is_help=True)
@click.argument("paths", nargs=-1, metavar="PATHS...", type=click.Path())
@options.model("A name of `models`, an .onnx file or a run.")
@click.option("-o", "--output", metavar="FILE", type=options.FILE, help="Write the embeddings: .npy, .csv, .parquet.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--neighbours", "neighbors", type=options.COUNT, metavar="K", help="Print the K most similar to each.")
@click.option("--format", "format_", type=click.Choice(("table", "json", "jsonl", "csv")), help="Of the neighbors.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--plot", metavar="FILE.png", type=options.FILE, help="Draw a map with similar pictures together.")
@options.answering_paths
@click.pass_context
def embed(context: click.Context, /, **values: Any) -> int:
    """Show which pictures are similar.

    Each picture of PATHS (as in predict) becomes an embedding, the input of the network's last layer: the more similar
    two pictures are, the nearer to 1 is their cosine. Exit code 7 where pictures cannot be read.

    \b
    visiontool embed photos/ -o photos.npy
    visiontool embed photos/ --neighbours 3
    visiontool embed photos/ --plot map.png
    """
    args = SimpleNamespace(sort_into=None, shard=None, **values)  # which predict's functions read
    _check(context, args)

    from visiontool.cli.progress import only_ours_on_stderr
    from visiontool.evaluation.embedding_map import draw

    inputs = Inputs(args)
    inputs.find(may_be_none=False)
    classifier = load(args, many=inputs.many)
    paths = list(inputs.pictures)
    inputs.report(quiet=args.quiet, verbose=args.verbose)
    loading = options.loading(values)
    with only_ours_on_stderr():
        errors, vectors = _embed(classifier, paths, loading, quiet=args.quiet)
        if args.output is not None:
            _write(args.output, paths, errors, vectors)
        if args.plot is not None:
            readable = [place for place in range(len(paths)) if place not in errors]
            with reporting_errors(str(args.plot)), replacing(args.plot) as unfinished:
                draw(unfinished, [paths[place] for place in readable], vectors[readable], classifier.spec.name, loading)
    if args.neighbors is not None:
        _print(args.format_, _rows(paths, errors, vectors, args.neighbors))
    return SOME_FAILED if errors else 0


def _check(context: click.Context, args: SimpleNamespace) -> None:
    if not args.paths:
        raise click.UsageError("name pictures, folders or globs; or - for a list on stdin", context)
    if args.output is None and args.neighbors is None and args.plot is None:
        raise click.UsageError("say what you want: -o FILE.npy, --neighbours K or --plot FILE.png", context)
    if args.neighbors is None and (args.as_json or args.format_ is not None):
        raise UsageError("--format and --json are about the rows of --neighbours; leave them out")
    args.format_ = choose_format(args.format_, args.as_json, None, single=False)
    options.check_loudness(args.quiet, args.verbose)
    options.check_file("-o", args.output, ".npy", ".csv", ".parquet")
    check_output(args.output, "json", force=args.force, resume=False)
    options.check_file("--plot", args.plot, ".png")


def _embed(
    classifier: "Classifier", paths: Sequence[str], loading: "LoadOptions", *, quiet: bool
) -> "tuple[dict[int, str], NDArray[np.float32]]":
    """The errors by the index of their input, and the embeddings (N, D), NaN where there is an error."""
    from visiontool.cli.progress import Stages
    from visiontool.images.augment import Augment, views
    from visiontool.inference.embeddings import embed_views

    if classifier.spec.resize == "graph":
        made_from = f"the model that it was made from: -m {classifier.spec.name}"
        raise UsageError(f"{classifier.path}: resizes pictures itself (export --embed-resize); take {made_from}")
    with Stages({"": "Embedding"}, enabled=not quiet) as stages:
        found = embed_views(classifier, paths, views(1, Augment(), 0), loading, progress=partial(stages.update, ""))
        cached = len(paths) - len(found.errors) - found.computed
        for note in (*found.notes, f"{plural(len(paths), 'picture')}: {found.computed:,} computed, {cached:,} cached."):
            stages.say(note)
    for index, error in [*found.errors.items()][:1]:
        text = f"{len(found.errors):,} of {len(paths):,} inputs failed. The first: {paths[index]}: {error}"
        if len(found.errors) == len(paths):
            raise DataError(f"{text}\nName pictures that can be read.")
        say(text)
    vectors = found.vectors[:, 0]
    vectors[[*found.errors]] = float("nan")
    return found.errors, vectors


def _write(file: Path, paths: Sequence[str], errors: Mapping[int, str], vectors: "NDArray[np.float32]") -> None:
    """Writes the embeddings with their paths, which are in a table of its own beside a .npy file."""
    import numpy as np

    ending = file.suffix.lower()
    clean = printable if ending == ".parquet" else csv_cell
    texts = [(path, "error" if place in errors else "ok", errors.get(place, "")) for place, path in enumerate(paths)]
    rows = [tuple(map(clean, row)) for row in texts]
    with reporting_errors(str(file)), replacing(file) as unfinished, open(unfinished, "wb") as stream:
        if ending == ".npy":
            np.save(stream, vectors)
        elif ending == ".parquet":
            import pyarrow as pa
            from pyarrow import parquet

            embedding = pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1])
            columns = [*map(list, zip(*rows, strict=True)), embedding]
            parquet.write_table(pa.table(columns, [*_COLUMNS, "embedding"]), stream)
        else:
            stream.write(csv_line([*_COLUMNS, *(f"embedding_{place}" for place in range(vectors.shape[1]))]))
            for row, vector in zip(rows, vectors, strict=True):
                stream.write(csv_line([*row, *(f"{number:.9g}" for number in vector.tolist())]))
    if ending == ".npy":
        _write(file.with_suffix(".paths.csv"), paths, errors, vectors[:, :0])


def _rows(
    paths: Sequence[str], errors: Mapping[int, str], vectors: "NDArray[np.float32]", count: int
) -> Iterator[dict[str, Any]]:
    """A row for each neighbor of each picture, or for its error."""
    from visiontool.inference.embeddings import nearest

    readable = [place for place in range(len(paths)) if place not in errors]
    found = zip(*(table.tolist() for table in nearest(vectors[readable], count)), strict=True)
    for place, path in enumerate(paths):
        if place in errors:
            yield {"path": path, "status": "error", "error": errors[place]}
            continue
        for other, cosine in zip(*next(found), strict=True):
            yield {"path": path, "status": "ok", "neighbor": paths[readable[other]], "cosine": cosine}


def _print(format_: "Format", rows: Iterator[dict[str, Any]]) -> None:
    if format_ == "json":
        click.echo(json_text([*rows], indent=1))
    if format_ == "csv":
        click.echo(",".join(_NEIGHBOR_COLUMNS))
    for row in rows:
        if format_ == "jsonl":
            click.echo(json_text(row))
        elif format_ == "csv":
            click.echo(csv_line([str(cell(row.get(name, ""))) for name in _NEIGHBOR_COLUMNS]), nl=False)
        else:
            cosine = f"{row['cosine']:.4f}" if "cosine" in row else "failed"
            click.echo(printable(f"{cosine}  {row['path']}  {row.get('neighbor') or row['error']}"))
