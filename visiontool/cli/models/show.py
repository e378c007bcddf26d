"""`visiontool models show`: what one network is, what it costs, its layers, and how to run it without visiontool."""

import json
import math
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from visiontool.cli import options
from visiontool.cli.models.listing import entry_of, facts_of, facts_of_spec
from visiontool.cli.text import columns, json_text, printable, say
from visiontool.errors import ModelError, UsageError

if TYPE_CHECKING:
    from visiontool.graph.cost import Cost
    from visiontool.hub.catalog import Entry
    from visiontool.model.spec import ModelSpec

_KEY_WIDTH = 17
_COPIED = {"file", "get it", "run your own"}  # a path or a command in two lines could not be copied


@click.command(no_args_is_help=True)
@click.argument("model", metavar="NAME|FILE|RUN", shell_complete=options.complete_model)
@click.option("--layers", is_flag=True, help="The table of layers.")
@click.option("--snippet", is_flag=True, help="Ten lines of Python that run the file without visiontool.")
@click.option("--json", "as_json", is_flag=True, help="JSON, with the layers.")
def show(model: str, layers: bool, snippet: bool, as_json: bool) -> int:
    """Show what a network is and what it costs.

    NAME is any name of the list; a file or a run folder is shown without torch.

    \b
    visiontool models show vgg16
    visiontool models show lenet5 --layers
    visiontool models show model.onnx --snippet
    """
    if layers + snippet + as_json > 1:
        raise UsageError("--layers, --snippet and --json contradict each other; leave all but one out")
    shown = _find(model)
    if snippet:
        from visiontool.export.snippet import snippet as lines

        if shown.path is None:
            raise ModelError(f"{shown.name} has no file here that could be run.\n{_way_to_file(shown)}")
        if shown.spec is None:  # the remark says what the file does not
            raise ModelError("\n".join(shown.remarks))
        click.echo(lines(shown.spec, shown.path))
    elif layers:
        if shown.cost is None:
            raise ModelError(f"{shown.name} has no file here whose layers could be shown.\n{_way_to_file(shown)}")
        click.echo("\n".join(_table(shown.cost)))
        if (params := _params(shown)) is not None and params > shown.cost.params:
            say(f"The network has {params:,} parameters: batch normalization is a part of the convolutions here.")
    elif as_json:
        click.echo(json_text(_json(shown), indent=1))
    else:
        click.echo("\n".join(_lines(shown)))
    for remark in shown.remarks:
        say(remark)
    return 0


class _Shown(NamedTuple):
    """All that is known of a network; what is not, is None."""

    name: str  # of what is not on this machine, the one to pull it by
    entry: "Entry | None"
    path: Path | None
    spec: "ModelSpec | None"
    cost: "Cost | None"
    remarks: tuple[str, ...] = ()


def _find(model: str) -> _Shown:
    from visiontool.graph.cost import stored
    from visiontool.graph.cost.layers import measure
    from visiontool.hub import resolve
    from visiontool.hub.naming import pullable

    try:
        path = resolve.resolve(model)
    except (resolve.ModelNotPulled, resolve.ModelUntrained) as error:
        wanted = pullable(error.name)
        entry = wanted.entry
        if entry is not None and wanted.img_size is not None:  # nobody has counted or measured at that size
            size = (entry.input_size[0], wanted.img_size, wanted.img_size)
            entry = entry._replace(input_size=size, macs=None, top1=None)
        # The catalog counts MACs of other weights than a classic's own where they are of the same network.
        known = None if entry is None or entry.macs is None else stored(entry.architecture)
        return _Shown(error.name, entry, None, None, known)
    spec, remark = _spec_of(path)
    measured = measure(path, size=spec.input.size if spec else None)
    name = spec.name if spec else path.name
    return _Shown(name, entry_of(spec) if spec else None, path, spec, measured, (remark,) if remark else ())


