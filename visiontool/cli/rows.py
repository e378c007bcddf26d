"""Results as rows of text: JSON, JSON lines, CSV, or a table. A writer takes one result at a time."""

import json
import os
from typing import IO, Any

from visiontool.classifier import Result
from visiontool.cli.output import Format, RowWriter
from visiontool.cli.text import csv_cell, json_safe

ROW_SCHEMA = 1


def as_row(result: Result) -> dict[str, Any]:
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
    return row


def _path_fields(path: str) -> dict[str, str]:
    raw = os.fsencode(path)
    try:
        return {"path": raw.decode("utf-8")}
    except UnicodeDecodeError:
        import base64

        return {"path": raw.decode("utf-8", "replace"), "path_b64": base64.b64encode(raw).decode("ascii")}


class JsonLinesWriter:
    """One JSON object a line."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, result: Result) -> None:
        self._stream.write(json_safe(json.dumps(as_row(result), ensure_ascii=False)).encode() + b"\n")

    def close(self) -> None:
        """JSON lines need no end."""


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
        self._stream.write(b"\n" if self._single else b"\n]\n")


class CsvWriter:
    """A header, then one line a result; the columns label_1, index_1, probability_1 are repeated `top_k` times."""

    def __init__(self, stream: IO[bytes], top_k: int) -> None:
        self._stream = stream
        self._top_k = top_k
        answers = [f"{name}_{rank}" for rank in range(1, top_k + 1) for name in ("label", "index", "probability")]
        self._write_line(["path", "status", "model", "unknown", *answers, "error", "notes"])

    def write(self, result: Result) -> None:
        cells = [result.path or "", result.status, result.model, "true" if result.unknown else ""]
        for item in result.predictions:
            cells += [item.label, str(item.index), f"{item.probability:.6f}"]
        cells += [""] * 3 * (self._top_k - len(result.predictions))
        self._write_line([csv_cell(cell) for cell in (*cells, result.error or "", "; ".join(result.notes))])

    def close(self) -> None:
        """CSV needs no end."""

    def _write_line(self, cells: list[str]) -> None:
        import csv
        import io

        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        self._stream.write(line.getvalue().encode())


def make_writer(format_: Format, stream: IO[bytes], *, single: bool, detailed: bool, top_k: int) -> RowWriter:
    """The writer for a format.

    Args:
        single: the command names one picture, so JSON is one object.
        detailed: a table shows every class of an answer, not only the best.
        top_k: classes in an answer.
    """
    if format_ == "jsonl":
        return JsonLinesWriter(stream)
    if format_ == "json":
        return JsonWriter(stream, single)
    if format_ == "csv":
        return CsvWriter(stream, top_k)
    from visiontool.cli.table import TableWriter

    return TableWriter(stream, detailed=detailed)
