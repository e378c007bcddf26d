"""All that is wrong with a dataset, told at once."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from visiontool.data.samples import Dataset
from visiontool.errors import DataError
from visiontool.text import on_one_line

_MOST_TOLD = 20
_MOST_UNREADABLE = 10


class Unusable(DataError):
    """A dataset that cannot be learned from; the message tells up to 20 of its faults.

    Attributes:
        faults: All of them, one line each.
    """

    def __init__(self, root: Path, faults: Sequence[str], remedy: str) -> None:
        told = [f"  - {fault}" for fault in faults[:_MOST_TOLD]]
        if len(faults) > _MOST_TOLD:
            told.append(f"  and {len(faults) - _MOST_TOLD:,} more")
        super().__init__("\n".join([f"{root} cannot be learned from:", *told, remedy]))
        self.faults = tuple(faults)


def check(dataset: Dataset, unreadable: Mapping[str, str] | None = None) -> None:
    """Passes a dataset that can be learned from.

    Args:
        unreadable: The name of each sample that cannot be read, and why.

    Raises:
        Unusable: it has faults, or something is unreadable.
    """
    unread = [f"{on_one_line(name)}: {' '.join(why.split())}" for name, why in (unreadable or {}).items()]
    if len(unread) > _MOST_UNREADABLE:
        unread[_MOST_UNREADABLE - 1 :] = [f"{len(unread) - _MOST_UNREADABLE + 1:,} more pictures that cannot be read"]
    faults = [*dataset.faults, *unread]
    if faults:
        skip = "; --on-bad skip leaves out pictures that cannot be read" if unread else ""
        raise Unusable(dataset.root, faults, f"Put the data right and run it again{skip}.")
