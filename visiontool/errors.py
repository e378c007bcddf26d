"""What can go wrong, one family for each exit code of the command line (`cli` picks the code).

A message names the offending value, what was expected and the next thing to type, in one to three lines.
"""

import sys
from collections.abc import Iterable, Mapping


class VisiontoolError(Exception):
    """The root of all errors of visiontool."""


class UsageError(VisiontoolError, ValueError):
    """An argument or a combination of arguments that cannot be meant."""


class DataError(VisiontoolError):
    """Nothing found to work on, or a dataset that cannot be used."""


class PictureError(DataError):
    """One picture that cannot be read or is not allowed."""


class ModelError(VisiontoolError):
    """A model that is unknown, broken, or not what it says it is."""


class ConversionError(VisiontoolError):
    """A model that could not be converted, or whose file could not be written."""


class GateError(VisiontoolError):
    """A check failed: two models that should answer alike do not."""


class DeviceError(VisiontoolError):
    """A device that was asked for and cannot be used on this machine."""


def first_line(error: BaseException) -> str:
    """The message of another library's error in at most 300 characters, with its end, which often has the reason."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 300 else f"{line[:100]} ... {line[-195:]}"


def missing_extra(extra: str, purpose: str) -> str:
    """The message for a command whose optional packages are absent: `purpose` is a gerund phrase."""
    command = pip(f'install "visiontool[{extra}]"')
    return f"{purpose} needs packages that are not installed.\nInstall them with: {command}"


def pip(arguments: str) -> str:
    """A command of pip for this environment, which may have been made without a pip of its own, as the README's is."""
    from importlib.util import find_spec

    return f"pip {arguments}" if find_spec("pip") else f'python3 -m pip --python "{sys.prefix}" {arguments}'


def closest(name: str, known: Iterable[str], labels: Mapping[str, str] | None = None) -> str:
    """ " Closest: a, b." for the names nearest to `name`, each as `labels` writes it, or "" where none is near."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" Closest: {', '.join(labels[match] if labels else match for match in near)}." if near else ""
