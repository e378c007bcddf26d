"""Which pictures are for training and which to judge by: splits, folds, and a file of splits."""

import csv
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visiontool.data.label_table import read_csv
from visiontool.data.samples import NO_LABEL, Dataset, Unusable, split_called
from visiontool.errors import DataError, UsageError
from visiontool.images.fingerprint import joined
from visiontool.text import listed, on_one_line, plural

PAIRS = (("val", "train"), ("test", "train"), ("test", "val"))
_TOO_FEW = "with too few pictures or groups"
_REMEDY = "Add other pictures, or give splits of your own: DATA/train, DATA/val."
_HELP = "Expected the splits.csv of a run: path,label,split with a line for each picture of the data."

# In all of this module `same` is the number of each sample's group of same pictures (`images.fingerprint.same`).


def split(
    dataset: Dataset, same: Sequence[int] | None = None, *, val_share: float = 0.2, seed: int = 0
) -> tuple[str, ...]:
    """The split of each sample: "train", "val", "test", or "" where the user left it out.

    The user's splits stay as they are. If some of that is val, all else is train; if not, val is drawn: `val_share` of
    each class, at least one picture and never all. Groups and same pictures stay on one side, so a class that is one
    picture, one group or the same picture is in train alone.
    """
    if not 0 < val_share < 1:
        raise UsageError(f"a share of {val_share} for val: expected more than 0 and less than 1")
    splits = [sample.split for sample in dataset.samples]
    if _is_val_drawn(dataset):
        groups = groups_of(dataset, same).tolist()
        in_train = {group for group, split in zip(groups, splits, strict=True) if split == "train"}
        free = [i for i, split in enumerate(splits) if split is None and groups[i] not in in_train]
        ids = [each for i in free for each in dataset.samples[i].class_ids]
        its_groups = [groups[i] for i in free for _ in dataset.samples[i].class_ids]
        in_train_ids = {each for sample in dataset.samples if sample.split == "train" for each in sample.class_ids}
        val = _draw_val(_Classes(ids, its_groups, seed), val_share, in_train_ids)
        for index in free:
            splits[index] = "val" if groups[index] in val else None
    return tuple("train" if split is None else split for split in splits)


def unjudged(dataset: Dataset, splits: Sequence[str]) -> list[str]:
    """The classes that val lacks, and those that test lacks where there is one, a line each; never all of val."""
    class_ids: dict[str, set[int]] = defaultdict(set)
    for sample, split in zip(dataset.samples, splits, strict=True):
        class_ids[split].update(each for each in sample.class_ids if each != NO_LABEL)
    reason = f", {_TOO_FEW} to draw from (copies count once)" if _is_val_drawn(dataset) else ""
    if not class_ids["val"]:
        raise Unusable(dataset.root, [f"no class has a picture in val{reason}"], _REMEDY)
    lines = []
    for split, why in (("val", reason), ("test", "")):
        new = [*enumerate(dataset.labels)][dataset.known :]
        lacking = [label for class_id, label in new if class_id not in class_ids[split]]
        if lacking and class_ids[split]:
            fault = f"no picture in {split}{why}"
            lines.append(listed(lacking, f"class has {fault}", f"classes have {fault}"))
    return lines


