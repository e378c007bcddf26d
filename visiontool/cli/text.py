"""Text for people: hostile text made safe to show, since names and labels can hold anything, and lines on stderr."""

import contextlib
import json
import re
import shutil

import click

# Controls (C0, DEL, C1), marks that turn the reading direction, line separators, lone surrogates. The joiners U+200C
# and U+200D stay: emoji and Persian need them.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_SOME = 10
_FEWEST_COLUMNS = 20
_FORMULA_STARTS = ("=", "+", "-", "@")


class Sample:
    """The first few of any number of texts, and how many there are."""

    def __init__(self) -> None:
        self.some: list[str] = []
        self.count = 0

    def add(self, text: str) -> None:
        """Counts one more, and keeps it if it is one of the first."""
        self.count += 1
        if len(self.some) < _SOME:
            self.some.append(text)


def columns() -> int:
    """The width of the terminal of stdout; 80 where there is none, or where COLUMNS leaves no room for text."""
    width = shutil.get_terminal_size().columns
    return width if width >= _FEWEST_COLUMNS else 80


def say(text: str) -> None:
    """Lines on stderr. A stderr that cannot be written changes neither the rows nor the exit code."""
    with contextlib.suppress(OSError):
        click.echo(printable(text, keep="\n"), err=True)


def printable(text: str, keep: str = "") -> str:
    r"""`text` with unsafe characters written as escapes such as \x1b or \u202e, but for those in `keep`."""
    return _UNSAFE.sub(lambda match: match[0] if match[0] in keep else _escape(match[0]), text)


def counted(count: int, what: str) -> str:
    """ "1 picture", "2,000 pictures", "2 classes"."""
    return f"{count:,} {what if count == 1 else f'{what}es' if what.endswith('s') else f'{what}s'}"


def json_text(document: object, indent: int | None = None) -> str:
    r"""A JSON document whose unsafe characters are written as \uXXXX, which JSON's readers turn back."""
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    return _UNSAFE.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)


def csv_cell(text: str) -> str:
    """`text` for one cell: printable, and never a formula for a spreadsheet."""
    text = printable(text)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _escape(character: str) -> str:
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    code = ord(character)
    return named.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
