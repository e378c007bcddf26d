"""Tables of labels: CSV files with a header, as spreadsheets and programs write them, with a line for each picture."""

import codecs
import csv
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

from visiontool.data.folders import is_inside
from visiontool.data.samples import LabeledPath, RawDataset, split_called
from visiontool.errors import DataError
from visiontool.text import listed, some

_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods, .xls
_PATH_COLUMNS = re.compile(r"(file|image|img)([\s_-]*(name|path|file))?")
_HELP = (
    "Expected a CSV file whose first line is path,label or path,label,split,group; for several labels a picture,"
    " cat|dog in the column label, or a column of 0 and 1 for each label."
)
_SEPARATOR_LINE = re.compile(r'"?sep=([^"\s]|\t)"?\s*', re.IGNORECASE)  # Excel's, above the header
_LABEL_COLUMN = re.compile(r"labels?[ _-]?\d*")
_BETWEEN_LABELS = re.compile(r"\s*[;|]\s*")
_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True}
_OTHER_LABEL_COLUMNS = re.compile(r"(class|category)([\s_-]*name)?|label[\s_-]*name|target")
_ALL_LABEL_COLUMNS = (_LABEL_COLUMN, _OTHER_LABEL_COLUMNS)

# The words for one and for more of each kind.
_FAULTS = {
    "another label": (
        "picture is there twice, with different labels",
        "pictures are there twice, with different labels",
    ),
    "another split": ("picture is in two splits", "pictures are in two splits"),
    "missing": (
        "path is not there (--on-bad skip leaves it out)",
        "paths are not there (--on-bad skip leaves them out)",
    ),
    "incomplete": ("line has no path or no label", "lines have no path or no label"),
    "too long": ("line has more columns than the first", "lines have more columns than the first"),
    "unknown split": ("split is not train, val, test or nothing", "splits are not train, val, test or nothing"),
}


def read_label_table(file: Path, data: Path, *, skip_missing: bool = False) -> RawDataset:
    """The pictures that `file` names: paths start at `data`, or where nothing is there, at the folder of `file`.

    With `skip_missing`, paths that are not there are a note and no fault.
    """
    header, titles, lines = read_csv(file, _HELP, strip=True)
    flags = _flag_columns(header, lines)
    label_columns = [index for index, name in enumerate(header) if _LABEL_COLUMN.fullmatch(name)]
    if not flags:
        label_columns = label_columns or [_column(header, "label", _OTHER_LABEL_COLUMNS, file, _HELP)]
    rows = [[label for column in label_columns if (label := _label(fields[column]))] for _, fields in lines]
    if has_several := _have_several({label for labels in rows for label in labels}):
        rows = [[part for label in labels for part in _BETWEEN_LABELS.split(label) if part] for labels in rows]
    if flags:
        rows = [[_label(titles[column]) for column in flags if _FLAGS[fields[column].strip()]] for _, fields in lines]
    is_multilabel = bool(flags) or has_several or any(len(labels) > 1 for labels in rows)
    raw = RawDataset(is_multilabel=is_multilabel, labels=dict.fromkeys(_label(titles[column]) for column in flags))
    faults: defaultdict[str, dict[str, None]] = defaultdict(dict)
    pictures: dict[str, LabeledPath] = {}  # by real path
    beside_table = []
    for (number, fields), of_row in zip(lines, rows, strict=True):
        path, labels = fields[header.index("path")], [*dict.fromkeys(of_row)]
        split, group = (fields[header.index(name)].strip() if name in header else "" for name in ("split", "group"))
        if any(fields[len(header) :]):
            faults["too long"][f"line {number:,}"] = None
            continue
        if not path.strip() or not (labels or flags):
            faults["incomplete"][f"line {number:,}"] = None
            continue
        raw.labels.update(dict.fromkeys(labels))
        # As it is written comes first: spaces and backslashes may be part of a name.
        spellings = dict.fromkeys((path, path.strip(), path.strip().replace("\\", "/")))
        places = [os.path.join(folder, spelling) for spelling in spellings for folder in (data, file.parent)]
        place = next(filter(os.path.isfile, places), None)
        if place is None:
            faults["missing"][path] = None
            continue
        if file.parent != data and places.index(place) % 2:
            beside_table.append(path)
        if split and split_called(split) is None:
            faults["unknown split"][split] = None
        name, root = os.path.abspath(place), os.path.abspath(data)
        name = (os.path.relpath(name, root) if is_inside(name, root) else name).replace(os.sep, "/")
        label, *others = labels or [""]
        picture = LabeledPath(place, name, label, split_called(split), group or None, tuple(others))
        first = pictures.setdefault(os.path.realpath(place), picture)
        if {first.label, *first.others} != {label, *others}:
            both = ("|".join((each.label, *each.others)) for each in (first, picture))
            faults["another label"][f"{name} ({', '.join(both)})"] = None
        elif first.split != picture.split:
            faults["another split"][name] = None
        elif first is not picture:
            raw.ignored["repeated lines"] += 1
    if not lines:
        raise DataError(f"{file} names no picture\n{_HELP}")
    if faults["missing"] and not pictures:
        raise DataError(
            f"{file}: none of its paths is there: {some(list(faults['missing']))}\n"
            f"They start at {data}, or at the folder of the CSV file."
        )
    raw.pictures = [*pictures.values()]
    if is_multilabel:
        several = sum(len(picture.others) > 0 for picture in raw.pictures)
        none = sum(not picture.label for picture in raw.pictures)
        raw.notes.append(f"several labels a picture: {several:,} have more than one, {none:,} have none")
    if skip_missing and (missing := faults.pop("missing")):
        raw.ignored["not there"] = len(missing)
        names = listed(list(missing), "path is not there", "paths are not there")
        raw.notes.append(f"left out of {file.name}: {names}")
    raw.faults = [listed(list(faults[kind]), one, many) for kind, (one, many) in _FAULTS.items() if faults[kind]]
    if beside_table:
        origin = f"of {file.name} {{}} taken from the folder that it lies in"
        raw.notes.append(listed(beside_table, f"path {origin.format('is')}", f"paths {origin.format('are')}"))
    return raw


