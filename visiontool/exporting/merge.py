"""An ensemble as one graph: its members side by side, then the operators that combine their answers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper

from visiontool.errors import ConversionError
from visiontool.graph import edit
from visiontool.images.transforms import fit_options
from visiontool.inference.ensemble import LEAST, STACKED_LEAST, TIE, Ensemble, columns_of
from visiontool.model.spec import ModelSpec


def merged(ensemble: Ensemble) -> tuple[onnx.ModelProto, ModelSpec]:
    """The graph of an ensemble, whose logits are the logarithms of its probabilities, and its spec.

    Raises:
        ConversionError: the members take different tensors, or their graphs are of different opsets.
    """
    specs = [member.spec for member in ensemble.members]
    models = [edit.with_types(edit.load(member.path)[0], member.spec.name) for member in ensemble.members]
    takes = [_takes(spec, model) for spec, model in zip(specs, models, strict=True)]
    for spec, other in zip(specs, takes, strict=True):
        both = [(key, value, other.get(key)) for key, value in takes[0].items()]
        if differing := [f"{key} {one} and {another}" for key, one, another in both if one != another]:
            raise ConversionError(
                f"{specs[0].name} and {spec.name} cannot become one file: {'; '.join(differing)}.\n"
                "Use the ensemble as it is: predict and evaluate take its JSON file."
            )
    graph = onnx.GraphProto(name="ensemble", input=models[0].graph.input[:1])
    graph.input[0].name = "image"
    for number, (spec, model) in enumerate(zip(specs, models, strict=True)):
        edit.prune(model.graph, [spec.logits])
        models[number] = model = compose.add_prefix(model, f"member{number}.")
        graph.node.append(helper.make_node("Identity", ["image"], [model.graph.input[0].name]))
        for field in ("node", "initializer", "sparse_initializer"):
            getattr(graph, field).extend(getattr(model.graph, field))
    _combine(graph, ensemble, [model.graph.output[0].name for model in models])
    batch = graph.input[0].type.tensor_type.shape.dim[0]
    graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, len(specs[0].labels)]))
    graph.output[0].type.tensor_type.shape.dim[0].CopyFrom(batch)
    opsets = {opset.domain: opset for model in models for opset in model.opset_import}
    ir_version = max(4, *(model.ir_version for model in models))  # 4: constants need not be inputs
    result = helper.make_model(graph, opset_imports=[*opsets.values()], ir_version=ir_version)
    weights = {
        "source": f"{ensemble.combination.kind} of {', '.join(spec.name for spec in specs)}",
        "license": "; ".join(sorted({str(spec.weights.get("license", "not known")) for spec in specs})),
    }
    roughest = min((spec.precision for spec in specs), key=("int8", "fp16", "fp32").index)
    takes_image = replace(ensemble.spec.input, name="image")
    return result, replace(ensemble.spec, input=takes_image, precision=roughest, weights=weights)


def _takes(spec: ModelSpec, model: onnx.ModelProto) -> dict[str, Any]:
    """What decides the tensor that pictures become for a model, and what its graph is written in."""
    of_input = (
        ("layout", "dtype", "color") if spec.input.dtype == "uint8" else ("layout", "dtype", "color", "mean", "std")
    )
    values = fit_options(spec) | {key: getattr(spec.input, key) for key in of_input} | {"resize": spec.resize}
    if spec.crop_mode != "border":
        del values["fill"]
    values["batch"] = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or "any"
    return values | {"opset": next(opset.version for opset in model.opset_import if opset.domain == "")}


def _combine(graph: onnx.GraphProto, ensemble: Ensemble, names: Sequence[str]) -> None:
    """Adds what makes "logits" of the members' logits, as `Combination.logits` does it."""

    def add(operator: str, *inputs: str | float | NDArray[Any], output: str = "", **attributes: Any) -> str:
        taken = []
        for value in inputs:
            if not isinstance(value, str):
                constant = np.array(value, np.float32) if isinstance(value, float) else value
                graph.initializer.append(numpy_helper.from_array(constant, f"constant.{len(graph.initializer)}"))
            taken.append(value if isinstance(value, str) else graph.initializer[-1].name)
        output = output or f"combined.{len(graph.node)}"
        graph.node.append(helper.make_node(operator, taken, [output], output, **attributes))
        return output

    combination, given = ensemble.combination, []
    for member, name in zip(ensemble.members, names, strict=True):
        value = add("Flatten", add("Cast", name, to=TensorProto.FLOAT), axis=1)
        if member.spec.activation == "softmax":
            value = add("Log", add("Max", value, LEAST))
        value = add("Softmax", add("Div", value, member.spec.temperature), axis=1)
        given.append(add("Gather", value, columns_of(ensemble.spec, member.spec), axis=1))
    if combination.stacker is not None:
        features = add("Concat", *(add("Log", add("Max", each, STACKED_LEAST)) for each in given), axis=1)
        scores = add("Gemm", features, *(values.astype(np.float32) for values in combination.stacker), transB=1)
        together = add("Softmax", scores, axis=1)
    else:
        together = add("Sum", *(add("Mul", *each) for each in zip(given, combination.weights, strict=True)))
    if combination.kind == "vote":
        ends = np.array([len(ensemble.spec.labels)]), np.array([0, 1 / len(given)], np.float32)
        votes = [add("OneHot", add("ArgMax", each, axis=1, keepdims=0), *ends) for each in given]
        together = add("Div", add("Sum", *votes, add("Mul", together, TIE)), 1 + TIE)
    add("Log", add("Max", together, LEAST), output="logits")
