"""A graph on real pictures: its outputs, and the range of each of its values."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from visiontool import runtime
from visiontool.images import transforms
from visiontool.model.spec import InputSpec

BATCH = 8

Ranges = dict[str, tuple[np.float32, np.float32]]


def outputs(
    model: onnx.ModelProto, names: Sequence[str], pixels: Sequence[NDArray[np.uint8]], spec: InputSpec
) -> Iterator[list[NDArray[Any]]]:
    """The values `names` of the graph for all pictures, batch by batch.

    Args:
        names: outputs of the graph, or values inside of it.
        pixels: pictures (H, W, 3), of any number even where the graph takes a fixed one: it then sees some twice.

    Raises:
        ModelError: onnxruntime cannot run the graph.
    """
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    there = {output.name for output in shown.graph.output}
    shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in there)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(shown.SerializeToString())
        opened = runtime.open_model(path, device="cpu")
    fixed = opened.inputs[0].shape[0]
    size = fixed if isinstance(fixed, int) else BATCH
    for start in range(0, len(pixels), size):
        batch = np.stack(pixels[start : start + size])
        if isinstance(fixed, int):
            batch = np.resize(batch, (fixed, *batch.shape[1:]))
        feeds = {spec.name: transforms.to_tensor(batch, spec)}
        try:
            yield opened.session.run(list(names), feeds)
        except Exception as error:  # onnxruntime's exceptions share no root but Exception
            raise runtime.cannot_run(error) from None


def ranges(
    model: onnx.ModelProto, names: Sequence[str], pixels: Sequence[NDArray[np.uint8]], spec: InputSpec
) -> Iterable[Ranges]:
    """The smallest and the largest number in each of the values `names`, over more and more of the pictures."""
    found: Ranges = {}
    for values in outputs(model, names, pixels, spec):
        for name, value in zip(names, values, strict=True):
            low, high = value.min(), value.max()
            before = found.get(name, (low, high))
            found[name] = (min(low, before[0]), max(high, before[1]))
        yield found
