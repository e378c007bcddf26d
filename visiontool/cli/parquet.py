"""Rows in Parquet: the JSON rows as columns; the only user of pyarrow (the extra [parquet])."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from visiontool.cli.rows import json_line
from visiontool.errors import DataError

_ROWS_AT_ONCE = 4096


def write(lines: Iterable[bytes], path: Path) -> None:
    """Writes JSON lines to `path` as Parquet."""
    import pyarrow.parquet

    lines = iter(lines)
    with pyarrow.parquet.ParquetWriter(path, _schema()) as writer:
        while rows := [json.loads(line) for line in islice(lines, _ROWS_AT_ONCE)]:
            writer.write_batch(pyarrow.RecordBatch.from_pylist(rows, _schema()))


def read_lines(path: Path) -> Iterator[bytes]:
    """The JSON lines that a file was written from.

    Raises:
        DataError: it is no Parquet file.
    """
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    yield json_line(_without_nulls(row))
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is no Parquet file of rows: {error}") from None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


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
