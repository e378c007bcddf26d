"""A folder name for each label: readable, safe on every system, and its own even where upper and lower case are one."""

import re
import unicodedata
from collections.abc import Sequence

UNKNOWN, ERROR = "_unknown", "_error"

_MAX_BYTES = 255
# Controls, what Windows forbids, what breaks a line or turns the reading direction, lone surrogates. The joiners U+200C
# and U+200D stay: emoji and Persian need them.
_UNSAFE = re.compile(
    r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]'
)
# Devices on Windows, whatever the ending: "nul.txt" is one too.
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\.|$)", re.IGNORECASE)


def class_folders(labels: Sequence[str]) -> tuple[str, ...]:
    """The folder of each label, in their order: the label itself wherever that is safe ("crane (bird)").

    What is unsafe becomes "_"; where another label, `UNKNOWN` or `ERROR` has the name already, " (2)" stands behind it.
    """
    taken = {_folded(UNKNOWN), _folded(ERROR)}
    numbers: dict[str, int] = {}  # the last one given, so that a thousand labels of one name are not tried in turn
    names = []
    for label in labels:
        safe = name = _safe(label)
        while _folded(name) in taken:
            number = numbers[_folded(safe)] = numbers.get(_folded(safe), 1) + 1
            name = _cut(safe, f" ({number})")
        taken.add(_folded(name))
        names.append(name)
    return tuple(names)


def _safe(label: str) -> str:
    # Leading dots would hide the folder, and Windows drops dots and spaces at the end.
    name = _UNSAFE.sub("_", unicodedata.normalize("NFC", label)).strip(". ") or "_"
    return _cut(f"_{name}" if _DEVICE.match(name) else name)


def _cut(name: str, tail: str = "") -> str:
    """`name` and `tail` in at most 255 bytes of UTF-8, which is what most file systems take."""
    room = _MAX_BYTES - len(tail)
    return (name if len(name.encode()) <= room else name.encode()[:room].decode(errors="ignore").rstrip(". ")) + tail


def _folded(name: str) -> str:
    # Unicode's canonical caseless match (D145), which is at least as wide as what file systems do.
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
