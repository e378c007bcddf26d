"""Progress of long work."""

from typing import Protocol


class Progress(Protocol):
    """Called with a stage, how much of it is done, and how much there is; None where that is not known.

    Stages that last long have a note too: how fast it is, and what has been reached.
    """

    def __call__(self, stage: str, done: int, total: int | None, note: str = "") -> None: ...


def silent(stage: str, done: int, total: int | None, note: str = "") -> None:
    """A `Progress` that does nothing."""
