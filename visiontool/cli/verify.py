"""`visiontool verify`: whether a model answers as another does."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from visiontool.cli import options
from visiontool.cli.text import json_text, say
from visiontool.errors import UsageError

if TYPE_CHECKING:
    from visiontool.inference.classifier import Classifier
    from visiontool.model.foreign import Description


@click.command(no_args_is_help=True)
@click.argument("a", metavar="A", shell_complete=options.complete_model)
@click.argument("b", metavar="B", shell_complete=options.complete_model)
@click.option("--on", type=click.Path(path_type=Path), metavar="DATA", help="Class folders, a folder or a picture.")
@click.option("--device", metavar="auto|cpu|cuda[:N]", help="Where both run.  [default: auto]")
@click.option("--device-a", metavar="DEVICE", help="Where A runs.")
@click.option("--device-b", metavar="DEVICE", help="Where B runs.")
@click.option("--provider-a", metavar="NAME", help="onnxruntime's provider that runs A: cpu, cuda, tensorrt ...")
@click.option("--provider-b", metavar="NAME", help="The same for B.")
@click.option("--offline", is_flag=True, help="Use no network, also where a model is not on this machine.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of the table.")
@click.option("-q", "--quiet", is_flag=True, help="No remarks on stderr; errors stay.")
@options.of_outside_files
def verify(
    a: str,
    b: str,
    on: Path | None,
    device: str | None,
    device_a: str | None,
    device_b: str | None,
    provider_a: str | None,
    provider_b: str | None,
    offline: bool,
    as_json: bool,
    quiet: bool,
    **said: Any,
) -> int:
    """Compare how two models answer.

    A and B are runs, networks, or .onnx files. Both get the same pictures, each prepared as its own file says: those of
    DATA, else those that a run was validated on, else the samples. Exit code 6 where B differs by more than its
    precision explains.

    \b
    visiontool verify runs/mydata mydata-int8.onnx
    visiontool verify resnet50 theirs.onnx --on photos/
    visiontool verify lenet5 lenet5 --device-a cpu --device-b cuda
    """
    if device is not None and (device_a, device_b) != (None, None):
        raise UsageError("--device is for both; leave it out, or --device-a and --device-b")

    from visiontool.cli.progress import Stages, only_ours_on_stderr
    from visiontool.cli.pull import obtain
    from visiontool.cli.render.comparison import show_comparison
    from visiontool.evaluation.compare import check, compare
    from visiontool.training.pictures import pictures_for, run_of

    paths = [Path(obtain(name, offline=offline, quiet=quiet) or "") for name in (a, b)]
    places = ((device_a or device, provider_a), (device_b or device, provider_b))
    models = _load(paths, places, options.description(said), quiet)
    run = next((folder for path in paths if (folder := run_of(path)) is not None), None)
    pictures = pictures_for(models[0].spec, run=run, on=on)
    with only_ours_on_stderr(), Stages({"compare": "Comparing"}, shown=not quiet) as stages:
        comparison = compare(*models, pictures, progress=stages.update)
    if as_json:
        click.echo(json_text(comparison.to_json(), indent=1))
    else:
        click.echo("\n".join(show_comparison(comparison)))
    check(*models, comparison)
    return 0


def _load(
    paths: Sequence[Path],
    places: Sequence[tuple[str | None, str | None]],
    said: "Description | None",
    quiet: bool,
) -> "tuple[Classifier, Classifier]":
    """The two models; what the user says is of those that say nothing themselves.

    Args:
        places: the device and the provider of each.
    """
    from visiontool.inference.classifier import Classifier
    from visiontool.model.scan import scan
    from visiontool.model.spec import MANIFEST_KEY

    is_outside = [MANIFEST_KEY not in scan(path).metadata for path in paths]
    if said is not None and not any(is_outside):
        raise UsageError(f"both files say this of themselves; leave out {', '.join(said.options())}")
    models = []
    for path, (device, provider), outside in zip(paths, places, is_outside, strict=True):
        description = said if outside else None
        model = Classifier.load(path, device=device or "auto", provider=provider, description=description)
        if model.assumed and not quiet:
            say(f"{path}: neither it nor you said, so taken: {', '.join(model.assumed)}.")
        models.append(model)
    return models[0], models[1]
