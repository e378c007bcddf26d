"""`visiontool export`: one ONNX file that is checked before it exists."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_args

import click

from visiontool.cli import options
from visiontool.cli.text import json_text, printable, say
from visiontool.model.spec import Precision
from visiontool.text import plural

if TYPE_CHECKING:
    from visiontool.exporting.export import Export

_STAGES = {"calibrate": "Calibrating", "compare": "Comparing with the source", "torch": "Comparing with torch"}


@click.command()
@click.argument("model", required=False, metavar="[MODEL]", shell_complete=options.complete_model)
@click.option(
    "-m", "--model", "same", metavar="MODEL", shell_complete=options.complete_model, help="The same as MODEL."
)
@click.option("--onnx", is_flag=True, help="The format; there is no other.")
@click.option("--precision", type=click.Choice(get_args(Precision)), help="Default: what the model has, mostly fp32.")
@click.option("--embed-resize", is_flag=True, help="The file takes pictures of any size and resizes them itself.")
@click.option(
    "--static-batch", type=options.COUNT, metavar="N", help="The file takes N pictures at once, no other number."
)
@click.option("--calibration", type=options.PATH, metavar="DATA", help="Pictures for int8. Default: a run's.")
@click.option("--verify-on", type=options.PATH, metavar="DATA", help="Pictures for the comparison.")
@click.option("--no-verify", is_flag=True, help="Do not compare; the file says so.")
@click.option("-o", "--output", type=options.FILE, metavar="FILE", help="Default: NAME.onnx in the working folder.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--architecture", metavar="NAME", help="Whose weights MODEL is: a .safetensors or .pth file.")
@options.CROP_MODE
@click.option("--device", default="cpu", metavar="auto|cpu|cuda[:N]", help="Where they are compared.  [default: cpu]")
@options.OFFLINE
@click.option("--json", "as_json", is_flag=True, help="What was written and how it compares, instead of its path.")
@options.QUIET
@options.foreign_model
@click.pass_context
def export(context: click.Context, /, **values: Any) -> int:
    """Write a model as one checked ONNX file.

    MODEL is a run, a network, a file of weights with --architecture, or an .onnx file; without one it is the newest
    run in runs/. The file is written only where it answers as its source does, on real pictures. Prints its path.

    \b
    visiontool export runs/mydata
    visiontool export resnet50 --precision fp16
    visiontool export --precision int8 --calibration photos/
    visiontool export model.pth --architecture vgg16 -o vgg16.onnx
    """
    args = SimpleNamespace(**values)
    if args.model is not None and args.same is not None:
        raise click.UsageError("MODEL and -m name the same; leave one out", context)
    args.model = args.model or args.same
    result = _export(args)
    if not args.quiet:
        _report(result)
    click.echo(json_text(_to_json(result)) if args.as_json else str(result.path))
    return 0


def _export(args: SimpleNamespace) -> "Export":
    from visiontool.cli.progress import Stages, only_ours_on_stderr
    from visiontool.cli.pull import PullStages
    from visiontool.exporting.export import ExportOptions, default_target, export
    from visiontool.exporting.source import find

    export_options = ExportOptions(
        precision=args.precision,
        embed_resize=args.embed_resize,
        static_batch=args.static_batch,
        calibration=args.calibration,
        verify_on=args.verify_on,
        verify=not args.no_verify,
    )
    with PullStages(args.architecture or args.model or "the default model", args.quiet) as stages:
        source = find(
            args.model,
            architecture=args.architecture,
            description=options.description(vars(args)),
            crop_mode=args.crop_mode,
            offline=args.offline,
            progress=stages.update,
        )
    target = args.output or default_target(source, export_options)
    with source, only_ours_on_stderr(), Stages(_STAGES, enabled=not args.quiet) as stages:
        return export(source, target, export_options, force=args.force, device=args.device, progress=stages.update)


def _report(result: "Export") -> None:
    from visiontool.cli.verify import comparison_lines
    from visiontool.exporting.snippet import snippet

    if result.comparison is None:
        say("Not compared with its source; the file says so.")
    else:
        say("\n".join(comparison_lines(result.comparison)))
    for note in result.notes:
        say(printable(note))
    size, classes = result.path.stat().st_size, plural(len(result.spec.labels), "class")
    about = f"{size / 1e6:,.1f} MB, {result.spec.precision}, {classes}"
    say(f"{printable(str(result.path))}: {about}. Without visiontool:\n\n{snippet(result.spec, result.path)}")


def _to_json(result: "Export") -> dict[str, Any]:
    return {
        "schema": 1,
        "path": str(result.path),
        "name": result.spec.name,
        "precision": result.spec.precision,
        "size_bytes": result.path.stat().st_size,
        "comparison": None if result.comparison is None else result.comparison.to_json(),
        "notes": list(result.notes),
    }
