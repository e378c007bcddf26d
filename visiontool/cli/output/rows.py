"""Results as rows: JSON, JSON lines, CSV. Rows of the latter two stand alone and can be read back."""

import base64
import csv
import io
import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from visiontool.cli.text import csv_cell, json_text
from visiontool.inference.result import Result

ROW_SCHEMA = 1


class FinishedRow(NamedTuple):
    """What a row that was read back says."""

    path: str
    ok: bool
    run: str | None
    """What it was made with, `Lines.run` of then."""
    class_id: int | None
    """The best class; None where there was an error."""
    unknown: bool


class Encoder(Protocol):
    """A format of rows, in bytes."""

    header: bytes
    """What comes before the first row."""

    def encode(self, result: Result) -> bytes:
        """A row."""
        ...

    def footer(self) -> bytes:
        """What comes after the last row."""
        ...


class Lines(Encoder, Protocol):
    """A format of one line a row, in UTF-8."""

    run: str | None
    """What rows are made with, for those that may be read back: each row says so."""

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

    def __init__(self, run: str | None = None) -> None:
        self.run = run

    def encode(self, result: Result) -> bytes:
        return json_text(as_row(result, self.run)).encode() + b"\n"

    def footer(self) -> bytes:
        return b""

    def decode(self, line: bytes) -> FinishedRow:
        row = json.loads(line)
        ok = row["status"] == "ok"
        path = os.fsdecode(base64.b64decode(row["path_b64"])) if "path_b64" in row else str(row["path"])
        class_id = int(row["predictions"][0]["index"]) if ok else None
        return FinishedRow(path, ok, row.get("run"), class_id, bool(row.get("unknown")))


class Csv:
    """A header, then one line a result; the columns label_1, index_1, probability_1 are repeated `top_k` times."""

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

    def footer(self) -> bytes:
        return b""

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


class Json:
    """One JSON document: the row itself for a single picture, else an array of rows."""

    def __init__(self, single: bool) -> None:
        self.header = b"" if single else b"["
        self._indent = 2 if single else None
        self._between, self._end = (b"", b"\n") if single else (b"\n", b"\n]\n")

    def encode(self, result: Result) -> bytes:
        before, self._between = self._between, b",\n"
        return before + json_text(as_row(result), indent=self._indent).encode()

    def footer(self) -> bytes:
        return self._end
