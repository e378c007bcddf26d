"""Which pictures are for training and which to judge by: splits, folds, and a file of splits."""

import csv
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visiontool.data.label_table import read_csv
from visiontool.data.problems import Unusable
from visiontool.data.samples import Dataset, Sample, is_val_drawn, split_called
from visiontool.errors import DataError, UsageError
from visiontool.text import listed, on_one_line, plural

_PAIRS = (("val", "train"), ("test", "train"), ("test", "val"))
_HELP = "Expected the splits.csv of a run: path,label,split with a line for each picture of the data."


def split(
    dataset: Dataset, same: Sequence[int] | None = None, *, val_share: float = 0.2, seed: int = 0
) -> tuple[str, ...]:
    """The split of each sample: "train", "val", "test", or "" where the user left it out.

    What the user said stays as it is. If some of that is val, all else is train; if not, val is drawn: `val_share` of
    each class, at least one picture and never all. Groups and same pictures stay on one side, so a class that is one
    picture, one group or the same picture is in train alone.

    Args:
        same: The number of each sample's group of same pictures (`look.same`).
    """
    if not 0 < val_share < 1:
        raise UsageError(f"a share of {val_share} for val: expected more than 0 and less than 1")
    splits = [sample.split for sample in dataset.samples]
    if is_val_drawn(dataset.samples):
        groups = groups_of(dataset, same).tolist()
        bound = {group for group, said in zip(groups, splits, strict=True) if said == "train"}
        free = [i for i, said in enumerate(splits) if said is None and groups[i] not in bound]
        classes = Classes((dataset.samples[i].class_id for i in free), (groups[i] for i in free), seed)
        in_train = {sample.class_id for sample in dataset.samples if sample.split == "train"}
        drawn = _drawn(classes, val_share, in_train)
        for index in free:
            splits[index] = "val" if groups[index] in drawn else None
    return tuple("train" if said is None else said for said in splits)


def unjudged(dataset: Dataset, splits: Sequence[str]) -> list[str]:
    """The classes that val lacks, and those that test lacks where there is one, a line each.

    Raises:
        Unusable: val has no picture.
    """
    has: dict[str, set[int]] = defaultdict(set)
    for sample, said in zip(dataset.samples, splits, strict=True):
        has[said].add(sample.class_id)
    few = ", with too few pictures or groups to draw from (copies count once)" if is_val_drawn(dataset.samples) else ""
    if not has["val"]:
        raise Unusable(
            dataset.root,
            [f"no class has a picture in val{few}"],
            "Add other pictures, or give splits of your own: DATA/train, DATA/val.",
        )
    lines = []
    for split, why in (("val", few), ("test", "")):
        lacking = [label for class_id, label in enumerate(dataset.labels) if class_id not in has[split]]
        if lacking and has[split]:
            told_as = f"no picture in {split}{why}"
            lines.append(listed(lacking, f"class has {told_as}", f"classes have {told_as}"))
    return lines


def leaks(dataset: Dataset, splits: Sequence[str], same: Sequence[int] | None = None) -> list[str]:
    """What the splits have in common, one line each; empty where nothing is.

    Args:
        same: The number of each sample's group of same pictures (`look.same`).
    """
    lines = [] if same is None else _shared(dataset, splits, same, "also in {} (same picture)", "=")
    groups = [sample.group for sample in dataset.samples]
    return lines + _shared(dataset, splits, groups, "of a group that is in {} too", "and")


def contradictions(dataset: Dataset, same: Sequence[int]) -> list[str]:
    """Same pictures with different labels, one line; empty where there are none.

    Args:
        same: The number of each sample's group of same pictures (`look.same`).
    """
    members: dict[int, list[Sample]] = defaultdict(list)
    for sample, group in zip(dataset.samples, same, strict=True):
        members[group].append(sample)
    found = [group for group in members.values() if len({sample.class_id for sample in group}) > 1]
    if not found:
        return []
    first = found[0][0]
    other = next(sample for sample in found[0] if sample.class_id != first.class_id)
    have = plural(len(found), "picture has", "pictures have")
    return [f"{have} several labels, e.g. {on_one_line(first.name)} = {on_one_line(other.name)}"]


