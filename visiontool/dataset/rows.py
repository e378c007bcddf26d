"""What class folders and CSV files both give: a row for each picture, and what was seen on the way."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple


class Row(NamedTuple):
    """One picture and what its folder or its line says of it."""

    path: str
    name: str
    label: str
    split: str | None
    group: str | None


@dataclass
class Found:
    """What was found; the labels, in no order, are also those of classes without a picture."""

    rows: list[Row] = field(default_factory=list)
    labels: dict[str, None] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
