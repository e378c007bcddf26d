"""From a name or a filter to entries of the catalog.

A classic is found without opening names.csv, which is 20 times as large: `predict -m NAME` goes this way each time.
"""

from collections.abc import Iterator

from visiontool.errors import ModelError, closest
from visiontool.hub.catalog.classics import NAMES, classic_called, classics, members, read
from visiontool.hub.catalog.entry import Entry, fold

_MOST_NAMES = 12  # that a message lists
_PERMISSIVE = {
    *("0bsd", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-3.0", "cc-by-4.0", "cc0-1.0", "isc", "mit"),
    *("unlicense", "zlib"),
}


def entries() -> Iterator[Entry]:
    """The classics with their default weights, oldest first; then every other name of the table."""
    known = classics()
    yield from known
    names = {entry.name for entry in known}
    by_architecture = {entry.architecture: entry for entry in known}
    for entry in read(NAMES):
        if entry.name not in names:
            yield _with_classic(entry, by_architecture.get(entry.architecture))


def find(name: str) -> Entry:
    """The one entry that `name` means: an architecture or an alias, with a tag or without, however it is written.

    Without a tag it is the classic's default, else timm's. A dot between digits is a part of the name
    ("squeezenet1.1"); the first other one begins the tag, unless the whole is a classic's name ("inception.v3").

    Raises:
        ModelError: no such name (the message has the nearest), no such tag (it lists the tags), or several models are
            called so (it lists them).
    """
    called, tag = _parted(name.strip())
    classic = classic_called(called)
    if classic is not None and fold(tag) in ("", fold(classic.tag)):
        return classic
    if classic is None and (whole := classic_called(name)) is not None:
        return whole
    family = members(called)
    if classic is None and family:
        raise _ambiguous(name, family)
    wanted = fold(classic.architecture if classic else called)
    rows = [_with_classic(entry, classic) for entry in read(NAMES) if fold(entry.architecture) == wanted]
    if not rows:
        raise _unknown(name, called)
    if not tag:
        return rows[0]
    for row in rows:
        if fold(row.tag) == fold(tag):
            return row
    raise _no_such_tag(tag, rows)


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
    written = {fold(architecture): architecture for architecture in known}
    wanted, end = (fold(_parted(text)[0]) for text in (name, name.rpartition("/")[2]))
    return closest(end if end in written else wanted, written, written)


def search(text: str) -> Iterator[Entry]:
    """The entries, in the order of `entries`, in whose name, aliases, family or title `text` is found."""
    wanted = fold(text)
    for entry in entries():
        classic = entry.classic
        texts = (entry.name, *classic.aliases, classic.family, classic.title) if classic else (entry.name,)
        if any(wanted in fold(said) for said in texts):
            yield entry


def _parted(name: str) -> tuple[str, str]:
    """The architecture and the tag that `name` is written of."""
    for place, sign in enumerate(name):
        if sign == "." and not (name[:place][-1:].isdigit() and name[place + 1 : place + 2].isdigit()):
            return name[:place], name[place + 1 :]
    return name, ""


def _with_classic(entry: Entry, default: Entry | None) -> Entry:
    """`entry` with what is known of the classic it is of; the MACs hold where the network is the same."""
    if default is None:
        return entry
    same = (entry.params, entry.input_size) == (default.params, default.input_size)
    return entry._replace(classic=default.classic, macs=default.macs if same else None)


def _ambiguous(name: str, names: list[str]) -> ModelError:
    from shlex import quote

    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ModelError(
        f"{name!r} is not one model but several: {', '.join(names[:_MOST_NAMES])}{more}.\n"
        f'Give one of these, or run "visiontool models {quote(name.strip())}" to see more of them.'
    )


def _unknown(name: str, called: str) -> ModelError:
    start = fold(called)
    known = dict.fromkeys(entry.architecture for entry in entries())
    beginning = [architecture for architecture in known if fold(architecture).startswith(start)]
    if start and len(beginning) > 1:
        return _ambiguous(name, beginning)
    return ModelError(
        f"no model is called {name!r}.{nearest(name)}\n"
        'Run "visiontool models" to see them all, or give the path of an .onnx file.'
    )


def _no_such_tag(tag: str, rows: list[Entry]) -> ModelError:
    architecture, tags = rows[0].architecture, [row.tag for row in rows if row.tag]
    if not tags:
        return ModelError(f"{architecture} has no tags, so no {tag!r} either.\nGive {architecture} alone.")
    return ModelError(
        f"{architecture} has no weights with the tag {tag!r}.{closest(tag.lower(), tags)}\nIts tags: {', '.join(tags)}."
    )
