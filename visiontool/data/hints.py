"""What somebody may have meant by a path under which nothing is."""

import os
import re
import shlex
from collections.abc import Iterable
from itertools import islice

from visiontool.data.folders import PICTURE_EXTENSIONS

GONE = (
    "The working folder is gone, so no relative path leads anywhere.\n"
    "Change to a folder that is there (cd), or type paths from the root on."
)
_MOST_GAPS = 20
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://.", re.IGNORECASE)


def is_gone() -> bool:
    """Whether the working folder was deleted."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def hint(paths: Iterable[str]) -> str | None:
    """What is the matter with the first of `paths` that tells, and what to type; None where none of them does."""
    return next(filter(None, map(_hint, paths)), None)


def _hint(path: str) -> str | None:
    if os.path.lexists(path):
        return None
    if not os.path.isabs(path) and is_gone():
        return GONE
    if path[:5].lower() == "file:":
        from urllib.parse import unquote

        name = re.sub(r"^//(localhost)?(?=/)", "", unquote(path[5:]))
        return f"{path} is the address of a file; type its path: {shlex.quote(name)}"
    if address := _ADDRESS.match(path):
        how = f"download it first: curl -O {shlex.quote(path)}"
        is_web = address[1].lower() in ("http", "https", "ftp", "ftps")
        return (
            f"Files are read, and nothing is downloaded; {how if is_web else f'copy it to this machine first: {path}'}"
        )
    if (meant := os.path.expandvars(os.path.expanduser(path))) != path:
        return f"The shell did not expand {path} (in quotes it does not); type: {shlex.quote(meant)}"
    if what := _beside_path(path):
        return (
            f"{what}: {path}\nA list has a path on each line and nothing else.\n"
            "A table whose first line names a column path may hold more: visiontool predict @FILE.csv"
        )
    return None


def _beside_path(line: str) -> str | None:
    """What a line of a list holds beside a path."""
    start = line.lstrip()[:1]
    if start == "#" and not _is_picture(line):
        return "A comment is no path"
    if start in ("'", '"') and line.count(start) > 1:
        return "Quotes do not belong to a path"
    if line != line.strip() and os.path.lexists(line.strip()):
        return "There is white space beside the path"
    for gap in islice(re.finditer(r"[\s,;|]", line), _MOST_GAPS):
        path = line[: gap.start()]
        if os.path.isfile(path) or (_is_picture(path) and not _is_picture(line)):
            return "Something stands behind the path"
    return None


def _is_picture(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in PICTURE_EXTENSIONS
