"""Progress of long work."""

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Called with a stage, how much of it is done, and how much there is; None where that is not known."""


def silent(stage: str, done: int, total: int | None) -> None:
    """A `Progress` that does nothing."""
