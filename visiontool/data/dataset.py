"""A folder of pictures, or a table of them, as samples with classes, groups and splits. Nothing is copied or written.

DATA/<label>/picture                     a class is the folder that directly holds the pictures: "birds/crane"
DATA/train|val|test/<label>/picture      the user's own splits; without val, it is drawn from train
a CSV file: path,label[,split][,group]   paths start at DATA, or where nothing is there, at the CSV's folder
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from visiontool.data.class_folders import read_class_folders
from visiontool.data.folders import natural_keys
from visiontool.data.label_table import read_label_table
from visiontool.data.problems import Unusable, check
from visiontool.data.samples import Dataset, Found, Row, Sample, without
from visiontool.data.splits import (
    contradictions,
    folds,
    groups_of,
    leaks,
    read_splits,
    split,
    unfolded,
    unjudged,
    write_splits,
)
from visiontool.errors import DataError, UsageError
from visiontool.text import is_text, listed, some

__all__ = [
    "VAL_IS_DRAWN",
    "Dataset",
    "Sample",
    "Unusable",
    "check",
    "contradictions",
    "folds",
    "groups_of",
    "leaks",
    "read",
    "read_splits",
    "split",
    "unfolded",
    "unjudged",
    "without",
    "write_splits",
]

_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
_TABLES = (".csv", ".tsv", ".txt")

VAL_IS_DRAWN = "val is drawn from train, since there is none"


def read(
    data: Path,
    *,
    labels_file: Path | None = None,
    skip_missing: bool = False,
    group: str | None = None,
    known: Mapping[str, str] | None = None,
) -> Dataset:
    """The dataset in the folder `data`, with all that is wrong with it but for pictures that cannot be read.

    Args:
        labels_file: A CSV file with the columns path and label, and split and group where it has them, that says it
            all; pictures that it does not name are not looked for.
        skip_missing: Leaves out the lines of the CSV file whose path is not there.
        group: A regular expression that is searched in the name of each sample. Its first group, or all that it
            matches, is the sample's group, unless the CSV file says another.
        known: The label of each id that a model knows. Where every class is called by one of these ids or labels, the
            labels are the model's.

    Raises:
        DataError: the folder or the CSV file is not there, cannot be read, or holds no picture at all.
        UsageError: `group` is no regular expression.
    """
    pattern = _compiled(group)
    if not data.is_dir():
        raise DataError(f"{data} {_why_no_folder(data)}")
    if labels_file is None:
        found = read_class_folders(data)
    else:
        found = read_label_table(labels_file, data, skip_missing=skip_missing)
    rows = _with_splits(found)
    if pattern is not None:
        rows = _with_groups(rows, pattern, found)
    names = {label: unicodedata.normalize("NFC", label) for label in found.labels}
    label_of, id_of = _known_labels(set(names.values()), known or {})
    labels = sorted(set(label_of.values()), key=natural_keys)
    if id_of:
        found.notes.append("the labels are the model's")
    _tell_of_labels(labels, found)
    class_ids = {label: class_id for class_id, label in enumerate(labels)}
    samples = tuple(
        Sample(row.path, row.name, class_ids[label_of[names[row.label]]], row.split, row.group) for row in rows
    )
    label_ids = tuple(id_of[label] for label in labels) if id_of else None
    return Dataset(data, tuple(labels), label_ids, samples, found.ignored, tuple(found.faults), tuple(found.notes))


def _why_no_folder(data: Path) -> str:
    if data.exists() and data.suffix.lower() in _ARCHIVES:
        return "is an archive\nUnpack it, and give the folder that comes out."
    if data.exists() and data.suffix.lower() in _TABLES:
        return f"is no folder\nGive the folder of the pictures, and this table as --labels {data}."
    what = "is no folder" if data.exists() else "is not there"
    return f"{what}\nExpected a folder with a folder of pictures for each class: DATA/<label>/picture."


def _compiled(group: str | None) -> re.Pattern[str] | None:
    try:
        return None if group is None else re.compile(group)
    except re.error as error:
        raise UsageError(f"--group {group!r} is no regular expression: {error}") from None


def _with_splits(found: Found) -> Sequence[Row]:
    """The rows, where train is to be split: there is no val, and nothing else to draw it from."""
    splits = {row.split for row in found.rows}
    if "train" not in splits or splits & {"val", None}:
        return found.rows
    found.notes.append(VAL_IS_DRAWN)
    return [row._replace(split=None) if row.split == "train" else row for row in found.rows]


def _with_groups(rows: Sequence[Row], pattern: re.Pattern[str], found: Found) -> Sequence[Row]:
    grouped, alone = [], []
    for row in rows:
        match = pattern.search(row.name)
        group = row.group or (match and (match[1] if pattern.groups else match[0])) or None
        grouped.append(row._replace(group=group))
        if group is None:
            alone.append(row.name)
    if alone and len(alone) == len(rows):
        found.faults.append(f"--group {pattern.pattern} matches no picture, not even {some(alone[:1])}")
    elif alone:
        found.notes.append(listed(alone, "picture is in no group", "pictures are in no group"))
    return grouped


def _known_labels(names: set[str], known: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The label of each class name, and the id of each label; no ids unless the model knows every class."""
    ids = {label: label_id for label_id, label in known.items()}
    if all(name in known or name in ids for name in names):
        label_of = {name: known.get(name, name) for name in names}
        return label_of, {label: ids[label] for label in label_of.values()}
    return {name: name for name in names}, {}


def _tell_of_labels(labels: Sequence[str], found: Found) -> None:
    """Faults and notes about what the classes are called."""
    odd = [label for label in labels if not is_text(label, 1)]
    if odd:
        found.faults.append(listed(odd, "label is no UTF-8 text", "labels are no UTF-8 text"))
    nested = [label for label in labels if "/" in label]
    if nested:
        top = nested[0].split("/")[0]
        all_in_one = len(labels) > 1 and all(label.startswith(f"{top}/") for label in labels)
        found.notes.append(
            listed(nested, "label is a folder in a folder", "labels are folders in folders")
            + (f"; all are in {top}/, so DATA/{top} may be meant" if all_in_one else "")
        )
    if labels and all(label.isdecimal() for label in labels):
        found.notes.append(f"the labels are numbers, in the order of their values: {some(labels)}")
    alike = defaultdict(list)
    for label in labels:
        alike[" ".join(re.split(r"[\s_-]+", label.casefold()))].append(label)
    pairs = [" / ".join(group) for group in alike.values() if len(group) > 1]
    if pairs:
        found.notes.append(listed(pairs, "label is written in different ways", "labels are written in different ways"))
