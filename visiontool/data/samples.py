"""What a dataset is: its classes and samples, and what makes it unfit to learn from."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from visiontool.errors import DataError
from visiontool.text import listed, on_one_line

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_MAX_FAULTS = 20


NO_LABEL = -1


class Sample(NamedTuple):
    """One picture of a class.

    Attributes:
        name: Its path from DATA on, with "/"; from the root on where it is not in DATA.
        class_id: `NO_LABEL` where pictures may have several labels, and this one has none of them.
        split: "train", "val", "test" as the user gave it, "" where it is left out, None where no split is given.
        group: Samples of one group stay on one side of a split.
    """

    path: str
    name: str
    class_id: int
    split: str | None
    group: str | None
    others: tuple[int, ...] = ()  # its further labels

    @property
    def class_ids(self) -> tuple[int, ...]:
        """All its labels; `NO_LABEL` alone where it has none."""
        return (self.class_id, *self.others)


class LabeledPath(NamedTuple):
    """A sample before its label has a number."""

    path: str
    name: str
    label: str  # "" where it has none
    split: str | None
    group: str | None
    others: tuple[str, ...] = ()


@dataclass
class RawDataset:
    """What folders or a table hold; the labels, in no order, are also those of classes without a picture."""

    pictures: list[LabeledPath] = field(default_factory=list)
    labels: dict[str, None] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_multilabel: bool = False


@dataclass(frozen=True)
class Dataset:
    """Classes and the pictures of each.

    Attributes:
        labels: In natural order, 2 before 10; those of a run that is extended come first, as they are there.
        label_ids: The id of each label where the model knows them all.
        ignored: How much was left out, by kind: {"hidden": 2, "not pictures": 1}.
        misread: The faults of the folders or the table.
        notes: What is worth saying and no fault, one line each.
        is_multilabel: Whether a picture may have several labels, or none.
        known: How many of the first classes are known already, so that they need no picture.
    """

    root: Path
    labels: tuple[str, ...]
    label_ids: tuple[str, ...] | None
    samples: tuple[Sample, ...]
    ignored: Mapping[str, int]
    misread: tuple[str, ...]
    notes: tuple[str, ...]
    is_multilabel: bool = False
    known: int = 0

    def label_of(self, sample: Sample) -> str:
        """The label of a sample; several as "cat|dog", "" for none."""
        return "|".join(self.labels[class_id] for class_id in sample.class_ids if class_id != NO_LABEL)

    @property
    def faults(self) -> tuple[str, ...]:
        """All that makes it unfit to learn from, one line each."""
        faults = list(self.misread)
        splits: list[set[str | None]] = [set() for _ in self.labels]
        for sample in self.samples:
            for class_id in sample.class_ids:
                if class_id != NO_LABEL and sample.split != "":
                    splits[class_id].add(sample.split)
        new = [*zip(self.labels, splits, strict=True)][self.known :]
        empty = [label for label, has in new if not has]
        not_in_train = [label for label, has in new if has and not has & {None, "train"}]
        if len(self.labels) < 2:
            labels = f"only one: {on_one_line(self.labels[0])}" if self.labels else "none"
            faults.append(f"expected at least 2 classes, found {labels}")
        if empty:
            faults.append(listed(empty, "class has no picture", "classes have no picture"))
        if not_in_train:
            kind = "of val or test"
            faults.append(listed(not_in_train, f"class {kind} is not in train", f"classes {kind} are not in train"))
        return tuple(faults)


class Unusable(DataError):
    """A dataset that cannot be learned from; the message names up to 20 of its `faults`, one line each."""

    def __init__(self, root: Path, faults: Sequence[str], remedy: str) -> None:
        lines = [f"  - {fault}" for fault in faults[:_MAX_FAULTS]]
        if len(faults) > _MAX_FAULTS:
            lines.append(f"  and {len(faults) - _MAX_FAULTS:,} more")
        super().__init__("\n".join([f"{root} cannot be learned from:", *lines, remedy]))
        self.faults = tuple(faults)


def check(dataset: Dataset, unreadable: Mapping[str, str] | None = None) -> None:
    """Raises `Unusable` for a dataset with faults, or where something is `unreadable`: names of samples, and why."""
    unread = [f"{on_one_line(name)}: {' '.join(reason.split())}" for name, reason in (unreadable or {}).items()]
    if faults := [*dataset.faults, *unread]:
        skip = "; --on-bad skip leaves out pictures that cannot be read" if unread else ""
        raise Unusable(dataset.root, faults, f"Put the data right and run it again{skip}.")


def split_called(name: str) -> str | None:
    """The split of this name, whatever its case: "train", "val", "test" or None."""
    return _SPLITS.get(name.casefold())


def without(dataset: Dataset, names: Collection[str]) -> Dataset:
    """The dataset without the samples of these names; a class may lack pictures now."""
    return replace(dataset, samples=tuple(sample for sample in dataset.samples if sample.name not in names))
