"""Text for people: counts, names on one line, values in messages."""

import re
import reprlib
from collections.abc import Sequence
from typing import cast

MAX_TEXT_CHARS = 10_000
_MAX_NAMES = 3
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxlist = _short.maxtuple = 6
_short.maxlevel = 2


def plural(count: int, one: str, many: str | None = None) -> str:
    """ "1 picture", "2,000 pictures", "2 classes"; `many` where it is more than an ending."""
    return f"{count:,} {one if count == 1 else many or one + ('es' if one.endswith('s') else 's')}"


def listed(names: Sequence[str], one: str, many: str) -> str:
    """ "17 classes have no picture: a, b, c and 14 more", where `many` is "classes have no picture"."""
    return f"{plural(len(names), one, many)}: {some(names)}"


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _MAX_NAMES:,} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(map(on_one_line, names[:_MAX_NAMES])) + more


def on_one_line(name: str) -> str:
    """`name`, in quotes and with escapes where it would not show as it is."""
    return name if name.isprintable() and name.strip() == name != "" else short_repr(name)


def short_repr(value: object) -> str:
    """`value` for an error message, in quotes where it is text: short and on one line, whatever it holds."""
    return _short.repr(value)


def is_text(value: object, min_chars: int = 0) -> bool:
    """Whether `value` is text of at most `MAX_TEXT_CHARS` that can be written as UTF-8."""
    return (
        isinstance(value, str) and min_chars <= len(value) <= MAX_TEXT_CHARS and _LONE_SURROGATE.search(value) is None
    )


def is_number(value: object, low: float, high: float) -> bool:
    """Whether `value` is a number from `low` to `high`; a bool is none."""
    return type(value) in (int, float) and low <= cast(float, value) <= high
