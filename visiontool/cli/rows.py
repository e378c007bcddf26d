"""Results as rows of text: JSON, JSON lines, CSV. Rows of the latter two stand alone and can be read back."""

import base64
import csv
import io
import json
import os
from collections.abc import Sequence
from typing import IO, Any, Protocol

from visiontool.cli.output import FinishedRow, Format, RowWriter
from visiontool.cli.text import csv_cell, json_safe
from visiontool.result import Result

ROW_SCHEMA = 1


class Lines(Protocol):
    """A format of one line a row, in UTF-8."""

    header: bytes
    """The first line of a file, or nothing."""
    run: str | None
    """What rows are made with, for those that may be read back: each row says so."""
    is_parquet: bool
    """Whether these lines become Parquet once all are there."""

    def encode(self, result: Result) -> bytes:
        """The line of a result."""
        ...

    def decode(self, line: bytes) -> FinishedRow:
        """What a line says; ValueError, KeyError or the like where it is no such row."""
        ...


def as_row(result: Result, run: str | None = None) -> dict[str, Any]:
    """The JSON row of a result (docs/cli.md): `path_b64` is there for a path that is not UTF-8."""
    row: dict[str, Any] = {"schema": ROW_SCHEMA, **_path_fields(result.path or ""), "status": result.status}
    row["model"] = result.model
    if result.error is not None:
        row["error"] = result.error
    else:
        row["predictions"] = [
            {"label": item.label, "index": item.index, "probability": round(item.probability, 6)}
            | ({"label_id": item.label_id} if item.label_id else {})
            for item in result.predictions
        ]
    if result.unknown:
        row["unknown"] = True
    if result.notes:
        row["notes"] = list(result.notes)
    if run is not None:
        row["run"] = run
    return row


class JsonLines:
    """One JSON object a line."""

    header = b""

    def __init__(self, run: str | None = None, *, is_parquet: bool = False) -> None:
        self.run = run
        self.is_parquet = is_parquet

    def encode(self, result: Result) -> bytes:
        return json_line(as_row(result, self.run))

    def decode(self, line: bytes) -> FinishedRow:
        row = json.loads(line)
        ok = row["status"] == "ok"
        path = os.fsdecode(base64.b64decode(row["path_b64"])) if "path_b64" in row else row["path"]
        class_id = row["predictions"][0]["index"] if ok else None
        return FinishedRow(path, ok, row.get("run"), class_id, bool(row.get("unknown")))


def json_line(row: dict[str, Any]) -> bytes:
    """A row as one line of JSON that steers no terminal."""
    return json_safe(json.dumps(row, ensure_ascii=False)).encode() + b"\n"


class Csv:
    """A header, then one line a result; the columns label_1, index_1, probability_1 are repeated `top_k` times."""

    is_parquet = False

    def __init__(self, top_k: int, run: str | None = None) -> None:
        self.run = run
        self._top_k = top_k
        answers = [f"{name}_{rank}" for rank in range(1, top_k + 1) for name in ("label", "index", "probability")]
        self._columns = ["path", "status", "model", "unknown", *answers, "error", "notes", "path_b64"]
        self._columns += ["run"] if run is not None else []
        self.header = _csv_line(self._columns)

    def encode(self, result: Result) -> bytes:
        path = result.path or ""
        cells = [path, result.status, result.model, "true" if result.unknown else ""]
        for item in result.predictions:
            cells += [item.label, str(item.index), f"{item.probability:.6f}"]
        cells += [""] * 3 * (self._top_k - len(result.predictions))
        cells += [result.error or "", "; ".join(result.notes)]
        # A cell may differ from the path, and two paths may not give the same row.
        cells += ["" if csv_cell(path) == path else base64.b64encode(os.fsencode(path)).decode("ascii")]
        cells += [self.run] if self.run is not None else []
        return _csv_line([csv_cell(cell) for cell in cells])

    def decode(self, line: bytes) -> FinishedRow:
        (cells,) = csv.reader([line.decode()])
        row = dict(zip(self._columns, cells, strict=True))
        ok = row["status"] == "ok"
        path = os.fsdecode(base64.b64decode(row["path_b64"])) if row["path_b64"] else row["path"]
        return FinishedRow(path, ok, row.get("run"), int(row["index_1"]) if ok else None, row["unknown"] == "true")


def _csv_line(cells: Sequence[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue().encode()


def _path_fields(path: str) -> dict[str, str]:
    raw = os.fsencode(path)
    try:
        return {"path": raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {"path": raw.decode("utf-8", "replace"), "path_b64": base64.b64encode(raw).decode("ascii")}


class LinesWriter:
    """Rows of a line format on a stream."""

    def __init__(self, stream: IO[bytes], lines: Lines) -> None:
        self._stream = stream
        self._lines = lines
        stream.write(lines.header)

    def write(self, result: Result) -> None:
        self._stream.write(self._lines.encode(result))

    def close(self) -> None:
        """Lines need no end."""


class JsonWriter:
    """One JSON document: the row itself for a single picture, else an array of rows."""

    def __init__(self, stream: IO[bytes], single: bool) -> None:
        self._stream = stream
        self._single = single
        self._before = b"" if single else b"[\n"

    def write(self, result: Result) -> None:
        text = json.dumps(as_row(result), ensure_ascii=False, indent=2 if self._single else None)
        self._stream.write(self._before + json_safe(text).encode())
        self._before = b",\n"

    def close(self) -> None:
        nothing = b"" if self._single or self._before == b",\n" else self._before.rstrip()
        self._stream.write(nothing + (b"\n" if self._single else b"\n]\n"))


def make_lines(format_: Format, top_k: int, run: str | None = None) -> Lines:
    """The lines of a format that has some: "csv", "jsonl", or "parquet", which is JSON lines until it is complete."""
    return Csv(top_k, run) if format_ == "csv" else JsonLines(run, is_parquet=format_ == "parquet")


def make_writer(format_: Format, stream: IO[bytes], *, single: bool, detailed: bool, top_k: int) -> RowWriter:
    """The writer for a format.

    Args:
        single: the command names one picture, so JSON is one object.
        detailed: a table shows every class of an answer, not only the best.
        top_k: classes in an answer.
    """
    if format_ == "json":
        return JsonWriter(stream, single)
    if format_ == "table":
        from visiontool.cli.table import TableWriter

        return TableWriter(stream, detailed=detailed)
    return LinesWriter(stream, make_lines(format_, top_k))
