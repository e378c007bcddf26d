"""The splits of a dataset as a CSV file: path,label,split, and group where there are any."""

import csv
from collections.abc import Sequence
from pathlib import Path

from visiontool.dataset.csv_file import read_csv
from visiontool.dataset.samples import Dataset
from visiontool.dataset.wording import split_called, told
from visiontool.errors import DataError

_HELP = "Expected the splits.csv of a run: path,label,split with a line for each picture of the data."


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
    """The split that `file` says of each sample: "train", "val", "test", or "" for what is left out.

    Raises:
        DataError: the file cannot be read, is none of splits, or one side lacks pictures that the other has.
    """
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
        told(odd, one, many)
        for odd, one, many in (
            (unknown, "split is not train, val or test", "splits are not train, val or test"),
            (repeated, "picture is in two splits", "pictures are in two splits"),
            (lacking, "picture of the data is not in it", "pictures of the data are not in it"),
            (surplus, "picture in it is not in the data", "pictures in it are not in the data"),
        )
        if odd
    ]
    if faults:
        listed = "\n".join(f"  - {fault}" for fault in faults)
        raise DataError(f"{file} does not fit {dataset.root}:\n{listed}\n{_HELP}")
    return tuple(said[sample.name] for sample in dataset.samples)
