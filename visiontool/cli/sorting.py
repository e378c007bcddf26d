"""`--sort-into`, `--undo`: what the command line makes of `visiontool.sort`."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from visiontool.cli import exit_codes
from visiontool.cli.text import Sample, printable, say
from visiontool.errors import PictureError, UsageError

if TYPE_CHECKING:
    from visiontool.sort import Sorter


class Sorting:
    """Puts pictures into class folders where that is asked for, and remembers what could not be put there. A context.

    Args:
        folder: None where it is not asked for.
        labels: in the order of the class ids.
    """

    def __init__(self, folder: Path | None, mode: Any, labels: Sequence[str]) -> None:
        self._unplaced = Sample()
        self._sorter: Sorter | None = None
        if folder is not None:
            from visiontool import sort

            self._sorter = sort.Sorter(folder, mode, labels)

    def __enter__(self) -> "Sorting":
        if self._sorter is not None:
            self._sorter.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sorter is not None:
            self._sorter.__exit__(kind, error, trace)

    @property
    def failed(self) -> int:
        """How many could not be placed."""
        return self._unplaced.count

    def place(self, path: str, class_id: int | None, unknown: bool) -> None:
        """Gives a picture its place; one that could not be read has no class."""
        if self._sorter is None:
            return
        try:
            self._sorter.place(path, class_id, unknown=unknown)
        except PictureError as error:
            self._unplaced.add(f"  {printable(path)}: {error}")

    def tell(self) -> None:
        """Says what could not be placed."""
        if self.failed:
            say(
                "\n".join(
                    [f"{self.failed:,} could not be sorted and are where they were, such as:", *self._unplaced.some]
                )
            )


def check_sorting(folder: Path | None, mode: str | None, yes: bool) -> None:
    """Raises UsageError where the options do not go together."""
    if folder is None and (mode is not None or yes):
        raise UsageError("--mode and --yes are about --sort-into DIR; there is none")
    if mode == "move" and not yes:
        raise UsageError(
            "--mode move takes the pictures out of their folders; say --yes as well (--undo puts them back)"
        )
    if yes and mode != "move":
        raise UsageError("--yes is about --mode move")


def undo_sorting(context: click.Context, folder: Path | None, quiet: bool) -> int:
    """`--undo`: gives the exit code."""
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if folder is None or given - {"undo", "sort_into", "quiet"} or context.params["paths"]:
        raise UsageError("--undo goes with --sort-into DIR and nothing else: visiontool predict --sort-into DIR --undo")
    from visiontool.sort import undo

    done = undo(folder, on_left=lambda path, reason: say(f"Left: {printable(path)}: {reason}"))
    if not quiet:
        say(f"Put back: {done.put_back:,}. Left: {done.left:,}.")
    return exit_codes.SOME_FAILED if done.left else 0