def _spec_of(path: Path) -> "tuple[ModelSpec | None, str]":
    """What a file says of itself, and what it does not, as a remark."""
    from visiontool.inference.classifier import Classifier
    from visiontool.model.scan import scan
    from visiontool.model.spec import MANIFEST_KEY, ModelSpec

    manifest = scan(path).metadata.get(MANIFEST_KEY)
    if manifest is not None:
        return ModelSpec.from_json(manifest), ""
    try:
        classifier = Classifier.load(path, device="cpu")
    except ModelError as error:
        return None, str(error)
    return (
        classifier.spec,
        f"The file does not say, so taken: {', '.join(classifier.assumed)}." if classifier.assumed else "",
    )


def _lines(shown: _Shown) -> list[str]:
    classic = shown.entry.classic if shown.entry else None
    lines = [printable(shown.name)]
    if classic:
        lines += [f"{classic.family}, {classic.year}: {classic.title}", classic.paper]
        lines += [classic.note] if classic.note else []
    lines.append("")
    width = columns() if sys.stdout.isatty() else 100_000
    for key, value in _facts(shown).items():
        line = f"{key:<{_KEY_WIDTH}}{printable(value)}"
        lines += [line] if key in _COPIED else textwrap.wrap(line, width, subsequent_indent=" " * _KEY_WIDTH)
    return lines


def _facts(shown: _Shown) -> dict[str, str]:
    """What there is to say, in words."""
    entry, spec, cost = shown.entry, shown.spec, shown.cost
    facts: dict[str, str | None] = {}
    facts["architecture"] = spec.architecture if spec else entry.architecture if entry else None
    license_, source = _weights(shown)
    facts["weights"] = ", ".join(filter(None, (license_ or (source and "license not known"), source)))
    if spec is not None:
        facts["classes"] = f"{len(spec.labels):,}: {', '.join(spec.labels[:3])}{' ...' if len(spec.labels) > 3 else ''}"
        facts["input"] = _input(spec)
        facts["preprocessing"] = _preprocessing(spec, spec.input.size, spec.input.mean, spec.input.std)
        facts["resize"] = None if spec.resize == "host" else "a part of the graph"
    elif entry is not None:
        channels, height, width = entry.input_size
        facts["classes"] = f"{entry.classes:,}"
        facts["input"] = f"{height} x {width} pixels, {'gray' if channels == 1 else 'RGB'}"
        facts["preprocessing"] = _preprocessing(entry, (height, width), entry.mean, entry.std)
    params, macs = _params(shown), _macs(shown)
    facts["parameters"] = None if params is None else _amount(params)
    facts["MACs"] = None if macs is None else f"{_amount(macs)} (multiply-accumulates for one picture)"
    if cost is not None:
        if cost.activations is not None and cost.peak_activation_bytes is not None:
            facts["activations"] = (
                f"{_amount(cost.activations)} numbers; at most {_bytes(cost.peak_activation_bytes)} at once"
            )
        facts["receptive field"] = (
            None
            if cost.receptive_field is None
            else f"{cost.receptive_field:,} pixels, for each place of the last feature map"
        )
    facts["accuracy"] = _accuracy(shown)
    if shown.path is not None:
        facts["file"] = f"{shown.path}, {_bytes(shown.path.stat().st_size)}"
    else:
        facts["size"] = None if cost is None else f"{_bytes(cost.size_bytes)} as a file"
        facts["file"], (how, command) = _missing(shown)
        facts[how] = command
    return {key: value for key, value in facts.items() if value}


def _weights(shown: _Shown) -> tuple[str, str]:
    """License and source of the weights, by the file's word before the catalog's."""
    said, entry = shown.spec.weights if shown.spec else {}, shown.entry
    license_ = said.get("license") or (entry.license if entry else "")
    return str(license_), str(said.get("source") or (entry.source if entry else ""))


def _input(spec: "ModelSpec") -> str:
    height, width = spec.input.size
    colors = "gray" if spec.input.color == "L" or len(spec.input.mean) == 1 < spec.input.channels else spec.input.color
    size = f"{height} x {width} pixels" if spec.resize == "host" else "any size"
    return f"{size}, {colors}, {spec.input.dtype}, {spec.input.layout}"