def leaks(dataset: Dataset, splits: Sequence[str], same: Sequence[int] | None = None) -> list[str]:
    """What the splits have in common, one line each; empty where nothing is."""
    lines = []
    groups = [sample.group for sample in dataset.samples]
    kinds: list[tuple[Sequence[Hashable], str, str]] = [(groups, "of a group that is in {} too", "and")]
    if same is not None:
        kinds.insert(0, (same, "also in {} (same picture)", "="))
    for keys, how, between in kinds:
        names: dict[Hashable, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for sample, split, key in zip(dataset.samples, splits, keys, strict=True):
            if key is not None:
                names[key][split].append(sample.name)
        for one, other in PAIRS:
            shared = [(group[one], group[other]) for group in names.values() if one in group and other in group]
            if shared:
                count = sum(len(in_one) for in_one, _ in shared)
                pictures = plural(count, f"picture of {one} is", f"pictures of {one} are")
                first, second = (on_one_line(in_split[0]) for in_split in shared[0])
                lines.append(f"{pictures} {how.format(other)}, e.g. {first} {between} {second}")
    return lines


def contradicting(dataset: Dataset, same: Sequence[int]) -> list[list[int]]:
    """The indices of each group of same pictures whose labels differ."""
    groups: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(same):
        groups[group].append(index)
    labels = [frozenset(sample.class_ids) for sample in dataset.samples]
    return [indices for indices in groups.values() if len({labels[index] for index in indices}) > 1]


def contradictions(dataset: Dataset, same: Sequence[int]) -> list[str]:
    """Same pictures with different labels, one line; empty where there are none."""
    mixed = contradicting(dataset, same)
    if not mixed:
        return []
    first, *others = (dataset.samples[index] for index in mixed[0])
    other = next(sample for sample in others if {*sample.class_ids} != {*first.class_ids})
    have = plural(len(mixed), "picture has", "pictures have")
    example = f"{on_one_line(first.name)} = {on_one_line(other.name)}"
    if dataset.is_multilabel:
        return [f"{have} copies with other labels, e.g. {example}"]
    return [f"{have} several labels, e.g. {example}; keep each in one class"]


def groups_of(dataset: Dataset, same: Sequence[int] | None = None) -> NDArray[np.intp]:
    """The number of each sample's group: the user's groups and same pictures, taken together where they touch."""
    count = len(dataset.samples)
    numbers: dict[str, int] = {}
    links = [] if same is None else list(enumerate(same))
    for index, sample in enumerate(dataset.samples):
        if sample.group is not None:
            links.append((index, count + numbers.setdefault(sample.group, len(numbers))))
    return joined(np.array(links, np.intp).reshape(-1, 2), count + len(numbers))[:count]


def folds(
    class_ids: Sequence[int] | NDArray[np.integer],
    groups: Sequence[int] | NDArray[np.integer],
    count: int,
    seed: int,
) -> NDArray[np.intp]:
    """The fold of each picture, 0 to `count` - 1: groups are whole, and each fold has its share of each class.

    A class with fewer groups than there are folds is not in all of them. What would be in one fold alone is in none,
    -1, so that something is left to learn from.
    """
    if count < 2:
        raise UsageError(f"{count} folds: expected at least 2")
    group_list = np.asarray(groups).tolist()
    classes = _Classes(np.asarray(class_ids).tolist(), group_list, seed)
    fold_of: dict[int, int] = {}
    shares = {class_id: [0.0] * count for class_id in classes.totals}  # of the class in each fold
    pictures = [0] * count
    for _, its_groups in classes.rare_first:
        for group in sorted(its_groups, key=lambda group: -sum(classes.of_group[group].values())):
            if group in fold_of:
                continue
            counts = classes.of_group[group]
            fold = min(range(count), key=lambda fold: (sum(shares[each][fold] for each in counts), pictures[fold]))
            fold_of[group] = fold
            for class_id, number in counts.items():
                shares[class_id][fold] += number / classes.totals[class_id]
                pictures[fold] += number
    for _, its_groups in classes.rare_first:
        if len({fold_of[group] for group in its_groups}) == 1:
            fold_of.update(dict.fromkeys(its_groups, -1))
    return np.array([fold_of[group] for group in group_list], np.intp)


def folds_of_sets(
    label_sets: Sequence[Sequence[int]], groups: NDArray[np.integer], count: int, seed: int
) -> NDArray[np.intp]:
    """`folds` of pictures with several labels: each fold has its share of each label.

    Source: Sechidis, Tsoumakas and Vlahavas 2011, "On the stratification of multi-label data", section 3.3.
    """
    lengths = [len(labels) for labels in label_sets]
    fold_of = folds(np.concatenate(label_sets), np.repeat(groups, lengths), count, seed)
    return np.asarray(fold_of[np.cumsum([0, *lengths[:-1]])])


def unfolded(dataset: Dataset, indices: NDArray[np.intp], fold_of: NDArray[np.intp]) -> list[str]:
    """The classes of the samples at `indices` that are in no fold, in one line; empty where all are in some."""
    class_ids = np.array([dataset.samples[index].class_id for index in indices.tolist()])
    lacking = [dataset.labels[class_id] for class_id in np.setdiff1d(class_ids, class_ids[fold_of >= 0]).tolist()]
    fault = f"in no fold, {_TOO_FEW} (copies count once)"
    lines = [listed(lacking, f"class is {fault}", f"classes are {fault}")] if lacking else []
    if len(lacking) == len(dataset.labels):
        raise Unusable(dataset.root, lines, _REMEDY)
    return lines


def write_splits(file: Path, dataset: Dataset, splits: Sequence[str]) -> None:
    """Writes the split of each sample, "" for what is left out, as `read_splits` reads it; names as their bytes."""
    with_groups = any(sample.group is not None for sample in dataset.samples)
    with open(file, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "split", *(["group"] if with_groups else [])])
        for sample, split in zip(dataset.samples, splits, strict=True):
            row = [sample.name, dataset.label_of(sample), split]
            writer.writerow([*row, sample.group or ""] if with_groups else row)


