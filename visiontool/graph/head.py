"""A new head for a model file: one linear layer behind the embedding, in the place of the old one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from visiontool.errors import ConversionError, ModelError
from visiontool.files import replacing
from visiontool.graph import edit
from visiontool.inference.classifier import Classifier
from visiontool.model.spec import MANIFEST_KEY, ModelSpec
from visiontool.text import short_repr


def with_head(
    source: Path, target: Path, weight: NDArray[np.float32], bias: NDArray[np.float32], spec: ModelSpec
) -> ModelSpec:
    """Writes the network of the model file `source` with a new head, `logits = embedding @ weight.T + bias`.

    The graph is cut behind `embedding`; nothing that leads to it or to the feature map is touched.

    Args:
        target: the file, replaced if it exists, and only once the new one is whole; may be `source`.
        weight: (C, D).
        bias: (C,).
        spec: what the file is to say of itself. What the graph decides is filled in here: `input`, `logits`,
            `embedding`, `feature_map`, `activation` and `resize`.

    Returns:
        The spec as written.

    Raises:
        ModelError: `source` is not a model file with an embedding, or head, labels and embedding do not fit together.
        ConversionError: the file cannot be written, or what was written is not a valid model. Nothing is left behind.
    """
    model, found = edit.load(source)
    try:
        before = _manifest(found.metadata)
        embedding = _embedding(model.graph, before)
        _check_shapes(embedding, weight, bias, spec)
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from None
    kept = [output for output in model.graph.output if output.name in (before.embedding, before.feature_map)]
    _cut(model.graph, kept)
    model.ir_version = max(model.ir_version, 4)  # before it, constants had to be listed among the inputs
    logits = _append_head(model.graph, embedding, weight, bias)
    spec = replace(
        spec,
        input=before.input,
        logits=logits,
        embedding=before.embedding,
        feature_map=before.feature_map,
        activation="none",
        resize=before.resize,
    )
    edit.describe(model, spec)
    _write(model, target)
    return spec


def _manifest(metadata: dict[str, str]) -> ModelSpec:
    if MANIFEST_KEY not in metadata:
        raise ModelError(
            "the file has no manifest, so it is from another tool and does not say which of its values is the embedding"
        )
    spec = ModelSpec.from_json(metadata[MANIFEST_KEY])
    if spec.embedding is None:
        raise ModelError("the file has no embedding output, and a new head is put behind that")
    return spec


def _embedding(graph: onnx.GraphProto, spec: ModelSpec) -> onnx.ValueInfoProto:
    outputs: dict[str, onnx.ValueInfoProto] = {output.name: output for output in graph.output}
    for role, name in (("embedding", spec.embedding), ("feature_map", spec.feature_map)):
        if name is not None and name not in outputs:
            raise ModelError(
                f"the manifest's {role} output {short_repr(name)} is not in the graph: {short_repr([*outputs])}"
            )
    embedding = outputs[spec.embedding or ""]
    if embedding.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise ModelError(
            f"the embedding {short_repr(embedding.name)} is not float32; give the file before it was reduced"
        )
    return embedding


def _check_shapes(
    embedding: onnx.ValueInfoProto, weight: NDArray[np.float32], bias: NDArray[np.float32], spec: ModelSpec
) -> None:
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise ModelError(f"a head has a weight (C, D) and a bias (C,), not {weight.shape} and {bias.shape}")
    axes = embedding.type.tensor_type.shape.dim
    width = axes[1].dim_value if len(axes) == 2 else None
    if width != weight.shape[1]:
        shape = [axis.dim_value or axis.dim_param for axis in axes]
        raise ModelError(
            f"the head takes an embedding of shape (N, {weight.shape[1]}), the file gives {short_repr(shape)}"
        )
    if len(spec.labels) != len(weight):
        raise ModelError(f"the head gives {len(weight)} logits for {len(spec.labels)} labels")


def _cut(graph: onnx.GraphProto, outputs: list[onnx.ValueInfoProto]) -> None:
    """Takes out of `graph` whatever does not lead to `outputs`, which become its only ones."""
    names = {output.name for output in outputs}
    nodes = edit.leading_to(graph.node, names)
    used = names.union(*(edit.values_used(node) for node in nodes))
    made = {name for node in nodes for name in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {tensor.values.name for tensor in graph.sparse_initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    initializers = [tensor for tensor in graph.initializer if tensor.name in used]
    sparse = [tensor for tensor in graph.sparse_initializer if tensor.values.name in used]
    types = [value for value in graph.value_info if value.name in used | made]
    for field, kept in {
        "node": nodes,
        "input": inputs,
        "output": outputs,
        "initializer": initializers,
        "sparse_initializer": sparse,
        "value_info": types,
    }.items():
        graph.ClearField(field)
        getattr(graph, field).extend(kept)


def _append_head(
    graph: onnx.GraphProto, embedding: onnx.ValueInfoProto, weight: NDArray[np.float32], bias: NDArray[np.float32]
) -> str:
    """Appends the layer and puts its output first; returns that output's name."""
    names = edit.Names(graph)
    logits, node, *parameters = map(names.free, ("logits", "head", "head.weight", "head.bias"))
    for name, values in zip(parameters, (weight, bias), strict=True):
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
    graph.node.append(helper.make_node("Gemm", [embedding.name, *parameters], [logits], node, transB=1))
    value = helper.make_tensor_value_info(logits, TensorProto.FLOAT, [None, len(bias)])
    value.type.tensor_type.shape.dim[0].CopyFrom(embedding.type.tensor_type.shape.dim[0])
    graph.output.insert(0, value)
    return logits


def _write(model: onnx.ModelProto, target: Path) -> None:
    try:
        with replacing(target) as unfinished:
            unfinished.write_bytes(model.SerializeToString(deterministic=True))
            onnx.checker.check_model(unfinished, full_check=True)
            Classifier.load(unfinished, device="cpu")
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ModelError) as error:
        raise ConversionError(f"{target}: with its new head the file is not a valid model: {error}") from error
    except OSError as error:
        raise ConversionError(f"{target}: cannot be written: {error.strerror}") from None
