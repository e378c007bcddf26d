"""A new head for a model file: one linear layer behind the embedding, in the place of the old one.

Ahead of it the outputs of earlier stages may join the embedding, and all be transformed, as
`visiontool.training.head.features` does it.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from visiontool.errors import ConversionError
from visiontool.graph import edit
from visiontool.graph.stages import add_parts, stages_of
from visiontool.model.spec import MANIFEST_KEY, ModelSpec


def with_head(
    source: Path,
    target: Path,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    spec: ModelSpec,
    *,
    stages: int = 1,
    transform: str = "none",
) -> ModelSpec:
    """Writes the network of the model file `source` with a new head, `logits = features @ weight.T + bias`.

    The graph is cut behind `embedding`; nothing that leads to it or to the feature map is touched.

    Args:
        source: a model file that has an embedding.
        target: the file, replaced if it exists; may be `source`.
        weight: (C, F).
        bias: (C,).
        spec: the manifest of the file, but for what the graph decides.
        stages: how many outputs of the network the features are made of: 1 for the embedding alone.
        transform: of each of them, "none" or "power".

    Returns:
        The spec as written, with what the graph decides.

    Raises:
        ConversionError: the file cannot be written, or would not be a valid model.
    """
    model, scanned = edit.load(source)
    before = ModelSpec.from_json(scanned.metadata[MANIFEST_KEY])
    graph = model.graph
    of_stages = stages_of(model, before)[: stages - 1] if stages > 1 else []
    edit.prune(graph, [name for name in (before.embedding, before.feature_map) if name is not None])
    model.ir_version = max(model.ir_version, 4)  # before it, constants had to be listed among the inputs
    embedding = next(output for output in graph.output if output.name == before.embedding)
    features = _add_features(graph, add_parts(graph, embedding.name, of_stages), transform)
    logits, node, *parameters = map(edit.unique_names(graph), ("logits", "head", "head.weight", "head.bias"))
    for name, values in zip(parameters, (weight, bias), strict=True):
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
    graph.node.append(helper.make_node("Gemm", [features, *parameters], [logits], node, transB=1))
    value = helper.make_tensor_value_info(logits, TensorProto.FLOAT, [None, len(bias)])
    value.type.tensor_type.shape.dim[0].CopyFrom(embedding.type.tensor_type.shape.dim[0])
    graph.output.insert(0, value)
    spec = replace(
        spec,
        input=before.input,
        logits=logits,
        embedding=before.embedding,
        feature_map=before.feature_map,
        activation="none",
        resize=before.resize,
    )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"{target}: with its new head the file is not a valid model: {error}") from error
    edit.write(model, target, spec.to_metadata())
    return spec


def _add_features(graph: onnx.GraphProto, parts: Sequence[str], transform: str) -> str:
    """Adds what makes the features of outputs (N, D) to a graph, in place; gives the value that has them."""
    unique = edit.unique_names(graph)

    def add(operator: str, *inputs: str, **attributes: Any) -> str:
        name = unique(f"features.{operator.lower()}")
        graph.node.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    if transform == "power":
        roots = [add("Mul", add("Sign", part), add("Sqrt", add("Abs", part))) for part in parts]
        parts = [add("LpNormalization", root, axis=1, p=2) for root in roots]
    return parts[0] if len(parts) == 1 else add("Concat", *parts, axis=1)