def _label(text: str) -> str:
    return normalize("NFC", text.strip())


def _have_several(labels: set[str]) -> bool:
    """Whether labels such as "cat|dog" are several: all parts of one are in others too, alone or not."""
    parts = [_BETWEEN_LABELS.split(label) for label in labels]
    counts = Counter(part for of_label in parts for part in {*of_label})
    return any(len(of_label) > 1 and all(counts[part] > 1 for part in of_label) for of_label in parts)


def _flag_columns(header: Sequence[str], lines: Sequence[tuple[int, Sequence[str]]]) -> list[int]:
    """The indices of two columns or more that hold 0 and 1 and nothing else, each for a label, where none is label."""
    columns = [index for index, name in enumerate(header) if name not in ("path", "split", "group")]
    if len(columns) < 2 or any(each.fullmatch(header[i]) for i in columns for each in _ALL_LABEL_COLUMNS):
        return []
    are_flags = all(fields[column].strip() in _FLAGS for _, fields in lines for column in columns)
    return columns if lines and are_flags else []


def read_csv(file: Path, help: str, *, strip: bool = False) -> tuple[list[str], list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, in lower case and as written, and the fields of each line with some, with its number.

    The column of paths is called "path", whatever the file calls it; a line that is shorter than the first is filled up
    with empty fields. UTF-8, or UTF-16 with a byte order mark; the delimiter is a comma, a semicolon or a tab,
    or what Excel's first line says: "sep=|".

    Args:
        help: The last line of the DataError for what cannot be read, is no CSV, or has no column of paths, or several.
        strip: Leaves out spaces ahead of a field, also of a quoted one.
    """
    try:
        raw = file.read_bytes()  # at once: it may be a pipe
        if raw.startswith(_WORKBOOKS):
            raise DataError(f"{file} is a workbook: save its sheet as CSV, and name that file\n{help}")
        encoding = "utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        stream = io.StringIO(raw.decode(encoding, "surrogateescape"), newline="")
        first, above = stream.readline(), 1
        delimiter = max(",;\t", key=first.count)
        if separator := _SEPARATOR_LINE.fullmatch(first):
            first, above, delimiter = stream.readline(), 2, separator[1]
        names = next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])
        header = [name.strip().casefold() for name in names]
        header[_column(header, "path", _PATH_COLUMNS, file, help)] = "path"
        reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=strip)
        lines = [(reader.line_num + above, fields) for fields in reader if any(map(str.strip, fields))]
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}\n{help}") from None
    except (csv.Error, UnicodeError) as error:
        raise DataError(f"{file} is no CSV file: {error}\n{help}") from None
    return header, names, [(number, fields + [""] * (len(header) - len(fields))) for number, fields in lines]


def _column(header: Sequence[str], name: str, others: re.Pattern[str], file: Path, help: str) -> int:
    """The index of the column `name`, or where none is called so, of the only one that `others` matches."""
    if name in header:
        return header.index(name)
    indices = [index for index, column in enumerate(header) if others.fullmatch(column)]
    if len(indices) > 1:
        columns = some([header[index] for index in indices])
        raise DataError(f"{file}: any of its columns {columns} could be {name}; call the right one {name}\n{help}")
    if not indices:
        raise DataError(f"{file} has no column {name}, found: {some(header) if any(header) else 'nothing'}\n{help}")
    return indices[0]
