"""The classics with their default weights: papers.py and classics.csv put together."""

from visiontool.catalog import table
from visiontool.catalog.entry import Classic, Entry, fold
from visiontool.catalog.papers import NOTES, PAPERS


def classics() -> tuple[Entry, ...]:
    """The classics, oldest first, each with its default weights."""
    rows = {row.architecture: row for row in table.read(table.CLASSICS)}
    found = []
    for family, year, title, address, models in PAPERS:
        for name, _, top1, aliases in models:
            classic = Classic(name, tuple(aliases.split()), family, year, title, address, NOTES.get(name, ""))
            found.append(rows[name]._replace(top1=top1, classic=classic))
    return tuple(found)


def classic_called(name: str) -> Entry | None:
    """The classic whose name or alias `name` is, or None."""
    wanted = fold(name)
    for entry in classics():
        if entry.classic and wanted in map(fold, (entry.architecture, *entry.classic.aliases)):
            return entry
    return None


def members(family: str) -> list[str]:
    """The names of the classics of `family`; none where no family is called so."""
    wanted = fold(family)
    return [name for paper in PAPERS if fold(paper[0]) == wanted for name, *_ in paper[-1]]
