"""`visiontool explain`: which parts of a picture speak for a class, and what a layer makes of the picture."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from visiontool.cli import SOME_FAILED, options
from visiontool.cli.text import json_text, printable, say
from visiontool.errors import DataError, PictureError, UsageError, closest
from visiontool.text import plural

if TYPE_CHECKING:
    from visiontool.inference.classifier import Classifier

_METHODS = ("auto", "cam", "occlusion", "gradcam")


@click.command(no_args_is_help=True)
@click.argument("pictures", nargs=-1, metavar="PICTURE...", type=click.Path())
@options.model("A name of `models`, or an .onnx file.")
@click.option("--label", metavar="L", help="Explain this class.  [default: the most probable one]")
@click.option("--method", type=click.Choice(_METHODS), help="How to explain.  [default: auto: cam, else occlusion]")
@click.option("--features", metavar="LAYER", help='Show the maps of this layer instead; "first" for the first.')
@click.option("-o", "--output", metavar="FILE.png|DIR", type=options.PATH, help="Default: PICTURE-explain.png here.")
@click.option("--json", "as_json", is_flag=True, help="JSON with the numbers of the map, not the file's name alone.")
@options.WEIGHTS
@options.OFFLINE
@options.QUIET
@options.foreign_model
def explain(**values: Any) -> int:
    """Show which parts of a picture speak for a class.

    Writes a PNG for each picture: orange speaks for the class, blue against it. The methods: cam is exact, where the
    network allows it; occlusion covers one part after another, in 197 runs; gradcam needs torch. docs/explain.md shows
    them.

    \b
    visiontool explain img.jpg
    visiontool explain img.jpg --label daisy -o daisy.png
    visiontool explain img.jpg --features first
    visiontool explain samples/digits/ -m lenet5 -o maps/
    """
    from visiontool.cli.pull import load_all

    args = SimpleNamespace(**values)
    if args.features is not None and (option := "--label" if args.label else "--method" if args.method else None):
        raise UsageError(f"--features shows what a layer gives, whatever the class is; leave {option} out")
    files = _files(args)
    (classifier,) = load_all([args.model], args, {}, are_single=True)
    rows = _write(args, classifier, files)
    if args.as_json:
        click.echo(json_text(rows[0] if len(args.pictures) == len(rows) == 1 else rows))
    return SOME_FAILED if any(row["status"] == "error" for row in rows) else 0


def _files(args: SimpleNamespace) -> dict[str, Path]:
    """The pictures, each with the file to write; what is wrong with these is said before a model is opened."""
    from visiontool.data.discover import find_images, hint

    paths = list(find_images(args.pictures))
    if not paths:
        remedy = hint(args.pictures) or "Name pictures, folders that hold some, or globs."
        raise DataError(f"no picture was found in {', '.join(args.pictures)}\n{remedy}")
    taken = set(map(os.path.abspath, paths))
    if args.output is not None and args.output.suffix.lower() == ".png":
        options.check_file("-o", args.output, ".png")
        if len(paths) > 1 or os.path.abspath(args.output) in taken:
            raise UsageError(f"-o {args.output}: each of {plural(len(paths), 'picture')} needs a file of its own")
        return {paths[0]: args.output}
    files, ending = {}, "features" if args.features else "explain"
    for path in paths:
        file = (args.output or Path()) / f"{Path(path).stem}-{ending}.png"
        while os.path.abspath(file) in taken:  # another picture of that name, or a picture
            file = file.with_stem(f"{file.stem}-2")
        taken.add(os.path.abspath(file))
        files[path] = file
    return files


def _write(args: SimpleNamespace, classifier: "Classifier", files: dict[str, Path]) -> list[dict[str, Any]]:
    """Writes the files, names each on stdout once it is there, and gives a row of JSON for each picture."""
    from visiontool.cli.output.target import reporting_errors
    from visiontool.cli.progress import only_ours_on_stderr
    from visiontool.evaluation import heat_map
    from visiontool.files import replacing
    from visiontool.inference.explain import features
    from visiontool.inference.result import Result

    name, rows = classifier.spec.name, []
    answer: Callable[[str], Any] = partial(features, classifier, layer=args.features)
    draw: Callable[[Path, str, Any], None] = heat_map.draw_features
    if args.features is None:
        answer, draw = _explaining(args, classifier), heat_map.draw
    with only_ours_on_stderr():
        for path, file in files.items():
            try:
                found = answer(path)
            except PictureError as error:
                say(str(error))
                rows.append(Result(path, name, error=str(error).removeprefix(f"{path}: ")).to_dict())
                continue
            with reporting_errors(str(file)):
                file.parent.mkdir(parents=True, exist_ok=True)
                with replacing(file) as unfinished:
                    draw(unfinished, os.path.basename(path), found)
            rows.append(Result(path, name).to_dict() | {"file": str(file)} | found.to_dict())
            del rows[-1]["predictions"]
            if not args.as_json:
                click.echo(printable(str(file)))
    return rows


def _explaining(args: SimpleNamespace, classifier: "Classifier") -> Callable[[str], Any]:
    """What explains the picture at a path."""
    from visiontool.inference.explain import Explainer, pixels_of

    spec, class_id = classifier.spec, None
    if args.label is not None:
        names = [*spec.labels, *(spec.label_ids or ())]
        if args.label not in names:
            raise UsageError(f"{spec.name} has no class {args.label!r}.{closest(args.label, spec.labels)}")
        class_id = names.index(args.label) % len(spec.labels)
    explainer = Explainer(classifier, args.method or "auto")
    if not args.quiet:
        runs = plural(explainer.passes, "run")
        say(f"Model {spec.name}, method {explainer.method}: {runs} of the network for a picture.")
    return lambda path: explainer.explain(pixels_of(classifier, path), class_id)
