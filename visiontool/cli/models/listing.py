"""`visiontool models list`: one line a network."""

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from visiontool.cli import options
from visiontool.cli.text import columns, printable, say, shortened
from visiontool.errors import ModelError

if TYPE_CHECKING:
    from visiontool.hub.catalog import Entry
    from visiontool.model.spec import ModelSpec

_NUMBERS = "{year:>4} {params:>7} {macs:>6} {top1:>5}  {license:<12}"
_HEAD = _NUMBERS.format(year="year", params="params", macs="GMACs", top1="top-1", license="license").rstrip()
_NUMBERS_WIDTH = 39
_LONGEST_LICENSE = 16  # --json has them whole
_MARKS_WIDTH = 17
_ENTRY_FACTS = (
    *("library", "license", "params", "macs", "input_size", "interpolation", "crop_mode", "crop_pct"),
    *("mean", "std", "classes", "top1", "source"),
)


@click.command("list")
@click.argument("text", metavar="[FILTER]", default="")
@click.option("--all", "everything", is_flag=True, help="Every name that timm and torchvision know.")
@click.option("--cached", is_flag=True, help="Only what is on this machine.")
@click.option(
    "--license", "license_", metavar="NAME|permissive", help="Weights of that license, or of any that allows all use."
)
@click.option("--max-params", type=options.amount(), metavar="N", help="At most N parameters, such as 5M.")
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
    rows = [row for row in _rows(text, everything) if row.fits(cached, license_, max_params)]
    if not rows:
        from visiontool.hub import catalog

        has_options = cached or license_ is not None or max_params is not None
        asked = " and ".join([*([repr(text)] if text else []), *(["these options"] if has_options else [])])
        near = "" if has_options else catalog.nearest(text)
        raise ModelError(f"no model fits {asked}.{near}\nAll names: visiontool models --all")
    if as_json:
        facts = [{"name": row.name, **row.facts, **row.marks} for row in rows]
        click.echo("[" + ",\n ".join(map(json.dumps, facts)) + "]")
        return 0
    # The column of names is as wide as the longest, if the numbers leave so much.
    width = max(4, min(max(len(row.name) for row in rows), columns() - _NUMBERS_WIDTH - _MARKS_WIDTH - 2))
    click.echo(f"{'name':<{width}} {_HEAD}")
    for row in rows:
        click.echo(row.line(width))
    if not (text or everything or cached):
        say("More: visiontool models --all, or visiontool models FILTER.\nWhat one is: visiontool models show NAME")
    return 0


class _Row(NamedTuple):
    name: str
    facts: dict[str, Any]
    marks: dict[str, bool]

    def fits(self, cached: bool, license_: str | None, max_params: int | None) -> bool:
        if cached and not (self.marks["cached"] or self.marks["built_in"]):
            return False
        if license_ is not None:
            from visiontool.hub.catalog import is_permissive

            own = self.facts["license"] or ""
            if not (is_permissive(own) if license_ == "permissive" else own == license_.lower()):
                return False
        return max_params is None or (self.facts["params"] is not None and self.facts["params"] <= max_params)

    def line(self, width: int) -> str:
        """One line, or on a terminal two where the name leaves no room for the numbers."""
        numbers = _NUMBERS.format(**{key: self._cell(key) for key in ("year", "params", "macs", "top1", "license")})
        marks = ", ".join(mark.replace("_", "-") for mark, is_set in self.marks.items() if is_set)
        above = f"{self.name}\n" if len(self.name) > width and sys.stdout.isatty() else ""
        return above + f"{'' if above else self.name:<{width}} {numbers} {marks}".rstrip()

    def _cell(self, key: str) -> str:
        value = self.facts[key]
        if value in (None, ""):
            return "-"
        if key == "params":
            return f"{value / 1e6:.2f}M" if value < 10e6 else f"{value / 1e6:.1f}M"
        if key == "macs":
            return f"{value / 1e9:.2f}" if value >= 10e6 else f"{value / 1e9:.4f}"
        return f"{value:.1f}" if key == "top1" else shortened(printable(str(value)), _LONGEST_LICENSE)


def _rows(text: str, everything: bool) -> Iterator[_Row]:
    """The rows that `text` fits: what only this machine has, then what the catalog has."""
    from visiontool.hub import cache, catalog, resolve

    built_in = set(resolve.built_in_names())
    cached = {model.name for model in cache.all_cached()}
    default = ""
    with suppress(ModelError):  # its file is damaged
        default = resolve.default_model()
    short_names = {entry.name: entry.architecture for entry in catalog.classics()}

    def row(name: str, entry: "Entry | None") -> _Row:
        names = {name, entry.name} if entry else {name}
        marks = {
            "default": default in names,
            "built_in": name in built_in,
            "cached": bool(names & cached),
            "untrained": entry is not None and entry.is_untrained,
            "damaged": False,
        }
        facts = facts_of(entry)
        if names & (cached | built_in):
            try:
                path = resolve.resolve(entry.name if entry else name)
                if entry is None:
                    spec = manifest_of(path)
                    facts |= facts_of(entry_of(spec)) | facts_of_spec(spec) if spec else {}
            except ModelError:
                marks["damaged"] = True
        return _Row(name, facts, marks)

    entries = list(catalog.search(text) if text else catalog.entries() if everything else catalog.classics())
    listed = {name for entry in entries for name in (entry.name, entry.architecture)}
    for name in sorted(built_in | cached):
        if name not in listed and text.lower() in name.lower():
            try:
                yield row(name, catalog.find(name))
            except ModelError:  # another size or other weights than the published ones
                yield row(name, None)
    for entry in entries:
        yield row(short_names.get(entry.name, entry.name), entry)


def manifest_of(path: Path) -> "ModelSpec | None":
    """The manifest in a model file; None where it has none."""
    from visiontool.model.scan import scan
    from visiontool.model.spec import MANIFEST_KEY, ModelSpec

    text = scan(path).metadata.get(MANIFEST_KEY)
    return None if text is None else ModelSpec.from_json(text)


def entry_of(spec: "ModelSpec | None") -> "Entry | None":
    """The catalog's entry of the network in a file, without what is of the published weights where it has others."""
    from visiontool.hub import catalog

    for name in () if spec is None else (spec.name, spec.architecture):
        with suppress(ModelError):
            entry = catalog.find(name)
            is_published = spec is not None and entry.name == spec.name
            return entry if is_published else entry._replace(tag="", license="", source="", macs=None, top1=None)
    return None


def facts_of_spec(spec: "ModelSpec") -> dict[str, Any]:
    """The facts in a file's manifest; they come before those of the catalog."""
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
    """The facts in the catalog, each None where it has none."""
    classic = entry.classic if entry else None
    return {
        **{name: getattr(entry, name, None) for name in ("architecture", "tag")},
        **{name: getattr(classic, name, None) for name in ("family", "year", "title", "paper")},
        **{name: getattr(entry, name, None) for name in _ENTRY_FACTS},
    }
