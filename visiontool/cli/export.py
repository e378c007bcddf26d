"""`visiontool export`: one ONNX file that is checked before it exists."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from visiontool.cli import options
from visiontool.cli.text import json_text, printable, say
from visiontool.model.spec import CropMode, Precision
from visiontool.text import plural

if TYPE_CHECKING:
    from visiontool.export.export import Export

_STAGES = {"calibrate": "Calibrating", "compare": "Comparing with the source", "torch": "Comparing with torch"}


@click.command()
@click.argument("model", required=False, metavar="[MODEL]", shell_complete=options.complete_model)
@click.option(
    "-m", "--model", "named", metavar="MODEL", shell_complete=options.complete_model, help="The same as MODEL."
)
@click.option("--onnx", is_flag=True, help="The format; there is no other.")
@click.option("--precision", type=click.Choice(get_args(Precision)), help="Default: what the model has, mostly fp32.")
@click.option("--embed-resize", is_flag=True, help="The file takes pictures of any size and resizes them itself.")
@click.option(
    "--static-batch", type=options.COUNT, metavar="N", help="The file takes N pictures at once, no other number."
)
@click.option(
    "--calibration", type=click.Path(path_type=Path), metavar="DATA", help="Pictures for int8. Default: a run's."
)
@click.option("--verify-on", type=click.Path(path_type=Path), metavar="DATA", help="Pictures for the comparison.")
@click.option("--no-verify", is_flag=True, help="Do not compare; the file says so.")
@click.option("-o", "--output", type=options.FILE, metavar="FILE", help="Default: NAME.onnx in the working folder.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--architecture", metavar="NAME", help="Whose weights MODEL is: a .safetensors or .pth file.")
@click.option("--crop-mode", type=click.Choice(get_args(CropMode)), help="Instead of the model's own.")
@click.option("--device", default="cpu", metavar="auto|cpu|cuda[:N]", help="Where they are compared.  [default: cpu]")
@click.option("--offline", is_flag=True, help="Use no network, also where MODEL is not on this machine.")
@click.option("--json", "as_json", is_flag=True, help="What was written and how it compares, instead of its path.")
@click.option("-q", "--quiet", is_flag=True, help="No remarks on stderr; errors stay.")
@options.of_outside_files
@click.pass_context
def export(
    context: click.Context,
    /,
    model: str | None,
    named: str | None,
    onnx: bool,
    precision: Any,
    embed_resize: bool,
    static_batch: int | None,
    calibration: Path | None,
    verify_on: Path | None,
    no_verify: bool,
    output: Path | None,
    force: bool,
    architecture: str | None,
    crop_mode: CropMode | None,
    device: str,
    offline: bool,
    as_json: bool,
    quiet: bool,
    **description: Any,
) -> int:
    """Write a model as one checked ONNX file.

    MODEL is a run, a network, a file of weights with --architecture, or an .onnx file; without one it is the newest
    run in runs/. The file is written only where it answers as its source does, on real pictures. Prints its path.

    \b
    visiontool export runs/mydata
    visiontool export resnet50 --precision fp16
    visiontool export --precision int8 --calibration photos/
    visiontool export model.pth --architecture vgg16 -o vgg16.onnx
    """
    if model is not None and named is not None:
        raise click.UsageError("MODEL and -m name the same; leave one out", context)

    from visiontool.cli.progress import Stages, only_ours_on_stderr
    from visiontool.cli.pull import Telling
    from visiontool.export.export import ExportOptions, default_target
    from visiontool.export.export import export as write_export
    from visiontool.export.source import find

    export_options = ExportOptions(
        precision=precision,
        embed_resize=embed_resize,
        static_batch=static_batch,
        calibration=calibration,
        verify_on=verify_on,
        verify=not no_verify,
    )
    with Telling(architecture or model or named or "the default model", quiet) as telling:
        source = find(
            model or named,
            architecture=architecture,
            description=options.description(description),
            crop_mode=crop_mode,
            offline=offline,
            progress=telling.update,
        )
    target = output or default_target(source, export_options)
    with source, only_ours_on_stderr(), Stages(_STAGES, shown=not quiet) as stages:
        done = write_export(source, target, export_options, force=force, device=device, progress=stages.update)
    if not quiet:
        _tell(done)
    if as_json:
        click.echo(json_text(_to_json(done)))
    else:
        click.echo(str(done.path))
    return 0


def _tell(done: "Export") -> None:
    """On stderr: how the file compares with its source, and how it is run without visiontool."""
    from visiontool.cli.render.comparison import show_comparison
    from visiontool.export.snippet import snippet

    if done.comparison is None:
        say("Not compared with its source; the file says so.")
    else:
        say("\n".join(show_comparison(done.comparison)))
    for note in done.notes:
        say(printable(note))
    size = f"{done.path.stat().st_size / 1e6:,.1f} MB"
    classes = plural(len(done.spec.labels), "class")
    say(f"{printable(str(done.path))}: {size}, {done.spec.precision}, {classes}. Without visiontool:\n")
    say(snippet(done.spec, done.path))


def _to_json(done: "Export") -> dict[str, Any]:
    return {
        "schema": 1,
        "path": str(done.path),
        "name": done.spec.name,
        "precision": done.spec.precision,
        "size_bytes": done.path.stat().st_size,
        "comparison": None if done.comparison is None else done.comparison.to_json(),
        "notes": list(done.notes),
    }
