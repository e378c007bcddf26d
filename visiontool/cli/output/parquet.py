"""Rows in Parquet: the JSON rows as columns; the only user of pyarrow (the extra [parquet])."""

import json
from collections.abc import Iterable
from itertools import islice
from typing import Any, BinaryIO

_ROWS_AT_ONCE = 4096


def write(lines: Iterable[bytes], file: BinaryIO) -> None:
    """Writes JSON lines to `file` as Parquet."""
    import pyarrow.parquet

    lines = iter(lines)
    with pyarrow.parquet.ParquetWriter(file, _schema()) as writer:
        while rows := [json.loads(line) for line in islice(lines, _ROWS_AT_ONCE)]:
            writer.write_batch(pyarrow.RecordBatch.from_pylist(rows, _schema()))


def _schema() -> Any:
    import pyarrow as pa

    text = pa.string()
    prediction = pa.struct([("label", text), ("index", pa.int32()), ("probability", pa.float64()), ("label_id", text)])
    return pa.schema(
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
            ("run", text),
        ]
    )
