"""Ways from a torch network to an ONNX graph. None is trusted: `parity` compares what they write with torch."""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import onnx
import onnx_ir
import torch
from onnx_ir.passes import common as passes

from visiontool.errors import ConversionError
from visiontool.model.spec import ModelSpec
from visiontool.pytorch.wrapper import InContract

MAX_WEIGHTS_BYTES = 2**31 - 2**27  # protobuf ends at 2 GiB, and the graph itself needs some of it
_TRACE_BATCH = 2  # torch.export would make a constant of a batch of 1


def _dynamo(graph: InContract, example: torch.Tensor, inputs: Sequence[str], *, optimize: bool) -> onnx_ir.Model:
    program = torch.onnx.export(
        graph,
        (example,),
        input_names=inputs,
        output_names=list(graph.outputs),
        dynamic_shapes=({0: "N"},),
        external_data=False,
        optimize=optimize,
        verbose=False,
        dynamo=True,
    )
    if program is None:
        raise ValueError("torch.onnx.export gave nothing")
    return program.model


def _torchscript(graph: InContract, example: torch.Tensor, inputs: Sequence[str]) -> onnx_ir.Model:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        torch.onnx.export(
            graph,
            (example,),
            path,
            input_names=inputs,
            output_names=list(graph.outputs),
            dynamic_axes={name: {0: "N"} for name in (*inputs, *graph.outputs)},
            verbose=False,
            dynamo=False,
        )
        return onnx_ir.from_proto(onnx.load(path))


# In the order in which they are tried; the names stand in `ModelSpec.tools` where it was not the first.
WAYS: dict[str, Callable[[InContract, torch.Tensor, Sequence[str]], onnx_ir.Model]] = {
    "dynamo": partial(_dynamo, optimize=True),
    "dynamo without optimizer": partial(_dynamo, optimize=False),
    "TorchScript": _torchscript,
}


def export(way: str, graph: InContract, spec: ModelSpec, path: Path) -> None:
    """Writes `graph` to `path` as a valid ONNX file that says `spec` of itself.

    Args:
        way: one of `WAYS`.

    Raises:
        ConversionError: the exporter failed, or wrote what is not valid ONNX.
        OSError: the file cannot be written.
    """
    height, width = spec.input.size
    example = torch.zeros((_TRACE_BATCH, height, width, 3), dtype=torch.uint8)
    try:
        with warnings.catch_warnings():  # they speak of the exporters' own code, and of the older one's age
            warnings.simplefilter("ignore")
            model = WAYS[way](graph, example, [spec.input.name])
            # The embedding's way through the head is a part of the logits' way, which was traced once more.
            passes.CommonSubexpressionEliminationPass()(model)
            passes.RemoveUnusedNodesPass()(model)
            passes.NameFixPass()(model)  # an exporter may call a node's output as one of our buffers
    except Exception as error:  # the exporters raise everything that their many parts do
        raise ConversionError(f"the exporter failed: {error}") from error
    _clear_traces(model)
    # The Image.* metadata is about inputs that are marked so.
    model.graph.inputs[0].type = onnx_ir.TensorType(onnx_ir.DataType.UINT8, denotation="IMAGE")
    model.metadata_props.update(spec.to_metadata())
    onnx_ir.save(model, path)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"the exporter wrote a file that is not valid ONNX: {error}") from error


def _clear_traces(model: onnx_ir.Model) -> None:
    """Takes out what the exporter notes of itself: node metadata holds stack traces with this machine's paths."""
    passes.ClearMetadataAndDocStringPass()(model)
    model.producer_version = torch.__version__.partition("+")[0]
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for value in values + [output for node in model.graph for output in node.outputs]:
        value.metadata_props.clear()
