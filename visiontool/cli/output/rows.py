"""Results as rows: JSON, JSON lines, CSV, Parquet. JSON lines and CSV stand alone and can be read back."""

import base64
import csv
import io
import json
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from visiontool.cli.text import csv_cell, json_text
from visiontool.inference.result import Result

DIGITS = 6  # of a number in a table
_PARQUET_ROWS_AT_ONCE = 4096


class FinishedRow(NamedTuple):
    path: str
    class_id: int | None  # the best, -1 where the row says unknown; None where there was an error
    digest: str | None  # `Encoder.digest` of the run that wrote it


class Encoder:
    """A format of rows, in bytes. Rows that may be read back carry `digest`, of the settings they are made with."""

    header, footer = b"", b""

    def __init__(self, digest: str | None = None) -> None:
        self.digest = digest

    def encode(self, result: Result) -> bytes:
        raise NotImplementedError

    def decode(self, line: bytes) -> FinishedRow:
        """Reads a row of a format of lines; raises ValueError, KeyError or the like where it is none."""
        raise NotImplementedError


class JsonLines(Encoder):
    """One JSON object a line."""

    def encode(self, result: Result) -> bytes:
        row = result.to_dict() | ({} if self.digest is None else {"run": self.digest})
        return json_text(row).encode() + b"\n"

    def decode(self, line: bytes) -> FinishedRow:
        row = json.loads(line)
        path = os.fsdecode(base64.b64decode(row["path_b64"])) if "path_b64" in row else str(row["path"])
        class_id = int(row["predictions"][0]["index"]) if row["status"] == "ok" else None
        return FinishedRow(path, -1 if row.get("unknown") else class_id, row.get("run"))


class Csv(Encoder):
    """A header, then one line a result; the columns label_1, index_1, probability_1 are repeated `top_k` times."""

    def __init__(self, top_k: int, digest: str | None = None, *, sets: bool = False, labels: bool = False) -> None:
        super().__init__(digest)
        self._top_k, self._sets, self._labels = top_k, sets, labels
        answers = [f"{name}_{rank}" for rank in range(1, top_k + 1) for name in ("label", "index", "probability")]
        self._columns = ["path", "status", "model", "unknown", *answers, "error", "notes", "path_b64"]
        self._columns += ["set"] if sets else []
        self._columns += ["labels"] if labels else []
        self._columns += ["run"] if digest is not None else []
        self.header = csv_line(self._columns)

    def encode(self, result: Result) -> bytes:
        path = result.path or ""
        cells = [path, result.status, result.model, "true" if result.unknown else ""]
        for item in result.predictions:
            cells += [item.label, str(item.index), f"{item.probability:.{DIGITS}f}"]
        cells += [""] * 3 * (self._top_k - len(result.predictions))
        cells += [result.error or "", "; ".join(result.notes)]
        # A cell may differ from the path, and two paths may not give the same row.
        cells += ["" if csv_cell(path) == path else base64.b64encode(os.fsencode(path)).decode("ascii")]
        cells += ["; ".join(result.label_set or ())] if self._sets else []
        cells += ["|".join(result.labels or ())] if self._labels else []
        cells += [self.digest] if self.digest is not None else []
        return csv_line([csv_cell(cell) for cell in cells])

    def decode(self, line: bytes) -> FinishedRow:
        (cells,) = csv.reader([line.decode()])
        row = dict(zip(self._columns, cells, strict=True))
        path = os.fsdecode(base64.b64decode(row["path_b64"])) if row["path_b64"] else row["path"]
        class_id = int(row["index_1"]) if row["status"] == "ok" else None
        return FinishedRow(path, -1 if row["unknown"] else class_id, row.get("run"))


def csv_line(cells: Sequence[str]) -> bytes:
    """The cells as one line of a CSV file."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue().encode()


def cell(value: object) -> object:
    """A value of a CSV file: a number with six digits, or text that is safe to show."""
    return round(value, DIGITS) if isinstance(value, float) else csv_cell(str(value))


class Json(Encoder):
    """One JSON document: the row itself for a single picture, else an array of rows."""

    def __init__(self, single: bool) -> None:
        super().__init__()
        self._indent = 2 if single else None
        self._separator = b"" if single else b"\n"
        self.header, self.footer = (b"", b"\n") if single else (b"[", b"\n]\n")

    def encode(self, result: Result) -> bytes:
        separator, self._separator = self._separator, b",\n"
        return separator + json_text(result.to_dict(), indent=self._indent).encode()


def write_parquet(json_lines: Path, target: Path) -> None:
    """Writes the rows of a file of JSON lines as Parquet, with pyarrow (the extra [parquet])."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    prediction = pa.struct([("label", text), ("index", pa.int32()), ("probability", pa.float64()), ("label_id", text)])
    schema = pa.schema(
        [
            ("schema", pa.int32()),
            ("path", text),
            ("path_b64", text),
            ("status", text),
            ("model", text),
            ("error", text),
            ("predictions", pa.list_(prediction)),
            ("unknown", pa.bool_()),
            ("notes", pa.list_(text)),
            ("set", pa.list_(text)),
            ("labels", pa.list_(text)),
            ("run", text),
        ]
    )
    with open(json_lines, "rb") as lines, pq.ParquetWriter(target, schema) as writer:
        while rows := [json.loads(line) for line in islice(lines, _PARQUET_ROWS_AT_ONCE)]:
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
