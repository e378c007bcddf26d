"""Classifies pictures with Ray Data, on one machine or on a cluster, and writes Parquet or JSON lines.

    python examples/ray_data.py photos rows --model efficientnet_lite0
    python examples/ray_data.py s3://bucket/photos s3://bucket/rows

Each picture has one row; one that cannot be read has a row with an error. The pictures of a folder are those of
`visiontool predict`, in its order; of a store, all that is there, in the order of the names.
"""

import argparse
import base64
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before Ray is imported: it reports nothing home

import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset
import ray
import ray.data

from visiontool import Classifier, Result
from visiontool.data.discover import find_images

BATCH_SIZE = 256  # pictures; not small, since towards the end of each batch some cores have nothing to do
ROWS_PER_FILE = 100_000
# Said once for all batches: one without any error would otherwise have another type of column than one with some.
ROW = pa.schema(
    [
        ("path", pa.string()),
        ("path_b64", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("label", pa.string()),
        ("probability", pa.float64()),
    ]
)


class Classify:
    """What a Ray actor runs: it opens the model once, and uses all cores of its machine, or one GPU."""

    def __init__(self, model: str | None, device: str) -> None:
        self.classifier = Classifier.load(model, device=device, threads=1)

    def __call__(self, batch: pa.Table) -> pa.Table:
        names = [os.fsdecode(path) for path in batch["path"].to_pylist()]
        with tempfile.TemporaryDirectory() as folder:
            files = saved(batch["bytes"], folder) if "bytes" in batch.column_names else names
            # Opened in processes of their own: what crashes a decoder would take the actor with it, and Ray would
            # start it again with the same batch.
            results = self.classifier.predict_stream(files, top_k=1, timeout=10, isolate=True)
            rows = [as_row(name, result) for name, result in zip(names, results, strict=True)]
        return pa.Table.from_pylist(rows, schema=ROW)


def saved(pictures: pa.ChunkedArray, folder: str) -> list[str]:
    """The files in `folder` that these bytes were written to: visiontool takes paths, and guards how they are read."""
    files = [os.path.join(folder, str(number)) for number in range(len(pictures))]
    for file, data in zip(files, pictures, strict=True):
        Path(file).write_bytes(data.as_buffer())
    return files


def as_row(name: str, result: Result) -> dict[str, Any]:
    """A result as a row of `ROW`: `path_b64` is there for a path that is not UTF-8, as in docs/cli.md."""
    path = os.fsencode(name)
    row: dict[str, Any] = {"path": path.decode("utf-8", "replace"), "status": result.status, "error": result.error}
    if row["path"].encode() != path:
        row["path_b64"] = base64.b64encode(path).decode("ascii")
    if result.predictions:
        row["label"] = result.predictions[0].label
        row["probability"] = result.predictions[0].probability
    return row


def read(source: str) -> ray.data.Dataset:
    """What is to be classified: the column "path", and for the pictures of a store "bytes"."""
    if "://" in source:
        return ray.data.read_binary_files(source, include_paths=True)
    paths = list(find_images([source]))
    if not paths:
        sys.exit(f"no picture was found in {source}")
    # As bytes: a path need not be UTF-8.
    return ray.data.from_items(
        [{"path": os.fsencode(path)} for path in paths], override_num_blocks=-(-len(paths) // BATCH_SIZE)
    )


def start_ray(actors: int) -> None:
    """Joins the cluster that RAY_ADDRESS names, or starts Ray on this machine."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    address = os.environ.get("RAY_ADDRESS", "local")
    # What Ray calls a CPU is a place: one for each actor, and one for what reads and writes.
    places = actors + 1 if address == "local" else None
    ray.init(address, num_cpus=places, include_dashboard=False, logging_level=logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = sys.stderr.isatty()


def main() -> int:
    parser = argparse.ArgumentParser(description="Classify pictures with Ray Data.")
    parser.add_argument("source", help="a folder, or a store such as s3://bucket/photos")
    parser.add_argument("output", help="the folder that is made for the rows, or a place in a store")
    parser.add_argument("--format", choices=("parquet", "json"), default="parquet", help="default: parquet")
    parser.add_argument("--model", help="as -m of visiontool predict")
    parser.add_argument("--actors", type=int, default=1, help="one a machine or one a GPU; default: 1")
    parser.add_argument("--gpu", action="store_true", help="each actor takes a GPU")
    arguments = parser.parse_args()
    # Other machines have another working folder.
    source, output = (
        place if "://" in place else os.path.abspath(place) for place in (arguments.source, arguments.output)
    )
    if os.path.exists(output):
        parser.error(f"{output} exists")

    start_ray(arguments.actors)
    try:
        gpus = ray.cluster_resources().get("GPU", 0)
        # A cluster may start machines when they are asked for; on this machine Ray would wait for ever.
        if arguments.gpu and gpus < arguments.actors and "RAY_ADDRESS" not in os.environ:
            parser.error(f"{arguments.actors} actors want a GPU each, and this machine has {gpus:g}")
        rows = read(source).map_batches(
            Classify,
            fn_constructor_args=(arguments.model, "cuda" if arguments.gpu else "cpu"),
            compute=ray.data.ActorPoolStrategy(size=arguments.actors),
            num_cpus=1,
            num_gpus=1 if arguments.gpu else None,
            batch_size=BATCH_SIZE,
            batch_format="pyarrow",
        )
        write = rows.write_json if arguments.format == "json" else rows.write_parquet
        write(output, min_rows_per_file=ROWS_PER_FILE)
    finally:
        ray.shutdown()

    written = pyarrow.dataset.dataset(output, format=arguments.format)
    failed = written.count_rows(filter=pyarrow.compute.field("status") == "error")
    print(f"{written.count_rows():,} rows; {failed:,} failed.", file=sys.stderr)
    return 7 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
