"""The exit codes of every command (docs/cli.md explains them)."""

from visiontool.errors import (
    ConversionError,
    DataError,
    DeviceError,
    GateError,
    ModelError,
    UsageError,
    VisiontoolError,
)

FAILED = 1
REFUSED = 6  # a check said no
SOME_FAILED = 7
INTERRUPTED = 130  # 128 + SIGINT, as shells count

_OF_ERRORS: dict[type[VisiontoolError], int] = {
    UsageError: 2,
    DataError: 3,
    ModelError: 4,
    ConversionError: 5,
    GateError: REFUSED,
    DeviceError: FAILED,
}


def of(error: VisiontoolError) -> int:
    """The exit code of an error."""
    return next((code for kind, code in _OF_ERRORS.items() if isinstance(error, kind)), FAILED)
