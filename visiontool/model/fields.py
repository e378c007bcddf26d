"""One JSON object from a stranger, read field by field: each fault names the field, what was expected and what came."""

import re
import reprlib
from collections.abc import Sequence
from typing import Any, cast

from visiontool.errors import ModelError

MAX_CLASSES = 100_000
MAX_TEXT_CHARS = 10_000
_MAX_FACTS = 100
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

_REQUIRED: Any = object()

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxlist = _short.maxtuple = 6
_short.maxlevel = 2


def shown(value: object) -> str:
    """`value` for an error message, in quotes where it is text: short and on one line, whatever it holds."""
    return _short.repr(value)


def is_text(value: object, min_chars: int = 0) -> bool:
    """Whether `value` is text of a bearable length that can be written as UTF-8."""
    return (
        isinstance(value, str) and min_chars <= len(value) <= MAX_TEXT_CHARS and _LONE_SURROGATE.search(value) is None
    )


class Fields:
    """One JSON object, called `path` in messages; "" is the document itself, which is called `document`."""

    def __init__(self, value: object, path: str = "", document: str = "manifest") -> None:
        if not isinstance(value, dict):
            what = f"{document}: {path!r}" if path else f"the {document}" if document == "manifest" else f"{document}:"
            raise ModelError(f"{what} must be a JSON object, not {shown(value)}")
        self._values = value
        self._document = document
        self._prefix = f"{path}." if path else ""

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def _fault(self, key: str, expected: str, got: object) -> ModelError:
        return ModelError(f"{self._document}: {self._prefix + key!r} must be {expected}, not {shown(got)}")

    def _get(self, key: str, default: object = _REQUIRED) -> object:
        if key in self._values:
            return self._values[key]
        if default is _REQUIRED:
            raise ModelError(f"{self._document}: {self._prefix + key!r} is missing")
        return default

    def fields(self, key: str) -> "Fields":
        return Fields(self._get(key), self._prefix + key, self._document)

    def text(self, key: str, default: str = _REQUIRED) -> str:
        value = self._get(key, default)
        if not is_text(value):
            raise self._fault(key, f"text of at most {MAX_TEXT_CHARS:,} characters", value)
        return cast(str, value)

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._get(key)
        if not isinstance(values, list):
            raise self._fault(key, "a list of texts", values)
        if not 1 <= len(values) <= MAX_CLASSES:
            raise ModelError(
                f"{self._document}: {self._prefix + key!r} must hold 1 to {MAX_CLASSES:,} texts, not {len(values):,}"
            )
        for index, value in enumerate(values):
            if not is_text(value, 1):
                raise self._fault(f"{key}[{index}]", f"text of 1 to {MAX_TEXT_CHARS:,} characters", value)
        return tuple(values)

    def choice(self, key: str, allowed: Sequence[str], default: str = _REQUIRED) -> str:
        value = self._get(key, default)
        if not isinstance(value, str) or value not in allowed:
            raise self._fault(key, f"one of {', '.join(allowed)}", value)
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._fault(key, "true or false", value)
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        value = self._get(key)
        if type(value) is not int or not low <= value <= high:
            raise self._fault(key, f"a whole number from {low} to {high}", value)
        return value

    def number(self, key: str, low: float, high: float, default: float = _REQUIRED) -> float:
        value = self._get(key, default)
        if not is_number(value, low, high):
            raise self._fault(key, f"a number from {low:g} to {high:g}", value)
        return float(cast(float, value))

    def numbers(self, key: str, low: float, high: float, lengths: Sequence[int]) -> tuple[float, ...]:
        values = self._get(key)
        if (
            not isinstance(values, list)
            or len(values) not in lengths
            or not all(is_number(value, low, high) for value in values)
        ):
            raise self._fault(
                key, f"a list of {' or '.join(map(str, lengths))} numbers from {low:g} to {high:g}", values
            )
        return tuple(float(value) for value in values)

    def facts(self, key: str) -> dict[str, Any]:
        """An object whose values are texts, numbers or lists of numbers: recorded facts that nothing depends on."""
        return self._facts(key, self._get(key, {}))

    def list_of_facts(self, key: str) -> list[dict[str, Any]]:
        values = self._get(key, [])
        if not isinstance(values, list) or len(values) > _MAX_FACTS:
            raise self._fault(key, f"a list of at most {_MAX_FACTS} objects", values)
        return [self._facts(f"{key}[{index}]", value) for index, value in enumerate(values)]

    def _facts(self, key: str, values: object) -> dict[str, Any]:
        if (
            not isinstance(values, dict)
            or len(values) > _MAX_FACTS
            or not all(is_text(name) and _is_fact(value) for name, value in values.items())
        ):
            raise self._fault(key, f"an object of at most {_MAX_FACTS} texts and numbers", values)
        return values


def is_number(value: object, low: float, high: float) -> bool:
    """Whether `value` is a number from `low` to `high`; a bool is none."""
    return type(value) in (int, float) and low <= cast(float, value) <= high


def _is_fact(value: object) -> bool:
    if isinstance(value, list):
        return len(value) <= _MAX_FACTS and all(is_number(item, -1e12, 1e12) for item in value)
    return is_text(value) or is_number(value, -1e12, 1e12)
