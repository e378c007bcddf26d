"""What is odd about the classes of a dataset: their counts, splits and names, and what lies beside their pictures."""

from collections import Counter
from collections.abc import Iterator

from visiontool.checking.finding import Finding, Looked
from visiontool.data.dataset import VAL_IS_DRAWN, spelled_differently
from visiontool.data.samples import Dataset, Unusable
from visiontool.data.splits import split, unjudged
from visiontool.text import listed, on_one_line, plural

_FEW = 10  # pictures
_UNEQUAL = 10  # times as many pictures


def check_classes(looked: Looked) -> Iterator[Finding]:
    """What is odd about the classes, of the pictures that can be read."""
    data = looked.data
    for fault in data.faults:
        yield Finding("unusable", "serious", fault, "It cannot be learned from: put that right.")
    yield from _counts(data)
    if not data.faults:
        try:
            for line in unjudged(data, split(data)):
                yield Finding("split", "warning", line, "They are never judged: add pictures of them there.")
        except Unusable as error:
            yield Finding("split", "serious", error.faults[0], "Add other pictures, or give splits of your own.")
    if spelling := spelled_differently(data.labels):
        yield Finding("spelling", "warning", spelling, "Put those that mean the same into one class.")
    for note in data.notes:
        if note not in (spelling, VAL_IS_DRAWN):
            yield Finding("reading", "note", note, "Nothing to do where that is meant.")
    if data.ignored:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(data.ignored.items()))
        yield Finding("ignored", "note", f"Left out: {kinds}", "Nothing to do where they are no pictures of a class.")


def _counts(data: Dataset) -> Iterator[Finding]:
    """By the pictures that are for training, or may be."""
    usable = (sample for sample in data.samples if sample.split in (None, "train"))
    counts = Counter(data.labels[each] for sample in usable for each in sample.class_ids if each >= data.known)
    ranked = counts.most_common()
    if few := [f"{label} ({count})" for label, count in reversed(ranked) if count < _FEW]:
        has = f"fewer than {_FEW} pictures to learn from"
        title = listed(few, f"class has {has}", f"classes have {has}")
        yield Finding("few", "serious" if ranked[-1][1] == 1 else "warning", title, "Add pictures of them.")
    if ranked and ranked[0][1] >= _UNEQUAL * ranked[-1][1]:
        (large, most), (small, least) = ranked[0], ranked[-1]
        title = f"{on_one_line(large)} has {plural(most, 'picture')} to learn from, {on_one_line(small)} {least:,}"
        yield Finding("imbalance", "warning", title, "Judge by balanced accuracy, or add to the small classes.")
