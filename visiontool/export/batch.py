"""A graph that takes a fixed number of pictures at once, for runtimes that want to know it ahead."""

import onnx

from visiontool.errors import UsageError
from visiontool.spec import MAX_FIXED_BATCH, ModelSpec


def fix_batch(model: onnx.ModelProto, spec: ModelSpec, batch: int) -> None:
    """Fixes, in place, how many pictures the graph of `model` takes: `batch` of them, no other number.

    Raises:
        UsageError: `batch` is out of range, or the graph takes another fixed number already.
    """
    if not 1 <= batch <= MAX_FIXED_BATCH:
        raise UsageError(f"a batch of {batch} pictures: expected 1 to {MAX_FIXED_BATCH}")
    graph = model.graph
    image = next(value for value in graph.input if value.name == spec.input.name)
    first = image.type.tensor_type.shape.dim[0]
    if first.dim_value not in (0, batch):
        raise UsageError(
            f"{spec.name}: the graph takes {first.dim_value} pictures at once, and cannot be made to take {batch}"
        )
    symbol = first.dim_param
    for value in (image, *graph.output):
        for axis in value.type.tensor_type.shape.dim[:1]:  # some tools leave the shape of an output out
            axis.dim_value = batch
    for value in graph.value_info:
        for axis in value.type.tensor_type.shape.dim:
            if symbol and axis.dim_param == symbol:
                axis.dim_value = batch
