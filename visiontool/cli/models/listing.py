"""`visiontool models list`: one line a network."""

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from visiontool.cli import options
from visiontool.cli.text import columns, printable, say
from visiontool.errors import ModelError

if TYPE_CHECKING:
    from visiontool.hub.catalog import Entry
    from visiontool.model.spec import ModelSpec

_NUMBERS = "{year:>4} {params:>7} {macs:>6} {top1:>5}  {license:<12}"
_HEAD = _NUMBERS.format(year="year", params="params", macs="GMACs", top1="top-1", license="license").rstrip()
_NUMBERS_WIDTH = 39
_LONGEST_LICENSE = 16  # --json has them whole
_MARKS_WIDTH = 17


@click.command("list")
@click.argument("text", metavar="[FILTER]", default="")
@click.option("--all", "everything", is_flag=True, help="Every name that timm and torchvision know.")
@click.option("--cached", is_flag=True, help="Only what is on this machine.")
@click.option(
    "--license", "license_", metavar="NAME|permissive", help="Weights of that license, or of any that allows all use."
)
@click.option("--max-params", callback=options.amount(1000), metavar="N", help="At most N parameters, such as 5M.")
@click.option("--json", "as_json", is_flag=True, help="JSON, with all that is known.")
def list_models(
    text: str, everything: bool, cached: bool, license_: str | None, max_params: int | None, as_json: bool
) -> int:
    """List the classics, or what FILTER fits.

    FILTER looks in names, families and titles, of every name that timm and torchvision know. Without it the classics
    are listed, oldest first, and what is on this machine.

    Parameters in millions, multiply-accumulates (MACs) in billions at the usual input size, ImageNet-1k top-1 in
    percent as published for these weights.
    """
    rows = [row for row in _rows(text, everything) if _is_wanted(row, cached, license_, max_params)]
    if not rows:
        raise _nothing_fits(text, has_options=cached or license_ is not None or max_params is not None)
    if as_json:
        click.echo("[" + ",\n ".join(json.dumps(row.as_json()) for row in rows) + "]")
        return 0
    width = _width(rows)
    click.echo(f"{'name':<{width}} {_HEAD}")
    for row in rows:
        for line in row.lines(width):
            click.echo(line)
    if not (text or everything or cached):
        say("More: visiontool models --all, or visiontool models FILTER.\nWhat one is: visiontool models show NAME")
    return 0


def _nothing_fits(text: str, has_options: bool) -> ModelError:
    from visiontool.hub import catalog

    wanted = " and ".join([*([repr(text)] if text else []), *(["these options"] if has_options else [])])
    return ModelError(
        f"no model fits {wanted}.{'' if has_options else catalog.nearest(text)}\nAll names: visiontool models --all"
    )


class _Row(NamedTuple):
    """A network in the list."""

    name: str
    facts: dict[str, Any]
    marks: dict[str, bool]

    def lines(self, width: int) -> Iterator[str]:
        """One line, or on a terminal two where the name leaves no room for the numbers."""
        numbers = _NUMBERS.format(**{key: self._shown(key) for key in ("year", "params", "macs", "top1", "license")})
        marks = ", ".join(mark for mark, is_set in self.marks.items() if is_set)
        if len(self.name) > width and sys.stdout.isatty():
            yield self.name
            yield f"{'':<{width}} {numbers} {marks}".rstrip()
        else:
            yield f"{self.name:<{width}} {numbers} {marks}".rstrip()

    def _shown(self, key: str) -> str:
        value = self.facts[key]
        if value in (None, ""):
            return "-"
        if key == "params":
            return f"{value / 1e6:.2f}M" if value < 10e6 else f"{value / 1e6:.1f}M"
        if key == "macs":
            return f"{value / 1e9:.2f}" if value >= 10e6 else f"{value / 1e9:.4f}"
        if key == "top1":
            return f"{value:.1f}"
        text = printable(str(value))
        return text if len(text) <= _LONGEST_LICENSE else f"{text[: _LONGEST_LICENSE - 1]}…"

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            **self.facts,
            **{mark.replace("-", "_"): is_set for mark, is_set in self.marks.items()},
        }


