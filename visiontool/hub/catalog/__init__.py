"""Every model that has a name: the classics with their published facts, and all else that timm and torchvision know.

names.csv has all names of timm, torchvision and this project; classics.csv the rows of the classics' default weights,
so that names.csv, which is 20 times as large, stays closed. No field has a comma or a quote in it, so the module csv,
whose import costs as much as the search, is not needed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from visiontool.errors import ModelError, closest
from visiontool.hub.classics import architecture_of, fold, papers, split_tag

NAMES, CLASSICS = (Path(__file__).with_name(name) for name in ("names.csv", "classics.csv"))
COLUMNS = "name,library,license,params,macs,input,interpolation,crop_mode,crop_pct,mean,std,classes,source,sha256"
_MAX_NAMES = 12  # that a message lists
_PERMISSIVE = {
    *("0bsd", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-3.0", "cc-by-4.0", "cc0-1.0", "isc", "mit"),
    *("unlicense", "zlib"),
}


class Classic(NamedTuple):
    """A network that made history, and the paper it comes from."""

    aliases: tuple[str, ...]
    family: str
    year: int
    title: str
    paper: str  # an address
    note: str  # one line, or ""


class Entry(NamedTuple):
    """One set of weights of one architecture; the architecture alone where nothing is published."""

    name: str  # "vgg16.tv_in1k"
    architecture: str  # what `timm.create_model` takes after `import visiontool.pytorch.architectures`
    tag: str  # "" where nothing is published
    library: str  # timm, torchvision or visiontool
    license: str  # of the weights, SPDX in lower case as timm writes it; "" where unknown
    params: int
    macs: int | None  # of one picture of `input_size`; None where nobody has counted
    input_size: tuple[int, int, int]  # (C, H, W)
    classes: int  # 0 where the network gives features only
    source: str  # "hf-hub:...", an address, "built-in", or "" where there are no weights
    sha256: tuple[str, ...]  # first digits of the SHA-256 of files that are known to hold these weights
    interpolation: str  # in the words of a model's manifest, as is `crop_mode`
    crop_mode: str
    crop_pct: float
    mean: tuple[float, ...]  # one number a channel, on the scale 0 to 1
    std: tuple[float, ...]
    top1: float | None  # ImageNet-1k validation in percent, as published
    classic: Classic | None

    @property
    def is_untrained(self) -> bool:
        """Whether there are no weights for it."""
        return not self.source


def classics() -> tuple[Entry, ...]:
    """The classics, oldest first, each with its default weights."""
    rows = {row.architecture: row for row in read(CLASSICS)}
    return tuple(_with_paper(rows[name], paper) for paper in papers() for name in paper["networks"])


def entries() -> Iterator[Entry]:
    """The classics with their default weights, oldest first; then every other name of the table."""
    by_architecture = {entry.architecture: entry for entry in classics()}
    yield from by_architecture.values()
    names = {entry.name for entry in by_architecture.values()}
    for entry in read(NAMES):
        if entry.name not in names:
            yield _with_classic(entry, by_architecture.get(entry.architecture))


def find(name: str) -> Entry:
    """The one entry for `name`: an architecture or an alias, with a tag or without, however it is written.

    Without a tag it is the classic's default, else timm's; an architecture with its tag comes before an alias.
    `split_tag` finds the tag, unless the whole is a classic's name ("inception.v3").

    Raises:
        ModelError: no such name or tag, or the name of several models; the message lists what there is.
    """
    base, tag = split_tag(name.strip())
    classic = _classic(base)
    if classic is not None and fold(tag) in ("", fold(classic.tag)):
        return classic
    if classic is None and (whole := _classic(name)) is not None:
        return whole
    family = [member for paper in papers() if fold(paper["family"]) == fold(base) for member in paper["networks"]]
    if classic is None and family:
        raise _ambiguous(name, family)
    rows = [entry for entry in read(NAMES) if fold(entry.architecture) == fold(base)]
    if classic is not None and fold(tag) not in (fold(row.tag) for row in rows):  # `base` is an alias
        rows = [entry for entry in read(NAMES) if entry.architecture == classic.architecture]
    if classic is not None and rows[0].architecture == classic.architecture:
        rows = [_with_classic(entry, classic) for entry in rows]
    if not rows:
        raise _unknown(name, base)
    if not tag:
        return rows[0]
    for row in rows:
        if fold(row.tag) == fold(tag):
            return row
    architecture, tags = rows[0].architecture, [row.tag for row in rows if row.tag]
    if not tags:
        raise ModelError(f"{architecture} has no tags, so no {tag!r} either.\nGive {architecture} alone.")
    near = closest(tag.lower(), tags)
    raise ModelError(f"{architecture} has no weights with the tag {tag!r}.{near}\nIts tags: {', '.join(tags)}.")


def published(architecture: str, sha256: str) -> Entry | None:
    """The entry of `architecture` whose published weights are a file with that SHA-256, or None where none is known."""
    rows = (row for row in read(NAMES) if row.architecture == architecture)
    return next((find(row.name) for row in rows if sha256.startswith(row.sha256)), None)


def is_permissive(license: str) -> bool:
    """Whether `license` (SPDX) allows commercial use and asks for no more than a notice; an unknown one does not."""
    return license.lower() in _PERMISSIVE


def nearest(name: str) -> str:
    """ " Closest: a, b." for the architectures and aliases nearest to `name`, or "" where none is near.

    Of what looks like a path ("timm/resnet50.a1_in1k") the end counts where it is a name.
    """
    known = [entry.architecture for entry in entries()]
    known += [alias for entry in classics() if entry.classic for alias in entry.classic.aliases]
    spelled = {fold(architecture): architecture for architecture in known}
    whole, end = (fold(split_tag(text)[0]) for text in (name, name.rpartition("/")[2]))
    return closest(end if end in spelled else whole, spelled, spelled)


def search(text: str) -> Iterator[Entry]:
    """The entries, in the order of `entries`, with `text` in their name, aliases, family or title."""
    for entry in entries():
        classic = entry.classic
        texts = (entry.name, *classic.aliases, classic.family, classic.title) if classic else (entry.name,)
        if any(fold(text) in fold(each) for each in texts):
            yield entry


def read(table: Path) -> Iterator[Entry]:
    """Every row of a table, without its paper; the default weights of an architecture come first."""
    with table.open(encoding="utf-8") as file:
        for line in file:
            if not line.startswith(("#", COLUMNS)):
                yield _entry(line.rstrip("\n"))


def _entry(line: str) -> Entry:
    name, library, license, params, macs, size, *fitting, mean, std, classes, source, sha256 = line.split(",")
    interpolation, crop_mode, crop_pct = fitting
    architecture, _, tag = name.partition(".")
    channels, height, width = size.split("x")
    return Entry(
        name=name,
        architecture=architecture,
        tag=tag,
        library=library,
        license=license,
        params=int(params),
        macs=int(macs) if macs else None,
        input_size=(int(channels), int(height), int(width)),
        classes=int(classes),
        source=source + name if source.endswith("/") else source,
        sha256=tuple(sha256.split()),
        interpolation=interpolation,
        crop_mode=crop_mode,
        crop_pct=float(crop_pct),
        mean=tuple(map(float, mean.split(" "))),
        std=tuple(map(float, std.split(" "))),
        top1=None,
        classic=None,
    )


def _classic(name: str) -> Entry | None:
    """The classic whose name or alias `name` is, with its default weights."""
    architecture, _ = architecture_of(name)
    if not architecture:
        return None
    row = next(row for row in read(CLASSICS) if row.architecture == architecture)
    return _with_paper(row, next(paper for paper in papers() if architecture in paper["networks"]))


def _with_paper(row: Entry, paper: dict[str, Any]) -> Entry:
    network = paper["networks"][row.architecture]
    facts = (paper["family"], paper["year"], paper["title"], paper["address"])
    classic = Classic(tuple(network.get("aliases", ())), *facts, network.get("note", ""))
    return row._replace(top1=network.get("top1"), classic=classic)


def _with_classic(entry: Entry, default: Entry | None) -> Entry:
    """`entry` with the classic of its architecture; the MACs hold where the network is the same."""
    if default is None:
        return entry
    same = (entry.params, entry.input_size) == (default.params, default.input_size)
    return entry._replace(classic=default.classic, macs=default.macs if same else None)


def _ambiguous(name: str, names: list[str]) -> ModelError:
    from shlex import quote

    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ModelError(
        f"{name!r} is not one model but several: {', '.join(names[:_MAX_NAMES])}{more}.\n"
        f'Give one of these, or run "visiontool models {quote(name.strip())}" to see more of them.'
    )


def _unknown(name: str, base: str) -> ModelError:
    start = fold(base)
    known = dict.fromkeys(entry.architecture for entry in entries())
    beginning = [architecture for architecture in known if fold(architecture).startswith(start)]
    if start and len(beginning) > 1:
        return _ambiguous(name, beginning)
    return ModelError(
        f"no model is called {name!r}.{nearest(name)}\n"
        'Run "visiontool models" to see them all, or give the path of an .onnx file.'
    )
