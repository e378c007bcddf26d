"""Checks of a dataset before a model learns from it: what is wrong with its files, classes, copies, labels and splits.

Each module is a kind of check, from a `Looked` to findings. All pictures are opened and embedded once; embeddings are
cached, so checking after finetuning, or again, costs little.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from visiontool.checking.classes import check_classes
from visiontool.checking.copies import check_copies
from visiontool.checking.files import check_files
from visiontool.checking.finding import Finding, Looked, Severity, Suspect
from visiontool.checking.labels import check_labels
from visiontool.checking.outliers import check_drift, check_outliers
from visiontool.checking.series import check_series
from visiontool.data.loader import DEFAULT_OPTIONS, LoadOptions
from visiontool.data.samples import Dataset, without
from visiontool.images.augment import Augment, views
from visiontool.inference.classifier import Classifier
from visiontool.inference.embeddings import embed_views
from visiontool.progress import Progress, silent

__all__ = ["Checked", "Finding", "Severity", "Suspect", "check"]

_ORDER = ("serious", "warning", "note")


class Checked(NamedTuple):
    """A dataset and what was found in it."""

    data: Dataset  # as it was read
    findings: tuple[Finding, ...]  # the most serious first

    @property
    def is_serious(self) -> bool:
        """Whether something spoils training, or the judgment of it."""
        return any(finding.severity == "serious" for finding in self.findings)


def check(
    data: Dataset,
    classifier: Classifier,
    *,
    seed: int = 0,
    options: LoadOptions = DEFAULT_OPTIONS,
    progress: Progress = silent,
) -> Checked:
    """Checks a dataset; nothing in it is changed.

    Args:
        classifier: whose embeddings tell which pictures are alike, loaded with threads=1.
        seed: of the folds that labels and series are judged by.
        progress: called with the stage ("embed" or "check") and how much is done.

    Raises:
        ModelError: the model has no embedding output.
    """
    paths = [sample.path for sample in data.samples]
    embedded = embed_views(
        classifier, paths, views(1, Augment(), 0), options, progress=lambda done, total: progress("embed", done, total)
    )
    errors = {data.samples[index].name: error for index, error in embedded.errors.items()}
    readable = [index for index in range(len(paths)) if index not in embedded.errors]
    prints = [one for one in embedded.fingerprints if one is not None]
    looked = Looked(without(data, errors), tuple(prints), embedded.vectors[readable, 0], errors, options.limits)
    findings: list[Finding] = []
    steps: tuple[Callable[[], Iterable[Finding]], ...] = (
        lambda: check_files(looked, classifier.spec),
        lambda: check_classes(looked),
        lambda: check_copies(looked),
        lambda: check_series(looked, seed),
        lambda: check_labels(looked, seed),
        lambda: check_outliers(looked),
        lambda: check_drift(looked, seed),
    )
    for done, step in enumerate(steps):
        progress("check", done, len(steps))
        findings += step()
    findings.sort(key=lambda one: (_ORDER.index(one.severity), -len(one.suspects)))
    return Checked(data, tuple(findings))
