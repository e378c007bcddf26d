"""How faults and notes are worded: one line each, many of a kind summed up, and what splits are called."""

from collections.abc import Sequence

from visiontool.json_fields import shown

_MOST_NAMED = 3
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


def split_called(name: str) -> str | None:
    """The split that `name` means, whatever its case: "train", "val", "test" or None."""
    return _SPLITS.get(name.casefold())


def told(names: Sequence[str], one: str, many: str) -> str:
    """ "17 classes have no picture: a, b, c and 14 more", where `many` is "classes have no picture"."""
    return f"{len(names):,} {one if len(names) == 1 else many}: {some(names)}"


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(on_one_line, names[:_MOST_NAMED])) + more


def on_one_line(name: str) -> str:
    """`name`, in quotes and with escapes where it would not show as it is."""
    return name if name.isprintable() and name.strip() == name != "" else shown(name)