def groups_of(dataset: Dataset, same: Sequence[int] | None = None) -> NDArray[np.intp]:
    """The number of each sample's group: the user's groups and same pictures, taken together where they touch.

    Args:
        same: The number of each sample's group of same pictures (`look.same`).
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(dataset.samples)
    names: dict[str, int] = {}
    links = [] if same is None else list(enumerate(same))
    for index, sample in enumerate(dataset.samples):
        if sample.group is not None:
            links.append((index, count + names.setdefault(sample.group, len(names))))
    one, other = np.array(links, np.intp).reshape(-1, 2).T
    nodes = count + len(names)
    graph = coo_array((np.ones(len(links), np.bool_), (one, other)), shape=(nodes, nodes))
    groups: NDArray[np.intp] = connected_components(graph, directed=False)[1][:count].astype(np.intp)
    return groups


class Classes:
    """Which classes each group holds, and the groups of each class.

    Attributes:
        of_group: How many pictures of each class a group holds.
        totals: The pictures of each class.
        rare_first: The groups of each class in an order drawn by the seed; the class with the fewest groups first.
    """

    def __init__(self, class_ids: Iterable[int], groups: Iterable[int], seed: int) -> None:
        self.of_group: dict[int, dict[int, int]] = defaultdict(dict)
        self.totals: Counter[int] = Counter()
        for class_id, group in zip(class_ids, groups, strict=True):
            held = self.of_group[group]
            held[class_id] = held.get(class_id, 0) + 1
            self.totals[class_id] += 1
        groups_of_class: dict[int, list[int]] = {class_id: [] for class_id in self.totals}
        names = list(self.of_group)
        for place in np.random.default_rng(seed).permutation(len(names)).tolist():
            for class_id in self.of_group[names[place]]:
                groups_of_class[class_id].append(names[place])
        self.rare_first = sorted(groups_of_class.items(), key=lambda item: (len(item[1]), item[0]))


def folds(
    class_ids: Sequence[int] | NDArray[np.integer],
    groups: Sequence[int] | NDArray[np.integer],
    count: int,
    seed: int,
) -> NDArray[np.intp]:
    """The fold of each picture, 0 to `count` - 1: groups are whole, and each fold has its share of each class.

    A class with fewer groups than there are folds is not in all of them; one with two groups of its own is never in one
    fold alone. What would be in one fold alone is in none, -1, so that something is left to learn from. scikit-learn's
    StratifiedGroupKFold takes 30 times as long for 12,000 groups, warns of rare classes and refuses more folds than a
    class has pictures.
    """
    if count < 2:
        raise UsageError(f"{count} folds: expected at least 2")
    group_list = np.asarray(groups).tolist()
    classes = Classes(np.asarray(class_ids).tolist(), group_list, seed)
    fold_of: dict[int, int] = {}
    shares = {class_id: [0.0] * count for class_id in classes.totals}  # of the class in each fold
    pictures = [0] * count
    for _, its_groups in classes.rare_first:
        for group in sorted(its_groups, key=lambda group: -sum(classes.of_group[group].values())):
            if group in fold_of:
                continue
            held = classes.of_group[group]
            fold = min(range(count), key=lambda fold: (sum(shares[held_id][fold] for held_id in held), pictures[fold]))
            fold_of[group] = fold
            for class_id, number in held.items():
                shares[class_id][fold] += number / classes.totals[class_id]
                pictures[fold] += number
    for _, its_groups in classes.rare_first:
        if len({fold_of[group] for group in its_groups}) == 1:
            fold_of.update(dict.fromkeys(its_groups, -1))
    return np.array([fold_of[group] for group in group_list], np.intp)


def unfolded(dataset: Dataset, indices: NDArray[np.intp], fold_of: NDArray[np.intp]) -> list[str]:
    """The classes that are in no fold, in one line; empty where all are in some.

    Args:
        indices: Of the samples that `fold_of` is about.
    """
    class_ids = np.array([dataset.samples[index].class_id for index in indices.tolist()])
    lacking = [dataset.labels[class_id] for class_id in np.setdiff1d(class_ids, class_ids[fold_of >= 0]).tolist()]
    told_as = "in no fold, with too few pictures or groups (copies count once)"
    lines = [listed(lacking, f"class is {told_as}", f"classes are {told_as}")] if lacking else []
    if len(lacking) == len(dataset.labels):
        raise Unusable(dataset.root, lines, "Add other pictures, or give splits of your own: DATA/train, DATA/val.")
    return lines


def write_splits(file: Path, dataset: Dataset, splits: Sequence[str]) -> None:
    """Writes the split of each sample, "" for what is left out; `read_splits` gives the same again.

    Names that are no UTF-8 are written as the bytes that they are.
    """
    with_groups = any(sample.group is not None for sample in dataset.samples)
    with open(file, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "split", *(["group"] if with_groups else [])])
        for sample, said in zip(dataset.samples, splits, strict=True):
            row = [sample.name, dataset.labels[sample.class_id], said]
            writer.writerow([*row, sample.group or ""] if with_groups else row)


def read_splits(file: Path, dataset: Dataset) -> tuple[str, ...]:
    """The split that `file` says of each sample: "train", "val", "test", or "" for what is left out."""
    header, lines = read_csv(file, _HELP)
    if "split" not in header:
        raise DataError(f"{file} has no column split\n{_HELP}")
    path, split = header.index("path"), header.index("split")
    said: dict[str, str] = {}
    repeated, unknown = [], []
    for _, fields in lines:
        text = fields[split].strip()
        called = text and split_called(text)
        if called is None:
            unknown.append(text)
        elif said.setdefault(fields[path], called) != called:
            repeated.append(fields[path])
    names = dict.fromkeys(sample.name for sample in dataset.samples)
    lacking = [] if unknown else [name for name in names if name not in said]
    surplus = [name for name in said if name not in names]
    faults = [
        listed(odd, one, many)
        for odd, one, many in (
            (unknown, "split is not train, val or test", "splits are not train, val or test"),
            (repeated, "picture is in two splits", "pictures are in two splits"),
            (lacking, "picture of the data is not in it", "pictures of the data are not in it"),
            (surplus, "picture in it is not in the data", "pictures in it are not in the data"),
        )
        if odd
    ]
    if faults:
        lines_of_faults = "\n".join(f"  - {fault}" for fault in faults)
        raise DataError(f"{file} does not fit {dataset.root}:\n{lines_of_faults}\n{_HELP}")
    return tuple(said[sample.name] for sample in dataset.samples)


def _drawn(classes: Classes, share: float, in_train: set[int]) -> set[int]:
    """The groups that are for val; all of a class may be where others of it are in train already."""
    taken: set[int] = set()
    most = {class_id: total - (class_id not in in_train) for class_id, total in classes.totals.items()}
    wanted = {class_id: min(max(1, round(share * total)), most[class_id]) for class_id, total in classes.totals.items()}
    has = dict.fromkeys(classes.totals, 0)

    def is_spared(group: int) -> bool:
        """Whether something of each of its classes is left for training without it."""
        return all(has[held] + number <= most[held] for held, number in classes.of_group[group].items())

    def gain(group: int) -> int:
        """By how many pictures the classes come nearer to what is wanted with it."""
        return sum(
            abs(wanted[held] - has[held]) - abs(wanted[held] - has[held] - number)
            for held, number in classes.of_group[group].items()
        )

    def take(group: int) -> None:
        taken.add(group)
        for held, number in classes.of_group[group].items():
            has[held] += number

    for class_id, groups in classes.rare_first:
        for group in groups:
            if has[class_id] >= wanted[class_id]:
                break
            if group not in taken and gain(group) > 0 and is_spared(group):
                take(group)
        if not has[class_id]:  # each of its groups is much more than is wanted
            spared = filter(is_spared, groups)
            if (smallest := max(spared, key=gain, default=None)) is not None:
                take(smallest)
    return taken


def _shared(dataset: Dataset, splits: Sequence[str], keys: Sequence[Hashable], how: str, between: str) -> list[str]:
    """Of each two splits, how many pictures of the first have a key, not None, of the second."""
    members: dict[Hashable, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for sample, said, key in zip(dataset.samples, splits, keys, strict=True):
        if key is not None:
            members[key][said].append(sample.name)
    lines = []
    for one, other in _PAIRS:
        both = [(held[one], held[other]) for held in members.values() if one in held and other in held]
        if both:
            count = sum(len(names) for names, _ in both)
            are = plural(count, f"picture of {one} is", f"pictures of {one} are")
            first, second = (on_one_line(names[0]) for names in both[0])
            lines.append(f"{are} {how.format(other)}, e.g. {first} {between} {second}")
    return lines
