"""What a check of a dataset gives: findings, each with the pictures that it is about."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool.data.loader import batches, cores
from visiontool.data.samples import Dataset
from visiontool.data.splits import groups_of
from visiontool.images.decode import DEFAULT_LIMITS, Header, Limits, read_header
from visiontool.images.fingerprint import Fingerprint, same

Severity = Literal["serious", "warning", "note"]  # spoils training or its judgment; may; is worth knowing


class Suspect(NamedTuple):
    """A picture of a finding."""

    name: str  # of its sample
    score: float  # 0 to 1: how sure or how bad; comparable within a finding
    reason: str  # a few words: "truncated", "copy of train/cat/3.jpg", "rather dog (97%)"
    cluster: int | None = None  # pictures with the same number belong together
    suggested: str = ""  # another label for it
    exclude: bool = False  # whether the list of `check` proposes to leave it out


class Finding(NamedTuple):
    """Something that a check found in a dataset."""

    check: str  # its name in lists and JSON: "unreadable", "leak", "label"
    severity: Severity
    title: str  # one line: "3 pictures cannot be read"
    advice: str  # what to do, or to type
    suspects: tuple[Suspect, ...] = ()  # the worst first; none where it is about a class or the whole


@dataclass(frozen=True)
class Looked:
    """A dataset whose pictures, those of test too, were opened and embedded; what cannot be read is left out."""

    data: Dataset
    fingerprints: tuple[Fingerprint, ...]
    embeddings: NDArray[np.float32]  # (N, D), of the picture as predict sees it
    errors: dict[str, str]  # why a picture cannot be read, by its name
    limits: Limits = DEFAULT_LIMITS  # within which they were opened

    @cached_property
    def class_ids(self) -> NDArray[np.int64]:
        """(N,)."""
        return np.array([sample.class_id for sample in self.data.samples], np.int64)

    @cached_property
    def headers(self) -> list[Header]:
        """What each picture's file is."""
        with ThreadPoolExecutor(cores(), thread_name_prefix="visiontool-header") as pool:
            parts = pool.map(
                lambda part: [read_header(one.path, self.limits) for one in part], batches(self.data.samples, 64)
            )
            return [*chain.from_iterable(parts)]

    @cached_property
    def same(self) -> list[int]:
        """The number of each picture's group of same pictures."""
        return same(self.fingerprints)

    @cached_property
    def groups(self) -> NDArray[np.intp]:
        """(N,), of same pictures and the user's groups."""
        return groups_of(self.data, self.same)
