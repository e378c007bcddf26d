"""Which pictures are for training and which to judge by."""

from collections import defaultdict
from collections.abc import Hashable, Sequence

from visiontool.dataset.faults import Unusable
from visiontool.dataset.grouping import Classes, groups_of
from visiontool.dataset.samples import Dataset, Sample, is_val_drawn
from visiontool.dataset.wording import on_one_line, told
from visiontool.errors import UsageError

_PAIRS = (("val", "train"), ("test", "train"), ("test", "val"))


def split(
    dataset: Dataset, same: Sequence[int] | None = None, *, val_share: float = 0.2, seed: int = 0
) -> tuple[str, ...]:
    """The split of each sample: "train", "val", "test", or "" where the user left it out.

    What the user said stays as it is. If some of that is val, all else is train; if not, val is drawn: `val_share` of
    each class, at least one picture and never all. Groups and same pictures stay on one side, so a class that is one
    picture, one group or the same picture is in train alone.

    Args:
        same: The number of each sample's group of same pictures (`look.same`).

    Raises:
        UsageError: `val_share` is not between 0 and 1.
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
            lines.append(told(lacking, f"class has {told_as}", f"classes have {told_as}"))
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
    are = "1 picture has" if len(found) == 1 else f"{len(found):,} pictures have"
    return [f"{are} several labels, e.g. {on_one_line(first.name)} = {on_one_line(other.name)}"]


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
            are = f"picture of {one} is" if count == 1 else f"pictures of {one} are"
            first, second = (on_one_line(names[0]) for names in both[0])
            lines.append(f"{count:,} {are} {how.format(other)}, e.g. {first} {between} {second}")
    return lines
