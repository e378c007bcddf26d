"""Pictures that must stay on one side of a split, and how many of each class such a group holds."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from visiontool.dataset.samples import Dataset


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
