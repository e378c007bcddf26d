"""Classifies a list of pictures with Apache Beam, on this machine or on any runner, and writes JSON lines.

    python examples/beam.py photos.txt rows --model efficientnet_lite0

Each picture has one row; one that cannot be read has a row with an error. Beam keeps no order.
"""

import argparse
import base64
import json
import os
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from visiontool import Classifier, Result

Row = dict[str, Any]


def as_row(result: Result) -> Row:
    """A result as a row: `path_b64` is there for a path that is not UTF-8, as in docs/cli.md."""
    path = os.fsencode(result.path or "")
    row: Row = {"path": path.decode("utf-8", "replace"), "status": result.status}
    if row["path"].encode() != path:
        row["path_b64"] = base64.b64encode(path).decode("ascii")
    if result.error is not None:
        return row | {"error": result.error}
    return row | {"label": result.predictions[0].label, "probability": result.predictions[0].probability}


class Handler(ModelHandler[bytes, Row, Classifier]):
    """What Beam's RunInference asks for: it opens the model once a process, and then takes batches of paths."""

    def __init__(self, model: str | None) -> None:
        super().__init__(min_batch_size=64, max_batch_size=256)
        self._model = model

    def load_model(self) -> Classifier:
        return Classifier.load(self._model, threads=1)

    def run_inference(
        self, batch: Sequence[bytes], model: Classifier, inference_args: dict[str, Any] | None = None
    ) -> list[Row]:
        paths = [os.fsdecode(path) for path in batch]
        # Opened in processes of their own: what crashes a decoder would take the worker with it.
        results = model.predict_stream(paths, top_k=1, timeout=10, isolate=True)
        return [as_row(result) for result in results]


def main() -> None:
    parser = argparse.ArgumentParser(description="Classify a list of pictures with Apache Beam.")
    parser.add_argument("list", help="text file with a path on each line")
    parser.add_argument("output", help="what the names of the files with the rows begin with")
    parser.add_argument("--model", help="as -m of visiontool predict")
    # Not Beam's DirectRunner, which tries to fetch a program from the network before it works by itself.
    parser.add_argument("--runner", default="FnApiRunner", help="and any option of Beam; default: FnApiRunner")
    arguments, options = parser.parse_known_args()
    with beam.Pipeline(options=PipelineOptions(options, runner=arguments.runner)) as pipeline:
        (
            pipeline
            | beam.io.ReadFromText(arguments.list, coder=beam.coders.BytesCoder())
            | beam.Filter(bool)  # no empty lines
            | beam.Reshuffle()  # else the worker that reads the list would do it all
            | RunInference(Handler(arguments.model))
            | beam.Map(json.dumps)
            | beam.io.WriteToText(arguments.output, file_name_suffix=".jsonl")
        )


if __name__ == "__main__":
    main()
