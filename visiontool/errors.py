"""What can go wrong, one family for each exit code of the command line (`cli` picks the code).

    VisiontoolError
    ├── UsageError         an argument that cannot be meant
    ├── DataError          nothing to work on, or a dataset that cannot be used
    │   └── PictureError   one picture that cannot be read: it becomes a row, not a stop
    ├── ModelError         a model that is unknown, broken or not what it says
    ├── ConversionError    a model that could not be converted or written
    ├── GateError          a check that said no
    └── DeviceError        a device that was asked for and cannot be used

A message names the offending value, what was expected and the next thing to type, in one to three lines.
"""

import sys
from collections.abc import Iterable, Mapping


class VisiontoolError(Exception):
    """The root of everything that visiontool raises on purpose."""


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
    """A check said no: two models that should answer alike do not."""


class DeviceError(VisiontoolError):
    """A device that was asked for and cannot be used on this machine."""


def first_line(error: BaseException) -> str:
    """What an error of another library says, to be put into a message: one line of at most 300 characters, in which the
    end is kept, where the reason often is.
    """
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


def closest(name: str, known: Iterable[str], shown: Mapping[str, str] | None = None) -> str:
    """ " Closest: a, b." for the names nearest to `name`, each as `shown` writes it, or "" where none is near."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" Closest: {', '.join(shown[match] if shown else match for match in near)}." if near else ""
