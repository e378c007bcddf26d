"""Files that are there whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(target: Path, unfinished: Path | None = None) -> Iterator[Path]:
    """A path beside `target` to write to: it becomes `target` when the block ends, and is deleted where it fails.

    Args:
        unfinished: what it is called; None for `target` and ".partial".
    """
    unfinished = unfinished or target.with_name(target.name + ".partial")
    try:
        yield unfinished
        unfinished.replace(target)
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
