"""What a dataset is: its classes and samples, what makes it unfit to learn from, and what it is read from."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from visiontool.text import listed, on_one_line

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


class Sample(NamedTuple):
    """One picture of a class.

    Attributes:
        path: To open it.
        name: Its path from DATA on, with "/"; from the root on where it is not in DATA.
        class_id: Index of its label.
        split: "train", "val", "test" as the user said, "" where it is left out, None where nobody said.
        group: What must stay on one side of a split has the same.
    """

    path: str
    name: str
    class_id: int
    split: str | None
    group: str | None


@dataclass(frozen=True)
class Dataset:
    """Classes and the pictures of each.

    Attributes:
        labels: In natural order, 2 before 10.
        label_ids: The id of each label where the model knows them all.
        ignored: How much was left out, by kind: {"hidden": 2, "not pictures": 1}.
        misread: The faults that were found while reading.
        notes: What is worth saying and no fault, one line each.
    """

    root: Path
    labels: tuple[str, ...]
    label_ids: tuple[str, ...] | None
    samples: tuple[Sample, ...]
    ignored: Mapping[str, int]
    misread: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """All that makes it unfit to learn from, one line each: what was misread, and what its samples lack."""
        return (*self.misread, *_lacking(self.labels, self.samples))


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


def split_called(name: str) -> str | None:
    """The split that `name` means, whatever its case: "train", "val", "test" or None."""
    return _SPLITS.get(name.casefold())


def without(dataset: Dataset, names: Collection[str]) -> Dataset:
    """The dataset without the samples of these names; a class may lack pictures now."""
    return replace(dataset, samples=tuple(sample for sample in dataset.samples if sample.name not in names))


def is_val_drawn(samples: Sequence[Sample]) -> bool:
    """Whether val is to be drawn from the samples that have no split: the user gave no val."""
    splits = {sample.split for sample in samples}
    return None in splits and "val" not in splits


def _lacking(labels: Sequence[str], samples: Sequence[Sample]) -> list[str]:
    splits: list[set[str | None]] = [set() for _ in labels]
    for sample in samples:
        splits[sample.class_id].add(sample.split)
    nothing = [label for label, has in zip(labels, splits, strict=True) if not has - {""}]
    not_in_train = [
        label for label, has in zip(labels, splits, strict=True) if has - {""} and not has & {None, "train"}
    ]
    faults = []
    if len(labels) < 2:
        found = f"only one: {on_one_line(labels[0])}" if labels else "none"
        faults.append(f"expected at least 2 classes, found {found}")
    if nothing:
        faults.append(listed(nothing, "class has no picture", "classes have no picture"))
    if not_in_train:
        faults.append(
            listed(not_in_train, "class of val or test is not in train", "classes of val or test are not in train")
        )
    return faults