def read_rows(file: Path, *columns: str) -> list[dict[str, str]]:
    """The lines of a run's splits.csv by column: path, split and those named."""
    header, _, lines = read_csv(file, _HELP)
    if lacking := {"split", *columns} - {*header}:
        raise DataError(f"{file} has no column {min(lacking)}\n{_HELP}")
    return [dict(zip(header, fields, strict=False)) for _, fields in lines]


def read_splits(file: Path, dataset: Dataset) -> tuple[str, ...]:
    """The split that `file` gives each sample: "train", "val", "test", or "" for what is left out."""
    split_of: dict[str, str] = {}
    repeated, unknown = [], []
    for row in read_rows(file):
        text = row["split"].strip()
        split = text and split_called(text)
        if split is None:
            unknown.append(text)
        elif split_of.setdefault(row["path"], split) != split:
            repeated.append(row["path"])
    names = dict.fromkeys(sample.name for sample in dataset.samples)
    lacking = [] if unknown else [name for name in names if name not in split_of]
    surplus = [name for name in split_of if name not in names]
    faults = [
        f"  - {listed(wrong, one, many)}"
        for wrong, one, many in (
            (unknown, "split is not train, val or test", "splits are not train, val or test"),
            (repeated, "picture is in two splits", "pictures are in two splits"),
            (lacking, "picture of the data is not in it", "pictures of the data are not in it"),
            (surplus, "picture in it is not in the data", "pictures in it are not in the data"),
        )
        if wrong
    ]
    if faults:
        raise DataError("\n".join([f"{file} does not fit {dataset.root}:", *faults, _HELP]))
    return tuple(split_of[sample.name] for sample in dataset.samples)


class _Classes:
    """Which classes each group holds, and the groups of each class in a drawn order, rare classes first."""

    def __init__(self, class_ids: Iterable[int], groups: Iterable[int], seed: int) -> None:
        self.of_group: dict[int, Counter[int]] = defaultdict(Counter)  # pictures of each class in a group
        for class_id, group in zip(class_ids, groups, strict=True):
            self.of_group[group][class_id] += 1
        self.totals: Counter[int] = Counter()  # pictures of each class
        groups_of_class: dict[int, list[int]] = defaultdict(list)
        names = list(self.of_group)
        for index in np.random.default_rng(seed).permutation(len(names)).tolist():
            self.totals.update(self.of_group[names[index]])
            for class_id in self.of_group[names[index]]:
                groups_of_class[class_id].append(names[index])
        self.rare_first = sorted(groups_of_class.items(), key=lambda item: (len(item[1]), item[0]))


def _is_val_drawn(dataset: Dataset) -> bool:
    return {None, "val"} & {sample.split for sample in dataset.samples} == {None}


def _draw_val(classes: _Classes, share: float, in_train: set[int]) -> set[int]:
    """The groups that are for val; all of a class may be where others of it are in train already."""
    val: set[int] = set()
    most = {class_id: total - (class_id not in in_train) for class_id, total in classes.totals.items()}
    target = {class_id: min(max(1, round(share * total)), most[class_id]) for class_id, total in classes.totals.items()}
    counts = dict.fromkeys(classes.totals, 0)

    def leaves_some(group: int) -> bool:  # of each of its classes, for training
        return all(counts[each] + number <= most[each] for each, number in classes.of_group[group].items())

    def gain(group: int) -> int:  # in pictures that the classes come nearer to their targets
        return sum(
            abs(target[each] - counts[each]) - abs(target[each] - counts[each] - number)
            for each, number in classes.of_group[group].items()
        )

    def take(group: int) -> None:
        val.add(group)
        for each, number in classes.of_group[group].items():
            counts[each] += number

    for class_id, groups in classes.rare_first:
        for group in groups:
            if counts[class_id] >= target[class_id]:
                break
            if group not in val and gain(group) > 0 and leaves_some(group):
                take(group)
        if not counts[class_id]:  # each of its groups is much more than the target
            smallest = max(filter(leaves_some, groups), key=gain, default=None)
            if smallest is not None:
                take(smallest)
    return val
