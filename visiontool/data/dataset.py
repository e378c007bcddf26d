"""A folder of pictures, or a table of them, as samples with classes, groups and splits. Nothing is copied or written.

DATA/<label>/picture                     a class is the folder that directly holds the pictures: "birds/crane"
DATA/train|val|test/<label>/picture      the user's own splits; without val, it is drawn from train
a CSV file: path,label[,split][,group]   paths start at DATA, or where nothing is there, at the CSV's folder; several
                                         labels a picture as cat|dog, or as a column of 0 and 1 for each label
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from visiontool.data.folders import natural_key, read_class_folders
from visiontool.data.label_table import read_csv, read_label_table
from visiontool.data.samples import NO_LABEL, Dataset, RawDataset, Sample, without
from visiontool.errors import DataError, UsageError
from visiontool.text import is_text, listed, plural, some

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
        labels_file: A CSV file with the columns path and label, and split and group where it has them.
        skip_missing: Leaves out the lines of the CSV file whose path is not there.
        group: A regular expression. Its first group, or all that it matches in the name of a sample, is the sample's
            group, unless the CSV file gives another.
        known: The label of each id of a model, which become the labels where they name every class.

    Raises:
        DataError: the folder or the CSV file is not there, cannot be read, or holds no picture at all.
        UsageError: `group` is no regular expression.
    """
    try:
        pattern = re.compile(group or "")
    except re.error as error:
        raise UsageError(f"--group {group!r} is no regular expression: {error}") from None
    if not data.is_dir():
        raise DataError(f"{data} {_why_no_folder(data)}")
    if labels_file is None:
        raw = read_class_folders(data)
    else:
        raw = read_label_table(labels_file, data, skip_missing=skip_missing)
    splits = {picture.split for picture in raw.pictures}
    if "train" in splits and not splits & {"val", None}:
        raw.notes.append(VAL_IS_DRAWN)
        raw.pictures = [
            picture._replace(split=None) if picture.split == "train" else picture for picture in raw.pictures
        ]
    if group is not None:
        _add_groups(raw, pattern)

    names = {label: unicodedata.normalize("NFC", label) for label in raw.labels}
    label_of = {name: name for name in names.values()}
    id_of: dict[str, str] = {}
    if known and label_of and all(name in known or name in known.values() for name in label_of):
        ids = {label: label_id for label_id, label in known.items()}
        label_of = {name: known.get(name, name) for name in label_of}
        id_of = {label: ids[label] for label in label_of.values()}
        raw.notes.append("the labels are the model's")
    labels = sorted(set(label_of.values()), key=natural_key)
    _check_labels(labels, raw)
    numbers = {label: class_id for class_id, label in enumerate(labels)}
    class_ids = {label: numbers[label_of[name]] for label, name in names.items()}
    samples = tuple(
        Sample(
            picture.path,
            picture.name,
            class_ids[picture.label] if picture.label else NO_LABEL,
            picture.split,
            picture.group,
            tuple(class_ids[label] for label in picture.others),
        )
        for picture in raw.pictures
    )
    label_ids = tuple(id_of[label] for label in labels) if id_of else None
    texts = (tuple(raw.faults), tuple(raw.notes))
    return Dataset(data, tuple(labels), label_ids, samples, raw.ignored, *texts, raw.is_multilabel)


def excluding(data: Dataset, file: Path) -> Dataset:
    """The dataset without the pictures of a list that `check` wrote: all of it, or those with a yes in `exclude`.

    Raises DataError for what is no such list, or where none of its pictures is in the dataset.
    """
    header, _, lines = read_csv(file, "Expected the list of: visiontool check DATA --list FILE.csv")
    asks = header.index("exclude") if "exclude" in header else None
    rows = [fields for _, fields in lines if asks is None or fields[asks].strip().casefold() == "yes"]
    names = {fields[header.index("path")] for fields in rows}
    rest = without(data, names)
    count = len(data.samples) - len(rest.samples)
    if rows and not count:
        raise DataError(f"{file}: none of its pictures is in {data.root}: {some(sorted(names))}")
    return replace(rest, notes=(*data.notes, f"left out by {file.name}: {plural(count, 'picture')}"))


def _why_no_folder(data: Path) -> str:
    if data.exists() and data.suffix.lower() in (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"):
        return "is an archive\nUnpack it, and give the folder that comes out."
    if data.exists() and data.suffix.lower() in (".csv", ".tsv", ".txt"):
        return f"is no folder\nGive the folder of the pictures, and this table as --labels {data}."
    fault = "is no folder" if data.exists() else "is not there"
    return f"{fault}\nExpected a folder with a folder of pictures for each class: DATA/<label>/picture."


def _add_groups(raw: RawDataset, pattern: re.Pattern[str]) -> None:
    grouped, ungrouped = [], []
    for picture in raw.pictures:
        match = pattern.search(picture.name)
        group = picture.group or (match and (match[1] if pattern.groups else match[0])) or None
        grouped.append(picture._replace(group=group))
        if group is None:
            ungrouped.append(picture.name)
    raw.pictures = grouped
    if ungrouped and len(ungrouped) == len(grouped):
        raw.faults.append(f"--group {pattern.pattern} matches no picture, not even {some(ungrouped[:1])}")
    elif ungrouped:
        raw.notes.append(listed(ungrouped, "picture is in no group", "pictures are in no group"))


def _check_labels(labels: Sequence[str], raw: RawDataset) -> None:
    not_text = [label for label in labels if not is_text(label, 1)]
    if not_text:
        raw.faults.append(listed(not_text, "label is no UTF-8 text", "labels are no UTF-8 text"))
    nested = [label for label in labels if "/" in label]
    if nested:
        top = nested[0].split("/")[0]
        all_in_one = len(labels) > 1 and all(label.startswith(f"{top}/") for label in labels)
        raw.notes.append(
            listed(nested, "label is a folder in a folder", "labels are folders in folders")
            + (f"; all are in {top}/, so DATA/{top} may be meant" if all_in_one else "")
        )
    if labels and all(label.isdecimal() for label in labels):
        raw.notes.append(f"the labels are numbers, in the order of their values: {some(labels)}")
    if note := spelled_differently(labels):
        raw.notes.append(note)


def spelled_differently(labels: Sequence[str]) -> str:
    """The labels that differ only in case, in what separates words or in a plural's ending, in a line, or ""."""
    spellings = defaultdict(list)
    for label in labels:
        words = " ".join(re.split(r"[\s_-]+", label.casefold()))
        spellings[re.sub("(?<=ss|sh|ch|.x)es$|(?<!s)s$", "", words)].append(label)
    pairs = [" / ".join(group) for group in spellings.values() if len(group) > 1]
    return listed(pairs, "label is written in different ways", "labels are written in different ways") if pairs else ""