def _preprocessing(
    says: "ModelSpec | Entry", size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]
) -> str:
    height, width = (math.floor(side / says.crop_pct) for side in size)  # as preprocess.scaled_size, without numpy
    resized = f"{height}" if height == width else f"{height} x {width}"
    means, stds = (", ".join(f"{number:g}" for number in numbers) for numbers in (mean, std))
    return f"resize to {resized}, {says.interpolation}, {says.crop_mode} crop; mean {means}; std {stds}"


def _params(shown: _Shown) -> int | None:
    """The network's own count: in a file, batch normalization is part of the convolutions."""
    if shown.spec is not None and isinstance(count := shown.spec.weights.get("params"), int):
        return count
    if shown.entry is not None and shown.name in (shown.entry.name, shown.entry.architecture):
        return shown.entry.params
    return shown.cost.params if shown.cost else None


def _macs(shown: _Shown) -> int | None:
    return shown.cost.macs if shown.cost else shown.entry.macs if shown.entry else None


def _accuracy(shown: _Shown) -> str | None:
    parts = []
    for said in shown.spec.accuracy if shown.spec else ():
        figures = [f"{name.replace('top', 'top-')} {said[name]:.1%}" for name in ("top1", "top5") if name in said]
        parts.append(f"{' '.join(figures)} on {said.get('dataset', '')}, {said.get('pictures', 0):,} pictures")
    if not parts and shown.entry is not None and shown.entry.top1 is not None:
        parts.append(f"top-1 {shown.entry.top1:.1f}% on ImageNet-1k, as published")
    return "; ".join(parts) or None


def _missing(shown: _Shown) -> tuple[str, tuple[str, str]]:
    """Why there is no file, and what to do about it: in a word, and as a command."""
    if shown.entry is not None and shown.entry.is_untrained:
        return "no weights are published", ("run your own", "visiontool predict -m local-dir:FOLDER")
    return "not on this machine", ("get it", f"visiontool models pull {shown.name}")


def _way_to_file(shown: _Shown) -> str:
    why, (how, command) = _missing(shown)
    return f"{why[0].upper()}{why[1:]}; {how}: {command}"


def _table(cost: "Cost") -> list[str]:
    """The textbook's table. In a terminal of 80 columns long names lose their beginning."""
    rows = [
        (
            printable(layer.name),
            printable(layer.kind),
            "x".join(map(str, layer.output_shape or ())),
            f"{layer.params:,}" if layer.params else "",
            f"{layer.macs:,}" if layer.macs else "",
            "" if layer.receptive_field is None else str(layer.receptive_field),
        )
        for layer in cost.layers
    ]
    rows.append(("total", "", "", f"{cost.params:,}", "" if cost.macs is None else f"{cost.macs:,}", ""))
    head = ("layer", "kind", "output", "parameters", "MACs", "field")
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    if sys.stdout.isatty():
        others = sum(widths[1:]) + 2 * (len(widths) - 1)
        widths[0] = max(8, min(widths[0], columns() - others))
    return [
        "  ".join(
            f"{_fitted(cell, width):<{width}}" if column < 3 else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]


def _fitted(text: str, width: int) -> str:
    return text if len(text) <= width else f"…{text[len(text) - width + 1 :]}"


def _amount(number: int) -> str:
    for name, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.2f} {name}"
    return str(number)


def _bytes(number: int) -> str:
    return f"{number / 1e6:,.1f} MB" if number >= 100_000 else f"{number / 1e3:,.1f} kB"


def _json(shown: _Shown) -> dict[str, Any]:
    cost = shown.cost
    license_, source = _weights(shown)
    return {
        "name": shown.name,
        **facts_of(shown.entry),
        **(facts_of_spec(shown.spec) if shown.spec else {}),
        "license": license_,
        "source": source,
        "params": _params(shown),
        "macs": _macs(shown),
        "path": str(shown.path) if shown.path else None,
        "manifest": json.loads(shown.spec.to_json()) if shown.spec else None,
        "cost": None
        if cost is None
        else {
            "params": cost.params,
            "macs": cost.macs,
            "activations": cost.activations,
            "peak_activation_bytes": cost.peak_activation_bytes,
            "receptive_field": cost.receptive_field,
            "layers": [asdict(layer) for layer in cost.layers],
        },
    }
