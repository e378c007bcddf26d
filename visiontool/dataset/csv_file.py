"""CSV files with a header, as spreadsheets and programs write them."""

import codecs
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from visiontool.dataset.wording import some
from visiontool.errors import DataError

_DELIMITERS = (",", ";", "\t")
_SEPARATOR_LINE = re.compile(r'"?sep=([^"\s]|\t)"?\s*', re.IGNORECASE)  # Excel's, ahead of the header
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods, .xls
_PATHS = re.compile(r"(file|image|img)([\s_-]*(name|path|file))?")


def read_csv(file: Path, help: str, *, strip: bool = False) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns in lower case, and the fields of each line that is not empty, with its number.

    The column of paths is called "path", whatever the file calls it. A line that is shorter than the first is filled up
    with empty fields. It is UTF-8, or UTF-16 with a byte order mark; what is no UTF-8 is kept as `os.fsdecode` keeps
    it. The delimiter is a comma, a semicolon or a tab, or what Excel's first line says: "sep=|".

    Args:
        help: The last line of errors.
        strip: Leaves out spaces ahead of a field, also of a quoted one.

    Raises:
        DataError: the file cannot be read, is no CSV, or has no column of paths, or several.
    """
    try:
        raw = file.read_bytes()  # at once: it may be a pipe
        if raw.startswith(_WORKBOOKS):
            raise DataError(f"{file} is a workbook: save its sheet as CSV, and name that file\n{help}")
        encoding = "utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        stream = io.StringIO(raw.decode(encoding, "surrogateescape"), newline="")
        first, above = stream.readline(), 1
        said = _SEPARATOR_LINE.fullmatch(first)
        if said is not None:
            first, above = stream.readline(), 2
        header, delimiter = _header(first, said[1] if said else None)
        header[column_of(header, "path", _PATHS, file, help)] = "path"
        reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=strip)
        lines = [(reader.line_num + above, fields) for fields in reader if any(map(str.strip, fields))]
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}\n{help}") from None
    except (csv.Error, UnicodeError) as error:
        raise DataError(f"{file} is no CSV file: {error}\n{help}") from None
    return header, [(number, fields + [""] * (len(header) - len(fields))) for number, fields in lines]


def column_of(header: Sequence[str], name: str, others: re.Pattern[str], file: Path, help: str) -> int:
    """The index of the column `name`, or where none is called so, of the only one that `others` matches.

    Raises:
        DataError: there is none, or no telling which of several is meant.
    """
    if name in header:
        return header.index(name)
    found = [index for index, called in enumerate(header) if others.fullmatch(called)]
    if len(found) > 1:
        columns = some([header[index] for index in found])
        raise DataError(f"{file}: any of its columns {columns} could be {name}; call the right one {name}\n{help}")
    if not found:
        raise DataError(f"{file} has no column {name}, found: {some(header) if any(header) else 'nothing'}\n{help}")
    return found[0]


def _header(line: str, delimiter: str | None) -> tuple[list[str], str]:
    """The names in the first line, and the delimiter: where it is not known, the one that makes a column of paths."""
    headers = {}
    for each in [delimiter] if delimiter else _DELIMITERS:
        fields = next(csv.reader([line], delimiter=each, skipinitialspace=True), [])
        headers[each] = [name.strip().casefold() for name in fields]

    def fit(each: str) -> tuple[bool, int]:
        names = headers[each]
        return any(name == "path" or _PATHS.fullmatch(name) for name in names), len(names)

    best = max(headers, key=fit)
    return headers[best], best
