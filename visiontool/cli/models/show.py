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
from visiontool.cli.text import columns, json_text, printable, say, shortened
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
    from visiontool.exporting.snippet import snippet as python_code

    if layers + snippet + as_json > 1:
        raise UsageError("--layers, --snippet and --json contradict each other; leave all but one out")
    facts = _find(model)
    if snippet:
        if facts.path is None:
            raise _no_file(facts, "that could be run")
        if facts.spec is None:  # the remark says what the file does not
            raise ModelError(facts.remark)
        click.echo(python_code(facts.spec, facts.path))
    elif layers:
        if facts.cost is None:
            raise _no_file(facts, "whose layers could be shown")
        click.echo("\n".join(_table(facts.cost)))
        if (params := _params(facts)) is not None and params > facts.cost.params:
            say(f"The network has {params:,} parameters: batch normalization is a part of the convolutions here.")
    else:
        click.echo(json_text(_json(facts), indent=1) if as_json else "\n".join(_lines(facts)))
    if facts.remark:
        say(facts.remark)
    return 0


class _ModelFacts(NamedTuple):
    name: str  # of what is not on this machine, the one to pull it by
    entry: "Entry | None"
    path: Path | None
    spec: "ModelSpec | None"
    cost: "Cost | None"
    remark: str = ""

    @property
    def macs(self) -> int | None:
        return self.cost.macs if self.cost else self.entry.macs if self.entry else None


def _find(model: str) -> _ModelFacts:
    from visiontool.graph.cost import stored
    from visiontool.graph.cost.layers import measure
    from visiontool.hub import resolve
    from visiontool.hub.listing import entry_of, manifest_of

    try:
        path = resolve.resolve(model)
    except (resolve.ModelNotPulled, resolve.ModelUntrained) as error:
        network = resolve.pullable(error.name)
        entry = network.entry
        if entry is not None and network.img_size is not None:  # nobody has counted or measured at that size
            size = (entry.input_size[0], network.img_size, network.img_size)
            entry = entry._replace(input_size=size, macs=None, top1=None)
        # The catalog counts MACs of other weights than a classic's own where they are of the same network.
        known = None if entry is None or entry.macs is None else stored(entry.architecture)
        return _ModelFacts(error.name, entry, None, None, known)
    spec, remark = manifest_of(path), ""
    if spec is None:
        from visiontool.inference.classifier import Classifier

        try:
            classifier = Classifier.load(path, device="cpu")
            spec, assumed = classifier.spec, ", ".join(classifier.assumed)
            remark = f"The file does not say, so assumed: {assumed}." if assumed else ""
        except ModelError as error:
            remark = str(error)
    measured = measure(path, size=spec.input.size if spec else None)
    return _ModelFacts(spec.name if spec else path.name, entry_of(spec), path, spec, measured, remark)


def _lines(facts: _ModelFacts) -> list[str]:
    classic = facts.entry.classic if facts.entry else None
    lines = [printable(facts.name)]
    if classic:
        lines += [f"{classic.family}, {classic.year}: {classic.title}", classic.paper]
        lines += [classic.note] if classic.note else []
    lines.append("")
    width = columns() if sys.stdout.isatty() else 100_000
    for key, value in _texts(facts).items():
        line = f"{key:<{_KEY_WIDTH}}{printable(value or '')}"
        if value:
            lines += [line] if key in _COPIED else textwrap.wrap(line, width, subsequent_indent=" " * _KEY_WIDTH)
    return lines


def _texts(facts: _ModelFacts) -> dict[str, str | None]:
    """The facts in words; empty or None where nothing is known."""
    from visiontool.hub.resolve import PACKAGE

    entry, spec, cost = facts.entry, facts.spec, facts.cost
    texts: dict[str, str | None] = {}
    texts["architecture"] = spec.architecture if spec else entry.architecture if entry else None
    license_, source = _weights(facts)
    source = f"from the package {source.removeprefix(PACKAGE)}" if source.startswith(PACKAGE) else source
    texts["weights"] = ", ".join(filter(None, (license_ or (source and "license not known"), source)))
    if spec is not None:
        texts["classes"] = f"{len(spec.labels):,}: {', '.join(spec.labels[:3])}{' ...' if len(spec.labels) > 3 else ''}"
        texts["input"] = _input(spec)
        texts["preprocessing"] = _preprocessing(spec, spec.input.size, spec.input.mean, spec.input.std)
        texts["resize"] = None if spec.resize == "host" else "a part of the graph"
    elif entry is not None:
        channels, height, width = entry.input_size
        texts["classes"] = f"{entry.classes:,}"
        texts["input"] = f"{height} x {width} pixels, {'gray' if channels == 1 else 'RGB'}"
        texts["preprocessing"] = _preprocessing(entry, (height, width), entry.mean, entry.std)
    params, macs = _params(facts), facts.macs
    texts["parameters"] = None if params is None else _amount(params)
    texts["MACs"] = None if macs is None else f"{_amount(macs)} (multiply-accumulates for one picture)"
    if cost is not None:
        if cost.activations is not None and cost.peak_activation_bytes is not None:
            peak = _bytes(cost.peak_activation_bytes)
            texts["activations"] = f"{_amount(cost.activations)} numbers; at most {peak} at once"
        if cost.receptive_field is not None:
            texts["receptive field"] = f"{cost.receptive_field:,} pixels, for each place of the last feature map"
    texts["accuracy"] = _accuracy(facts)
    if facts.path is not None:
        texts["file"] = f"{facts.path}, {_bytes(facts.path.stat().st_size)}"
    else:
        texts["size"] = None if cost is None else f"{_bytes(cost.size_bytes)} as a file"
        texts["file"], how, command = _missing(facts)
        texts[how] = command
    return texts


