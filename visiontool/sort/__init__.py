"""Sorts pictures into class folders, and takes it back.

    with Sorter(Path("sorted"), "copy", labels) as sorter:
        sorter.place("photos/1.jpg", 3)            # -> "sorted/crane (bird)/1.jpg"
    undo(Path("sorted"))

Nothing is ever overwritten. A run that was killed is repeated with the same pictures, and ends as if it had never been:
the journal says what has a place already.
"""

from visiontool.sort.class_folders import ERROR, UNKNOWN
from visiontool.sort.journal import Mode, SortError
from visiontool.sort.sorter import Sorter
from visiontool.sort.undoing import Undone, undo

__all__ = ["ERROR", "UNKNOWN", "Mode", "SortError", "Sorter", "Undone", "undo"]
