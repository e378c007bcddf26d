"""`visiontool verify`: whether a model answers as another does."""

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from visiontool.cli import options
from visiontool.cli.text import json_text, printable, shortened, wrapped
from visiontool.errors import UsageError
from visiontool.text import plural

if TYPE_CHECKING:
    from visiontool.evaluation.compare import Comparison

_KEY, _COLUMN = 12, 33  # characters, with a space between columns


@click.command(no_args_is_help=True)
@click.argument("a", metavar="A", shell_complete=options.complete_model)
@click.argument("b", metavar="B", shell_complete=options.complete_model)
@click.option("--on", type=options.PATH, metavar="DATA", help="Class folders, a folder or a picture.")
@click.option("--device", metavar="auto|cpu|cuda[:N]", help="Where both run.  [default: auto]")
@click.option("--device-a", metavar="DEVICE", help="Where A runs.")
@click.option("--device-b", metavar="DEVICE", help="Where B runs.")
@click.option("--provider-a", metavar="NAME", help="onnxruntime's provider that runs A: cpu, cuda, tensorrt ...")
@click.option("--provider-b", metavar="NAME", help="The same for B.")
@options.OFFLINE
@click.option("--json", "as_json", is_flag=True, help="JSON instead of the table.")
@options.QUIET
@options.foreign_model
def verify(**values: Any) -> int:
    """Compare how two models answer.

    A and B are runs, networks, or .onnx files. Both get the same pictures, each prepared as its own file says: those of
    DATA, else those that a run was validated on, else the samples. Exit code 6 where B differs by more than its
    precision explains.

    \b
    visiontool verify runs/mydata mydata-int8.onnx
    visiontool verify resnet50 theirs.onnx --on photos/
    visiontool verify lenet5 lenet5 --device-a cpu --device-b cuda
    """
    args = SimpleNamespace(**values)
    if args.device is not None and (args.device_a, args.device_b) != (None, None):
        raise UsageError("--device is for both; leave it out, or --device-a and --device-b")

    from visiontool.cli.progress import Stages, only_ours_on_stderr
    from visiontool.cli.pull import load_all
    from visiontool.evaluation.compare import check, compare
    from visiontool.training.pictures import pictures_for, run_of

    where = ((args.device_a, args.provider_a), (args.device_b, args.provider_b))
    hows = [{"device": device or args.device or "auto", "provider": provider} for device, provider in where]
    a, b = load_all((args.a, args.b), args, *hows, are_single=True)
    pictures = pictures_for(a.spec, run=run_of(a.path) or run_of(b.path), on=args.on)
    with only_ours_on_stderr(), Stages({"compare": "Comparing"}, enabled=not args.quiet) as stages:
        comparison = compare(a, b, pictures, progress=stages.update)
    if args.as_json:
        click.echo(json_text(comparison.to_json(), indent=1))
    else:
        click.echo("\n".join(comparison_lines(comparison)))
    check(a, b, comparison)
    return 0


def comparison_lines(comparison: "Comparison") -> list[str]:
    """Lines of at most 80 characters: the two models, by how much B differs and may differ, and what follows."""
    a, b = comparison.a, comparison.b
    left_out = f"; {comparison.unreadable:,} that cannot be read left out" if comparison.unreadable else ""
    rates = [f"{side.images_per_s:,.{1 if side.images_per_s < 100 else 0}f}" for side in (a, b)]
    indent = " " * (_KEY + 1)
    lines = [
        _line("", "A", "B"),
        _line("Model", *(shortened(side.name, _COLUMN) for side in (a, b))),
        _line("File", *(_relative(side.path) for side in (a, b))),
        _line("Runs as", *(f"{side.precision} on {side.device}" for side in (a, b))),
        _line("Size", *(f"{side.size_bytes / 1e6:,.1f} MB" for side in (a, b))),
        _line("Speed", *(f"{rate} pictures/s, network alone" for rate in rates)),
    ]
    if a.accuracy is not None and b.accuracy is not None:
        lines.append(_line("Accuracy", f"{a.accuracy:.1%}", f"{b.accuracy:.1%}"))
    lines += [
        "",
        *wrapped(f"{comparison.pictures:,}: {comparison.origin}{left_out}", f"{'Pictures':<{_KEY}} ", indent),
        _line("", "B differs by", "allowed"),
        *(_line(*row) for row in _differences(comparison)),
    ]
    if comparison.differs:
        lines += wrapped(_relative(comparison.worst), f"{'Worst':<{_KEY}} ", indent)
        lines += wrapped(f"A: {a.worst_answer}; B: {b.worst_answer}", indent, indent)
    faults = comparison.faults
    if not faults:
        return [*lines, "", "B answers as A does."]
    lines += ["", f"B does not answer as A does; {plural(len(faults), 'fault')}:"]
    return [*lines, *(line for fault in faults for line in wrapped(fault, "- "))]


def _differences(comparison: "Comparison") -> list[tuple[str, str, str]]:
    from visiontool.evaluation.compare.gates import FEW_CHANGED, MANY

    gate, cosine = comparison.gate, comparison.embedding_cosine
    if gate.agreement is None:
        changes = "none that A is sure of"
    elif comparison.pictures >= MANY:
        changes = f"{1 - gate.agreement:.1%}"
    else:
        changes = f"{FEW_CHANGED}, and none that A is sure of"
    rows = [
        ("Top-1", f"{comparison.changed:,} of {comparison.pictures:,}", changes),
        ("Probability", f"{comparison.max_probability_difference:.2g}", _bound(gate.probability)),
        ("Logit", f"{comparison.max_absolute:.2g}", _bound(comparison.max_absolute_allowed)),
        ("All logits", f"{comparison.relative_l2:.2g} of their size", _bound(gate.relative_l2)),
    ]
    if cosine is not None:
        allowed = None if gate.cosine is None else 1 - gate.cosine
        rows.append(("Embedding", f"{max(0.0, 1 - cosine):.2g} (1 - cosine)", _bound(allowed)))
    batches = ", ".join(map(str, comparison.batches))
    return [*rows, ("Batches", f"{comparison.batch_difference:.2g} (of {batches})", _bound(gate.batch))]


def _bound(value: float | None) -> str:
    return "any" if value is None else f"{value:.2g}"


def _line(key: str, *cells: str) -> str:
    columns = (shortened(printable(cell), _COLUMN, keep_end=True).ljust(_COLUMN) for cell in cells)
    return " ".join([key.ljust(_KEY), *columns]).rstrip()


def _relative(path: str) -> str:
    """The path from the working folder on, where that is shorter."""
    return min(path, os.path.relpath(path), key=len)
