"""What `visiontool models` lists: a row for each network, with its facts and whether it is on this machine."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from visiontool.errors import ModelError
from visiontool.hub import cache, catalog, resolve
from visiontool.hub.catalog import Entry
from visiontool.hub.classics import default_weights
from visiontool.model.scan import scan
from visiontool.model.spec import MANIFEST_KEY, ModelSpec
from visiontool.text import on_one_line

_FIGURES = ("year", "params", "macs", "top1", "license")
_NUMBERS = "{year:>4} {params:>7} {macs:>6} {top1:>5}  {license:<12}"
_HEAD = _NUMBERS.format(year="year", params="params", macs="GMACs", top1="top-1", license="license").rstrip()
_NUMBERS_WIDTH = 39
_LONGEST_LICENSE = 16  # the row has it whole
_MARKS = ("default", "built_in", "installed", "cached", "untrained", "damaged")
_MARKS_WIDTH = 18
_ENTRY_FACTS = (
    *("library", "license", "params", "macs", "input_size", "interpolation", "crop_mode", "crop_pct"),
    *("mean", "std", "classes", "top1", "source"),
)


class Models(list[dict[str, Any]]):
    """A list of rows that shows itself as a table."""

    def __repr__(self) -> str:
        return "\n".join(table(self, columns=200))


def models(
    filter: str = "",
    *,
    all: bool = False,
    cached: bool = False,
    license: str | None = None,
    max_params: int | None = None,
) -> Models:
    """The models that have a name: what `visiontool models` lists, a row each with the fields of its --json.

    Args:
        filter: looks in names, families and titles, of every name that timm and torchvision know; without it the
            classics are listed, oldest first, and what is on this machine.
        all: lists every name.
        cached: only what is on this machine.
        license: only weights of that license (SPDX), or "permissive" for those that allow all use.
        max_params: only networks of at most so many parameters.

    Raises:
        ModelError: no model fits.
    """
    rows = Models(row for row in _rows(filter, all) if _fits(row, cached, license, max_params))
    if not rows:
        has_options = cached or license is not None or max_params is not None
        asked = " and ".join([*([repr(filter)] if filter else []), *(["these options"] if has_options else [])])
        near = "" if has_options else catalog.nearest(filter)
        raise ModelError(f"no model fits {asked}.{near}\nAll names: visiontool models --all")
    return rows


def table(rows: Sequence[dict[str, Any]], columns: int = 80, *, on_terminal: bool = False) -> Iterator[str]:
    """A heading, and a line a row; on a terminal two where the name leaves no room for the numbers."""
    # The column of names is as wide as the longest, if the numbers leave so much.
    longest = max((len(row["name"]) for row in rows), default=0)
    width = max(4, min(longest, columns - _NUMBERS_WIDTH - _MARKS_WIDTH - 2))
    yield f"{'name':<{width}} {_HEAD}"
    for row in rows:
        numbers = _NUMBERS.format(**{key: _cell(key, row[key]) for key in _FIGURES})
        marks = ", ".join(mark.replace("_", "-") for mark in _MARKS if row[mark])
        above = f"{row['name']}\n" if len(row["name"]) > width and on_terminal else ""
        yield above + f"{'' if above else row['name']:<{width}} {numbers} {marks}".rstrip()


def _cell(key: str, value: Any) -> str:
    if value in (None, ""):
        return "-"
    if key == "params":
        return f"{value / 1e6:.2f}M" if value < 10e6 else f"{value / 1e6:.1f}M"
    if key == "macs":
        return f"{value / 1e9:.2f}" if value >= 10e6 else f"{value / 1e9:.4f}"
    if key == "top1":
        return f"{value:.1f}"
    text = on_one_line(str(value))
    return text if len(text) <= _LONGEST_LICENSE else f"{text[: _LONGEST_LICENSE - 1]}…"


def _fits(row: dict[str, Any], cached: bool, license: str | None, max_params: int | None) -> bool:
    if cached and not (row["cached"] or row["built_in"] or row["installed"]):
        return False
    if license is not None:
        own = row["license"] or ""
        if not (catalog.is_permissive(own) if license == "permissive" else own == license.lower()):
            return False
    return max_params is None or (row["params"] is not None and row["params"] <= max_params)


def _rows(text: str, everything: bool) -> Iterator[dict[str, Any]]:
    """The rows that `text` fits: what only this machine has, then what the catalog has."""
    built_in = set(resolve.built_in_names())
    cached = {model.name for model in cache.all_cached()}
    default = ""
    with suppress(ModelError):  # its file is damaged
        default = resolve.default_model()
        default = default_weights(default) or default  # an alias
    short_names = {entry.name: entry.architecture for entry in catalog.classics()}

    def row(name: str, entry: Entry | None) -> dict[str, Any]:
        names = {name, entry.name} if entry else {name}
        marks = {
            "default": default in names,
            "built_in": name in built_in,
            "installed": not names & cached and entry is not None and _is_installed(entry),
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
        return {"name": name, **facts, **marks}

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


def _is_installed(entry: Entry) -> bool:
    """Whether the weights are in a package on this machine, so that the model is made of them at its first use."""
    from visiontool.hub.sources import packaged_file

    with suppress(ModelError):
        return entry.source.startswith(resolve.PACKAGE) and packaged_file(entry.source).is_file()
    return False


def manifest_of(path: Path) -> ModelSpec | None:
    """The manifest in a model file; None where it has none."""
    text = scan(path).metadata.get(MANIFEST_KEY)
    return None if text is None else ModelSpec.from_json(text)


def entry_of(spec: ModelSpec | None) -> Entry | None:
    """The catalog's entry of the network in a file, without what is of the published weights where it has others."""
    for name in () if spec is None else (spec.name, spec.architecture):
        with suppress(ModelError):
            entry = catalog.find(name)
            is_published = spec is not None and entry.name == spec.name
            return entry if is_published else entry._replace(tag="", license="", source="", macs=None, top1=None)
    return None


def facts_of_spec(spec: ModelSpec) -> dict[str, Any]:
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


def facts_of(entry: Entry | None) -> dict[str, Any]:
    """The facts in the catalog, each None where it has none."""
    classic = entry.classic if entry else None
    return {
        **{name: getattr(entry, name, None) for name in ("architecture", "tag")},
        **{name: getattr(classic, name, None) for name in ("family", "year", "title", "paper")},
        **{name: getattr(entry, name, None) for name in _ENTRY_FACTS},
    }
