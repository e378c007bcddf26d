"""A network in 8-bit integers: as many of its operators as leave its answers as they are."""

import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from visiontool import runtime
from visiontool.errors import ConversionError, DataError
from visiontool.exporting.precision.qdq import Ranges, TypedGraph
from visiontool.images import transforms
from visiontool.model.spec import ModelSpec
from visiontool.progress import Progress, silent

TOLERANCE = 0.03
"""How far the logits may move by default: length of the difference from those in float, as a share of theirs."""
_BATCH = 8
_COMPARED, _RANKED = 32, 8  # pictures; the order of the operators needs fewer than the verdict
_NAMED = 12  # nodes of a kind


class Quantized(NamedTuple):
    model: onnx.ModelProto  # without metadata
    notes: tuple[str, ...]  # a line for the user, if operators that could be quantized stay in float: which, and why


def to_int8(
    model: onnx.ModelProto,
    spec: ModelSpec,
    pixels: Iterable[NDArray[np.uint8]],
    *,
    tolerance: float = TOLERANCE,
    progress: Progress = silent,
) -> Quantized:
    """The network in 8-bit integers, a quarter as large and, on processors that multiply them, twice as fast or more.

    Each value inside gets the range that it has on `pixels`; weights get one for each channel. The operators that move
    the logits most stay in float, as many as it takes until these move by no more than `tolerance`.

    Args:
        model: is not changed.
        pixels: batches (n, H, W, 3) of pictures of the kind that the network will see, some hundred in all.
        progress: called with "calibrate", of the pictures and then, where the logits moved too far, of the operators.

    Returns:
        Logits and embedding are float32 and not rounded to 8 bits; a feature map is float32 and rounded.

    Raises:
        ConversionError: no operator can be computed with integers, or none of them leaves the answers as they are.
        DataError: there are no pictures.
    """
    pictures = [picture for batch in pixels for picture in batch]
    if not pictures:
        raise DataError("int8 needs pictures of the kind that the network will see; there are none")
    graph = TypedGraph(model, spec)
    if not graph.candidates:
        raise ConversionError(
            f"{spec.name}: nothing in the graph can be computed with 8-bit integers.\nTake --precision fp16."
        )
    quantizer = _Quantizer(graph, spec, pictures, progress)
    in_float: dict[str, float] = {}
    quantized = quantizer.quantized(in_float)
    error = quantizer.error(quantized)
    ranked = [] if error <= tolerance else quantizer.ranked(progress)
    while error > tolerance and ranked:
        # Errors of operators add up as squares do, and each is taken to have its share of the total.
        of_all = error**2 / max(sum(alone**2 for _, alone in ranked), 1e-30)
        to_lose = error**2 - tolerance**2
        while ranked and to_lose > 0:
            name, alone = ranked.pop(0)
            in_float[name] = alone
            to_lose -= alone**2 * of_all
        if not graph.quantizable(in_float):
            break
        quantized = quantizer.quantized(in_float)
        error = quantizer.error(quantized)
    if error > tolerance:
        raise ConversionError(
            f"{spec.name}: in 8-bit integers its answers move too far, whatever is kept in float.\n"
            "Take --precision fp16."
        )
    notes = []
    if in_float:
        nodes, most = _named(graph, in_float), max(in_float.values())
        notes.append(f"kept in float: {nodes}, each of which alone would move the logits by up to {most:.1%}")
    return Quantized(quantized, tuple(notes))


class _Quantizer:
    """A graph, the ranges of its values on the pictures, and its logits on some of them."""

    def __init__(
        self, graph: TypedGraph, spec: ModelSpec, pictures: Sequence[NDArray[np.uint8]], progress: Progress
    ) -> None:
        self._graph, self._spec = graph, spec
        self._ranges: Ranges = {}
        names = graph.values()
        for number, outputs in enumerate(self._outputs(graph.model, names, pictures), 1):
            for name, values in zip(names, outputs, strict=True):
                low, high = self._ranges.get(name, (values.min(), values.max()))
                self._ranges[name] = min(low, values.min()), max(high, values.max())
            progress("calibrate", min(number * _BATCH, len(pictures)), len(pictures))
        count = min(_COMPARED, len(pictures))  # evenly, since they may come sorted by class
        self._compared = [pictures[index * len(pictures) // count] for index in range(count)]
        self._exact = self._logits(graph.model, self._compared)

    def quantized(self, in_float: Collection[str]) -> onnx.ModelProto:
        return self._graph.quantized(self._ranges, self._graph.quantizable(in_float))

    def error(self, model: onnx.ModelProto, count: int = _COMPARED) -> float:
        """How far the logits of `model` move on `count` pictures."""
        exact = self._exact[:count]
        difference = self._logits(model, self._compared[:count]) - exact
        return float(np.linalg.norm(difference) / max(float(np.linalg.norm(exact)), 1e-12))

    def ranked(self, progress: Progress) -> list[tuple[str, float]]:
        """Operators and how far each alone moves the logits; first those that move them most for their size."""
        errors = {}
        for done, name in enumerate(self._graph.candidates):
            progress("calibrate", done, len(self._graph.candidates))
            alone = self._graph.quantized(self._ranges, self._graph.with_activation(name))
            errors[name] = self.error(alone, _RANKED)
        progress("calibrate", len(errors), len(errors))
        return sorted(errors.items(), key=lambda item: -(item[1] ** 2) / self._graph.candidates[item[0]])

    def _logits(self, model: onnx.ModelProto, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """(N, C), less their mean where it does not count: softmax takes it off again."""
        parts = [values[0] for values in self._outputs(model, [self._spec.logits], pictures)]
        logits = np.concatenate(parts)[: len(pictures)].reshape(len(pictures), -1)
        mean = logits.mean(1, keepdims=True, dtype=np.float64) if self._spec.task == "classify" else 0.0
        return np.asarray(logits - mean, np.float64)

    def _outputs(
        self, model: onnx.ModelProto, names: Sequence[str], pictures: Sequence[NDArray[np.uint8]]
    ) -> Iterator[list[NDArray[Any]]]:
        """The values `names` of the graph, batch by batch; a fixed batch is filled up with pictures of its start."""
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        outputs = {output.name for output in watched.graph.output}
        watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in outputs)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            path.write_bytes(watched.SerializeToString())
            opened = runtime.open_model(path, device="cpu")
        fixed = opened.inputs[0].shape[0]
        size = fixed if isinstance(fixed, int) else _BATCH
        for start in range(0, len(pictures), size):
            batch = np.stack(pictures[start : start + size])
            if isinstance(fixed, int):
                batch = np.resize(batch, (fixed, *batch.shape[1:]))
            feeds = {self._spec.input.name: transforms.to_tensor(batch, self._spec.input)}
            try:
                yield opened.session.run(list(names), feeds)
            except Exception as error:  # onnxruntime's exceptions share no root but Exception
                raise runtime.cannot_run(error) from None


def _named(graph: TypedGraph, names: Collection[str]) -> str:
    """ "2 of 26 Conv (node_conv2d, node_conv2d_1)" """
    by_kind: dict[str, list[str]] = {}
    for name, kind in graph.kinds.items():
        if name in names:
            by_kind.setdefault(kind, []).append(name)
    counts = Counter(graph.kinds.values())
    parts = []
    for kind, nodes in by_kind.items():
        more = f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else ""
        parts.append(f"{len(nodes)} of {counts[kind]} {kind} ({', '.join(nodes[:_NAMED])}{more})")
    return "; ".join(parts)
