"""The classics with their default weights: papers.py, networks.py and classics.csv put together."""

from visiontool.catalog import table
from visiontool.catalog.entry import Classic, Entry, fold
from visiontool.catalog.networks import NETWORKS
from visiontool.catalog.papers import PAPERS, Paper


def classics() -> tuple[Entry, ...]:
    """The classics, oldest first, each with its default weights."""
    rows = {row.architecture: row for row in table.read(table.CLASSICS)}
    return tuple(_with_paper(rows[name], paper) for paper in PAPERS for name in paper.networks.split())


def classic_called(name: str) -> Entry | None:
    """The classic whose name or alias `name` is, or None."""
    wanted = fold(name)
    for known, network in NETWORKS.items():
        if wanted in map(fold, (known, *network.aliases.split())):
            row = next(row for row in table.read(table.CLASSICS) if row.architecture == known)
            return _with_paper(row, next(paper for paper in PAPERS if known in paper.networks.split()))
    return None


def members(family: str) -> list[str]:
    """The names of the classics of `family`; none where no family is called so."""
    wanted = fold(family)
    return [name for paper in PAPERS if fold(paper.family) == wanted for name in paper.networks.split()]


def _with_paper(row: Entry, paper: Paper) -> Entry:
    network = NETWORKS[row.architecture]
    classic = Classic(
        row.architecture,
        tuple(network.aliases.split()),
        paper.family,
        paper.year,
        paper.title,
        paper.address,
        network.note,
    )
    return row._replace(top1=network.top1, classic=classic)