def _weights(facts: _ModelFacts) -> tuple[str, str]:
    """License and source of the weights; those in the file come before the catalog's."""
    own, entry = facts.spec.weights if facts.spec else {}, facts.entry
    license_ = own.get("license") or (entry.license if entry else "")
    return str(license_), str(own.get("source") or (entry.source if entry else ""))


def _input(spec: "ModelSpec") -> str:
    height, width = spec.input.size
    colors = "gray" if spec.input.color == "L" or len(spec.input.mean) == 1 < spec.input.channels else spec.input.color
    size = f"{height} x {width} pixels" if spec.resize == "host" else "any size"
    return f"{size}, {colors}, {spec.input.dtype}, {spec.input.layout}"


def _preprocessing(
    fit: "ModelSpec | Entry", size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]
) -> str:
    height, width = (math.floor(side / fit.crop_pct) for side in size)  # as transforms.scaled_size, without numpy
    resized = f"{height}" if height == width else f"{height} x {width}"
    means, stds = (", ".join(f"{number:g}" for number in numbers) for numbers in (mean, std))
    return f"resize to {resized}, {fit.interpolation}, {fit.crop_mode} crop; mean {means}; std {stds}"


def _params(facts: _ModelFacts) -> int | None:
    """The network's own count: in a file, batch normalization is part of the convolutions."""
    if facts.spec is not None and isinstance(count := facts.spec.weights.get("params"), int):
        return count
    if facts.entry is not None and facts.name in (facts.entry.name, facts.entry.architecture):
        return facts.entry.params
    return facts.cost.params if facts.cost else None


def _accuracy(facts: _ModelFacts) -> str | None:
    texts = []
    for record in facts.spec.accuracy if facts.spec else ():
        figures = [f"{name.replace('top', 'top-')} {record[name]:.1%}" for name in ("top1", "top5") if name in record]
        texts.append(f"{' '.join(figures)} on {record.get('dataset', '')}, {record.get('pictures', 0):,} pictures")
    if not texts and facts.entry is not None and facts.entry.top1 is not None:
        texts.append(f"top-1 {facts.entry.top1:.1f}% on ImageNet-1k, as published")
    return "; ".join(texts) or None


def _missing(facts: _ModelFacts) -> tuple[str, str, str]:
    """Why there is no file, and what to do about it: in a word, and as a command."""
    if facts.entry is not None and facts.entry.is_untrained:
        return "no weights are published", "run your own", "visiontool predict -m local-dir:FOLDER"
    return "not on this machine", "get it", f"visiontool models pull {facts.name}"


def _no_file(facts: _ModelFacts, purpose: str) -> ModelError:
    why, how, command = _missing(facts)
    return ModelError(f"{facts.name} has no file here {purpose}.\n{why[0].upper()}{why[1:]}; {how}: {command}")


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
    rows.insert(0, ("layer", "kind", "output", "parameters", "MACs", "field"))
    rows.append(("total", "", "", f"{cost.params:,}", "" if cost.macs is None else f"{cost.macs:,}", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if sys.stdout.isatty():
        others = sum(widths[1:]) + 2 * (len(widths) - 1)
        widths[0] = max(8, min(widths[0], columns() - others))
    lines = []
    for row in rows:
        formats = zip(row, "<<<>>>", widths, strict=True)
        cells = [f"{shortened(cell, width, keep_end=True):{align}{width}}" for cell, align, width in formats]
        lines.append("  ".join(cells).rstrip())
    return lines


def _amount(number: int) -> str:
    for name, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.2f} {name}"
    return str(number)


def _bytes(number: int) -> str:
    return f"{number / 1e6:,.1f} MB" if number >= 100_000 else f"{number / 1e3:,.1f} kB"


def _json(facts: _ModelFacts) -> dict[str, Any]:
    from visiontool.hub.listing import facts_of, facts_of_spec

    license_, source = _weights(facts)
    cost = None
    if facts.cost is not None:
        cost = {key: value for key, value in asdict(facts.cost).items() if key != "size_bytes"}  # "path" is of the file
    return {
        "name": facts.name,
        **facts_of(facts.entry),
        **(facts_of_spec(facts.spec) if facts.spec else {}),
        "license": license_,
        "source": source,
        "params": _params(facts),
        "macs": facts.macs,
        "path": str(facts.path) if facts.path else None,
        "manifest": json.loads(facts.spec.to_json()) if facts.spec else None,
        "cost": cost,
    }
