"""Which pictures a run has seen: their splits, and their fingerprints, to find copies among those that judge it."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from visiontool.data.samples import Dataset, split_called
from visiontool.data.splits import read_rows
from visiontool.errors import DataError
from visiontool.evaluation.evaluate import Evaluation
from visiontool.images.fingerprint import Fingerprint, same
from visiontool.text import on_one_line, plural
from visiontool.training.embed_dataset import SplitDataset
from visiontool.training.run import SPLITS_FILE
from visiontool.training.settings import Settings, judge_of

FINGERPRINTS_FILE = "fingerprints.npz"
_PRINT = [("width", "i4"), ("height", "i4"), ("pixels", "U32"), ("thumbnail", "V256"), ("color", "V3")]
_PRINT += [("sharpness", "f4")]  # runs of older versions lack it


class Copy(NamedTuple):
    """A picture that the run has seen, or a copy of one."""

    picture: int  # its place among those that were given
    name: str  # what the run calls it
    split: str  # where the run has it: "train" or "val"


def write_fingerprints(file: Path, embedded: SplitDataset) -> None:
    """Writes the fingerprints of the pictures of train and val, which were opened."""
    rows = [
        (one, sample.name, split)
        for one, sample, split in zip(embedded.fingerprints, embedded.data.samples, embedded.splits, strict=True)
        if one is not None and split
    ]
    prints, names, splits = zip(*rows, strict=True)
    np.savez_compressed(file, print=np.array([*prints], _PRINT), name=names, split=splits)


def copies(run: Path, fingerprints: Sequence[Fingerprint]) -> list[Copy]:
    """Those of the pictures that the run has seen, or copies of them; none for a run that kept no fingerprints.

    Raises:
        DataError: the run's file is broken.
    """
    file = run / FINGERPRINTS_FILE
    if not file.is_file():
        return []
    try:
        with np.load(file, allow_pickle=False) as arrays:
            columns = [arrays[key].tolist() for key in ("print", "name", "split")]
        seen = [(Fingerprint(*one), name, split) for one, name, split in zip(*columns, strict=True)]
        leaders = same([*(one for one, *_ in seen), *fingerprints])
    except (OSError, TypeError, ValueError, KeyError, IndexError, EOFError) as error:
        raise DataError(f"{file}: is broken ({error}).\nMake the run again: visiontool finetune --from {run}") from None
    first: dict[int, tuple[str, str]] = {}
    for leader, (_, name, split) in sorted(zip(leaders, seen, strict=False), key=lambda one: one[1][2] != "train"):
        first.setdefault(leader, (name, split))  # train says more
    found = enumerate(leaders[len(seen) :])
    return [Copy(index, *first[leader]) for index, leader in found if leader in first]


def with_splits_of(run: Path, data: Dataset) -> Dataset:
    """The dataset with the run's splits, where the run was made with it and the dataset has none of its own.

    What is not in the run's splits.csv was not seen, so it is of test.
    """
    settings = Settings.of_run(run)
    is_own = os.path.realpath(settings.data) == os.path.realpath(data.root)
    if not is_own or all(sample.split is not None for sample in data.samples):
        return data
    split_of = {row["path"]: split_called(row["split"].strip()) or "" for row in read_rows(run / SPLITS_FILE)}
    samples = (
        sample._replace(split=split_of.get(sample.name, "test")) if sample.split is None else sample
        for sample in data.samples
    )
    return replace(data, samples=tuple(samples))


def notes_on(run: Path, evaluation: Evaluation, *, drawn: bool) -> list[str]:
    """What should be known of pictures that judge a run, a line each: what chose it, and what it has seen before.

    `drawn` says that their split is the run's own, which was drawn.
    """
    settings = Settings.of_run(run)
    chose = "" if settings.train is None else " chose its best epoch and"
    judge = judge_of(settings.folds)
    lines = [f"{run.name} was trained on train of {settings.data.name}; {judge}{chose} judged it then."]
    found = copies(run, evaluation.fingerprints)
    trained = [copy for copy in found if copy.split == "train"]
    if trained:
        first = trained[0]
        right = evaluation.probabilities.argmax(axis=1) == evaluation.class_ids
        others = np.delete(right, [copy.picture for copy in trained])
        rest = f" Without them top-1 is {others.mean():.1%}." if len(others) else ""
        count = plural(len(trained), "picture is, or is a copy of one that is,", "pictures are, or are copies of some,")
        example = f"{on_one_line(evaluation.samples[first.picture].name)} = {on_one_line(first.name)}"
        lines.append(f"Seen in training: {count} in its train, e.g. {example}.{rest}")
    if drawn and settings.group is None and settings.splits_file is None:
        lines.append(
            "Its val, which judges it here, was drawn at random. Where pictures come in series,\n"
            "--group or pictures taken elsewhere are the fairer judge."
        )
    return lines