def _rows(text: str, everything: bool) -> Iterator[_Row]:
    """The rows that `text` fits: what only this machine has, then what the catalog has."""
    from visiontool.hub import cache, catalog, resolve

    built_in = set(resolve.built_in_names())
    here = {model.name for model in cache.all_cached()}
    default = ""
    with suppress(ModelError):  # its file is damaged
        default = resolve.default_model()
    short = {entry.name: entry.architecture for entry in catalog.classics()}

    def row(name: str, entry: "Entry | None") -> _Row:
        names = {name, entry.name} if entry else {name}
        marks = {
            "default": default in names,
            "built-in": name in built_in,
            "cached": bool(names & here),
            "untrained": entry is not None and entry.is_untrained,
            "damaged": False,
        }
        facts = facts_of(entry)
        if names & (here | built_in):
            try:
                path = resolve.resolve(entry.name if entry else name)
                facts |= {} if entry else _facts_of_file(path)
            except ModelError:
                marks["damaged"] = True
        return _Row(name, facts, marks)

    known = list(catalog.search(text) if text else catalog.entries() if everything else catalog.classics())
    listed = {name for entry in known for name in (entry.name, entry.architecture)}
    for name in sorted(built_in | here):
        if name not in listed and text.lower() in name.lower():
            try:
                yield row(name, catalog.find(name))
            except ModelError:  # another size or other weights than the published ones
                yield row(name, None)
    for entry in known:
        yield row(short.get(entry.name, entry.name), entry)


def _facts_of_file(path: Path) -> dict[str, Any]:
    """What a model file of ours says of itself, and what is known of its network, of what the list shows."""
    from visiontool.model.scan import scan
    from visiontool.model.spec import MANIFEST_KEY, ModelSpec

    spec = ModelSpec.from_json(scan(path).metadata[MANIFEST_KEY])
    return facts_of(entry_of(spec)) | facts_of_spec(spec)


def entry_of(spec: "ModelSpec") -> "Entry | None":
    """What the catalog knows of the network in a file; of other weights than the published ones, no more than that."""
    from visiontool.hub import catalog

    for name in (spec.name, spec.architecture):
        with suppress(ModelError):
            entry = catalog.find(name)
            if entry.name == spec.name:
                return entry
            return entry._replace(tag="", license="", source="", macs=None, top1=None)
    return None


def facts_of_spec(spec: "ModelSpec") -> dict[str, Any]:
    """What a file says of itself; comes before what the catalog knows of its network."""
    return {
        "architecture": spec.architecture,
        "license": spec.weights.get("license"),
        "params": spec.weights.get("params"),
        "input_size": (len(spec.input.mean), *spec.input.size),
        "interpolation": spec.interpolation,
        "crop_mode": spec.crop_mode,
        "crop_pct": spec.crop_pct,
        "mean": spec.input.mean,
        "std": spec.input.std,
        "classes": len(spec.labels),
        "source": spec.weights.get("source"),
    }


def facts_of(entry: "Entry | None") -> dict[str, Any]:
    classic = entry.classic if entry else None
    return {
        "architecture": entry.architecture if entry else None,
        "tag": entry.tag if entry else None,
        "family": classic.family if classic else None,
        "year": classic.year if classic else None,
        "title": classic.title if classic else None,
        "paper": classic.paper if classic else None,
        "library": entry.library if entry else None,
        "license": entry.license if entry else None,
        "params": entry.params if entry else None,
        "macs": entry.macs if entry else None,
        "input_size": entry.input_size if entry else None,
        "interpolation": entry.interpolation if entry else None,
        "crop_mode": entry.crop_mode if entry else None,
        "crop_pct": entry.crop_pct if entry else None,
        "mean": entry.mean if entry else None,
        "std": entry.std if entry else None,
        "classes": entry.classes if entry else None,
        "top1": entry.top1 if entry else None,
        "source": entry.source if entry else None,
    }


def _is_wanted(row: _Row, cached: bool, license_: str | None, max_params: int | None) -> bool:
    if cached and not (row.marks["cached"] or row.marks["built-in"]):
        return False
    if license_ is not None:
        from visiontool.hub.catalog import is_permissive

        has = row.facts["license"] or ""
        if not (is_permissive(has) if license_ == "permissive" else has == license_.lower()):
            return False
    return max_params is None or (row.facts["params"] is not None and row.facts["params"] <= max_params)


def _width(rows: list[_Row]) -> int:
    """Of the column of names: as wide as the longest, if the numbers leave so much."""
    return max(4, min(max(len(row.name) for row in rows), columns() - _NUMBERS_WIDTH - _MARKS_WIDTH - 2))
