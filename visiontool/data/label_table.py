"""Tables of labels: CSV files with a header, as spreadsheets and programs write them, with a line for each picture."""

import codecs
import csv
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from unicodedata import normalize

from visiontool.data.folders import is_inside
from visiontool.data.samples import Found, Row, split_called
from visiontool.errors import DataError
from visiontool.text import listed, some

_SEPARATOR_LINE = re.compile(r'"?sep=([^"\s]|\t)"?\s*', re.IGNORECASE)  # Excel's, ahead of the header
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods, .xls
_PATHS = re.compile(r"(file|image|img)([\s_-]*(name|path|file))?")
_HELP = "Expected a CSV file whose first line is path,label or path,label,split,group."
_LABEL_COLUMN = re.compile(r"labels?[ _-]?\d*")
_OTHER_LABEL_COLUMNS = re.compile(r"(class|category)([\s_-]*name)?|label[\s_-]*name|target")

# What is told of the names that have it: of one, and of more.
_ODDITIES = {
    "several labels": (
        "picture has several labels, which is not supported yet",
        "pictures have several labels, which is not supported yet",
    ),
    "another label": (
        "picture stands there twice, with different labels",
        "pictures stand there twice, with different labels",
    ),
    "another split": ("picture is in two splits", "pictures are in two splits"),
    "missing": (
        "path is not there (--on-bad skip leaves out its line)",
        "paths are not there (--on-bad skip leaves out their lines)",
    ),
    "incomplete": ("line has no path or no label", "lines have no path or no label"),
    "too long": ("line has more columns than the first", "lines have more columns than the first"),
    "unknown split": (
        "split is unknown (expected train, val, test or nothing)",
        "splits are unknown (expected train, val, test or nothing)",
    ),
}


def read_label_table(file: Path, data: Path, *, skip_missing: bool = False) -> Found:
    """The pictures that `file` names: paths start at `data`, or where nothing is there, at the folder of `file`.

    Args:
        skip_missing: Paths that are not there are a note and no fault.
    """
    header, lines = read_csv(file, _HELP, strip=True)
    label_columns = [index for index, name in enumerate(header) if _LABEL_COLUMN.fullmatch(name)]
    label_columns = label_columns or [column_of(header, "label", _OTHER_LABEL_COLUMNS, file, _HELP)]
    found = Found()
    odd: defaultdict[str, dict[str, None]] = defaultdict(dict)
    rows: dict[str, Row] = {}  # by real path
    beside = []
    for number, fields in lines:
        path = fields[header.index("path")]
        labels = [label for column in label_columns if (label := normalize("NFC", fields[column].strip()))]
        split, group = (fields[header.index(name)].strip() if name in header else "" for name in ("split", "group"))
        if any(fields[len(header) :]):
            odd["too long"][f"line {number:,}"] = None
            continue
        if not path.strip() or not labels:
            odd["incomplete"][f"line {number:,}"] = None
            continue
        found.labels.setdefault(labels[0])
        place, folder = _place(path, (data, file.parent))
        if place is None:
            odd["missing"][path] = None
            continue
        if len(labels) > 1:
            odd["several labels"][path] = None
        if split and split_called(split) is None:
            odd["unknown split"][split] = None
        row = Row(place, _name(place, data), labels[0], split_called(split), group or None)
        before = rows.setdefault(os.path.realpath(place), row)
        if before.label != row.label:
            odd["another label"][f"{row.name} ({before.label}, {row.label})"] = None
        elif before.split != row.split:
            odd["another split"][row.name] = None
        elif before is not row:
            found.ignored["repeated lines"] += 1
        if folder != data:
            beside.append(path)
    if not lines:
        raise DataError(f"{file} names no picture\n{_HELP}")
    if odd["missing"] and not rows:
        raise DataError(
            f"{file}: none of its paths is there: {some(list(odd['missing']))}\n"
            f"They start at {data}, or at the folder of the CSV file."
        )
    joint = _joint(found.labels)
    odd["several labels"].update(dict.fromkeys(row.name for row in rows.values() if row.label in joint))
    found.rows = [row for row in rows.values() if row.label not in joint]
    found.labels = {label: None for label in found.labels if label not in joint}
    if skip_missing and (missing := odd.pop("missing")):
        found.ignored["not there"] = len(missing)
        told_as = listed(list(missing), "path is not there", "paths are not there")
        found.notes.append(f"left out of {file.name}: {told_as}")
    found.faults = [listed(list(odd[kind]), one, many) for kind, (one, many) in _ODDITIES.items() if odd[kind]]
    if beside:
        where = f"of {file.name} {{}} taken from the folder that it lies in"
        found.notes.append(listed(beside, f"path {where.format('is')}", f"paths {where.format('are')}"))
    return found


def _place(path: str, folders: Sequence[Path]) -> tuple[str, Path] | tuple[None, None]:
    """Where the file is that a line names and the folder that its path starts at, or None where it is in neither.

    What is written comes first: spaces and backslashes may be part of a name.
    """
    stripped = path.strip()
    for spelled in dict.fromkeys((path, stripped, stripped.replace("\\", "/"))):
        for folder in folders:
            if os.path.isfile(place := os.path.join(folder, spelled)):
                return place, folder
    return None, None


def _name(place: str, data: Path) -> str:
    path, root = os.path.abspath(place), os.path.abspath(data)
    return (path[len(os.path.join(root, "")) :] if is_inside(path, root) else path).replace(os.sep, "/")


def _joint(labels: Iterable[str]) -> set[str]:
    """The labels that are several in one, such as "cat|dog": another label of the file is or has each of the parts."""
    parts_of = {label: {part.strip() for part in re.split(r"[;|]", label)} for label in labels}
    holders = Counter(part for parts in parts_of.values() for part in parts)
    return {
        label
        for label, parts in parts_of.items()
        if len(parts) > 1 and all(part and holders[part] > 1 for part in parts)
    }


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
        delimiter = max(",;\t", key=first.count)
        if (separator := _SEPARATOR_LINE.fullmatch(first)) is not None:
            first, above, delimiter = stream.readline(), 2, separator[1]
        names = next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])
        header = [name.strip().casefold() for name in names]
        header[column_of(header, "path", _PATHS, file, help)] = "path"
        reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=strip)
        lines = [(reader.line_num + above, fields) for fields in reader if any(map(str.strip, fields))]
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}\n{help}") from None
    except (csv.Error, UnicodeError) as error:
        raise DataError(f"{file} is no CSV file: {error}\n{help}") from None
    return header, [(number, fields + [""] * (len(header) - len(fields))) for number, fields in lines]


def column_of(header: Sequence[str], name: str, others: re.Pattern[str], file: Path, help: str) -> int:
    """The index of the column `name`, or where none is called so, of the only one that `others` matches."""
    if name in header:
        return header.index(name)
    found = [index for index, called in enumerate(header) if others.fullmatch(called)]
    if len(found) > 1:
        columns = some([header[index] for index in found])
        raise DataError(f"{file}: any of its columns {columns} could be {name}; call the right one {name}\n{help}")
    if not found:
        raise DataError(f"{file} has no column {name}, found: {some(header) if any(header) else 'nothing'}\n{help}")
    return found[0]
