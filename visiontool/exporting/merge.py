"""Several models as one graph: the members side by side, then operators that combine their answers or embeddings."""

import logging
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper

from visiontool.errors import ConversionError, ModelError, UsageError, VisiontoolError
from visiontool.files import MODEL_FILE
from visiontool.graph import edit
from visiontool.images.transforms import fit_options
from visiontool.inference.classifier import Classifier
from visiontool.inference.ensemble import LEAST, STACKED_LEAST, TIE, Ensemble, columns_of
from visiontool.model.spec import CropMode, ModelSpec

_log = logging.getLogger(__name__)

_MAY_DIFFER = ("interpolation", "fill")  # of joined backbones: the head is solved on what they make of such pictures
_INSTEAD = "Finetune each, and then: visiontool evaluate RUN1 RUN2 DATA --ensemble average -o FILE.json"


def merged(ensemble: Ensemble) -> tuple[onnx.ModelProto, ModelSpec]:
    """The graph of an ensemble, whose logits are the logarithms of its probabilities, and its spec.

    Raises:
        ConversionError: the members take different tensors, or their graphs are of different opsets.
    """
    specs = [member.spec for member in ensemble.members]
    advice = "Use the ensemble as it is: predict and evaluate take its JSON file."
    model, base = _side_by_side(ensemble.members, lambda problem: ConversionError(f"{problem}\n{advice}"))
    _combine(model.graph, ensemble, [f"member{number}.{spec.logits}" for number, spec in enumerate(specs)])
    _keep(model.graph, helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, len(specs[0].labels)]))
    weights = {**base.weights, "source": f"{ensemble.combination.kind} of {', '.join(spec.name for spec in specs)}"}
    return model, replace(ensemble.spec, input=base.input, precision=base.precision, weights=weights)


@contextmanager
def joined_backbones(files: Sequence[Path], crop_mode: CropMode | None = None) -> Iterator[Path]:
    """The only one of `files`, or a temporary model file with the backbones of several, to finetune.

    Its embedding is theirs side by side, each divided by its L2 norm, so that none outweighs another. Pictures are
    prepared as for the first, whose logits it has too. The same files give the same bytes, as the cache needs it.
    Raises ModelError where a model has no embedding or they take different tensors, UsageError where two are the same.
    """
    if len(files) == 1:
        yield files[0]
        return
    if len({os.path.realpath(file) for file in files}) < len(files):
        raise UsageError(f"one model is named twice: {', '.join(map(str, files))}. Leave one -m out.")
    members = [Classifier.load(file, device="cpu", threads=1, crop_mode=crop_mode) for file in files]
    parts = [f"member{number}.{member.embedding_output()}" for number, member in enumerate(members)]
    model, spec = _side_by_side(members, lambda problem: ModelError(f"{problem}\n{_INSTEAD}"), _MAY_DIFFER)
    units = [f"unit{number}" for number in range(len(parts))]
    for part, unit in zip(parts, units, strict=True):
        model.graph.node.append(helper.make_node("LpNormalization", [part], [unit], unit, axis=1))
    model.graph.node.append(helper.make_node("Concat", units, ["embedding"], "embedding", axis=1))
    _keep(model.graph, helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [None, None]), spec.logits)
    spec = replace(spec, embedding="embedding", feature_map=None)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows deletes no file that a session has open
        file = Path(folder, MODEL_FILE)
        edit.write(model, file, spec.to_metadata())
        del members, model  # which would keep their memory as long as the file is used
        yield file


def _side_by_side(
    members: Sequence[Classifier], refusal: Callable[[str], VisiontoolError], may_differ: Collection[str] = ()
) -> tuple[onnx.ModelProto, ModelSpec]:
    """A graph whose input "image" goes to all members, with the outputs of all, and a spec that is the first one's.

    The names of member 0 begin with "member0.". Raises `refusal` of the problem where they do not take the same.
    """
    specs = [member.spec for member in members]
    models = [edit.with_types(edit.load(member.path)[0], member.spec.name) for member in members]
    takes = [_takes(spec, model) for spec, model in zip(specs, models, strict=True)]
    for spec, other in zip(specs, takes, strict=True):
        text = {key: f"{key} {one} and {other.get(key)}" for key, one in takes[0].items() if one != other.get(key)}
        if differing := "; ".join(text[key] for key in text if key not in may_differ):
            raise refusal(f"{specs[0].name} and {spec.name} cannot become one file: {differing}.")
        if text:
            _log.info(f"Pictures are prepared as for {specs[0].name}; {spec.name} differs: {'; '.join(text.values())}.")
    graph = onnx.GraphProto(name="side by side", input=models[0].graph.input[:1])
    graph.input[0].name = "image"
    for number, model in enumerate(models):
        models[number] = model = compose.add_prefix(model, f"member{number}.")
        graph.node.append(helper.make_node("Identity", ["image"], [model.graph.input[0].name]))
        for field in ("node", "initializer", "sparse_initializer", "output"):
            getattr(graph, field).extend(getattr(model.graph, field))
    opsets = {opset.domain: opset for model in models for opset in model.opset_import}
    ir_version = max(4, *(model.ir_version for model in models))  # 4: constants need not be inputs
    weights = {
        "source": "; ".join(str(spec.weights.get("source", spec.name)) for spec in specs),
        "license": "; ".join(sorted({str(spec.weights.get("license", "not known")) for spec in specs})),
    }
    spec = replace(
        specs[0],
        name=" and ".join(spec.name for spec in specs),
        architecture="",
        input=replace(specs[0].input, name="image"),
        precision=min((spec.precision for spec in specs), key=("int8", "fp16", "fp32").index),
        logits=f"member0.{specs[0].logits}",
        weights=weights,
    )
    return helper.make_model(graph, opset_imports=[*opsets.values()], ir_version=ir_version), spec


def _keep(graph: onnx.GraphProto, output: onnx.ValueInfoProto, *others: str) -> None:
    """Makes a value an output, with the batch of the input, and leaves out what neither it nor the others need."""
    graph.output.append(output)
    graph.output[-1].type.tensor_type.shape.dim[0].CopyFrom(graph.input[0].type.tensor_type.shape.dim[0])
    edit.prune(graph, [output.name, *others])


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
