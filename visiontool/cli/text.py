"""Text for people: hostile text made safe to show, since names and labels can hold anything, and lines on stderr."""

import contextlib
import json
import re
import shutil
import textwrap

import click

# Controls (C0, DEL, C1), marks that turn the reading direction, line separators, lone surrogates. The joiners U+200C
# and U+200D stay: emoji and Persian need them.
UNSAFE = "\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff"
_UNSAFE = re.compile(f"[{UNSAFE}]")
_FORMULA_STARTS = ("=", "+", "-", "@")


def columns() -> int:
    """The width of the terminal of stdout; 80 where there is none, or where COLUMNS leaves no room for text."""
    width = shutil.get_terminal_size().columns
    return width if width >= 20 else 80


def say(text: str) -> None:
    """Lines on stderr. A stderr that cannot be written changes neither the rows nor the exit code."""
    with contextlib.suppress(OSError):
        click.echo(printable(text, keep="\n"), err=True)


def printable(text: str, keep: str = "") -> str:
    r"""`text` with unsafe characters written as escapes such as \x1b or \u202e, but for those in `keep`."""
    return _UNSAFE.sub(lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], text)


def json_text(document: object, indent: int | None = None) -> str:
    r"""A JSON document whose unsafe characters are written as \uXXXX, which JSON's readers turn back."""
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    return _UNSAFE.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)


def wrapped(text: str, first: str = "", others: str = "  ", *, break_words: bool = True) -> list[str]:
    """Printable lines of at most 80 characters; without `break_words` a longer word, such as a path, stays whole."""
    return textwrap.wrap(
        printable(text),
        80,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=break_words,
        break_on_hyphens=False,
    )


def csv_cell(text: str) -> str:
    """`text` for one cell: printable, and never a formula for a spreadsheet."""
    text = printable(text)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def shortened(text: str, width: int, *, keep_end: bool = False) -> str:
    """`text`, or as much of its start or end as `width` characters hold with an ellipsis."""
    if len(text) <= width:
        return text
    return f"…{text[len(text) - width + 1 :]}" if keep_end else f"{text[: width - 1]}…"
