"""Text for people: how many there are, and names on one line."""

from collections.abc import Sequence

from visiontool.model.fields import shown

_MOST_NAMED = 3


def plural(count: int, one: str, many: str | None = None) -> str:
    """ "1 picture", "2,000 pictures", "2 classes"; `many` where it is more than an ending."""
    return f"{count:,} {one if count == 1 else many or one + ('es' if one.endswith('s') else 's')}"


def listed(names: Sequence[str], one: str, many: str) -> str:
    """ "17 classes have no picture: a, b, c and 14 more", where `many` is "classes have no picture"."""
    return f"{plural(len(names), one, many)}: {some(names)}"


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(on_one_line, names[:_MOST_NAMED])) + more


def on_one_line(name: str) -> str:
    """`name`, in quotes and with escapes where it would not show as it is."""
    return name if name.isprintable() and name.strip() == name != "" else shown(name)
