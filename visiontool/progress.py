"""What long work calls to tell how far it is."""

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Called with a stage, how much of it is done, and how much there is; None where nobody knows."""


def silent(stage: str, done: int, total: int | None) -> None:
    """A `Progress` that tells nobody."""
