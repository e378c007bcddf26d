"""CSV files with a header, as spreadsheets and programs write them."""

import csv
from pathlib import Path

from visiontool.dataset.wording import some
from visiontool.errors import DataError

_DELIMITERS = (",", ";", "\t")


def read_csv(file: Path, column: str, help: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns in lower case, and the fields of each line that is not empty, with its number.

    A line that is shorter than the first is filled up with empty fields. What is no UTF-8 is kept as `os.fsdecode`
    keeps it. The file is separated by what makes `column` one: comma, semicolon or tab.

    Args:
        help: The last line of errors.

    Raises:
        DataError: the file cannot be read, is no CSV, or has not this column.
    """
    try:
        with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            first = stream.readline()
            header, delimiter = _header(first, column)
            if column not in header:
                found = some(header) if any(header) else "nothing"
                raise DataError(f"{file} has no column {column}, found: {found}\n{help}")
            reader = csv.reader(stream, delimiter=delimiter)
            lines = [(reader.line_num + 1, fields) for fields in reader if fields]
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}\n{help}") from None
    except csv.Error as error:
        raise DataError(f"{file} is no CSV file: {error}\n{help}") from None
    return header, [(number, fields + [""] * (len(header) - len(fields))) for number, fields in lines]


def _header(line: str, column: str) -> tuple[list[str], str]:
    headers = {
        delimiter: [name.strip().casefold() for fields in csv.reader([line], delimiter=delimiter) for name in fields]
        for delimiter in _DELIMITERS
    }
    delimiter = max(_DELIMITERS, key=lambda delimiter: (column in headers[delimiter], len(headers[delimiter])))
    return headers[delimiter], delimiter
