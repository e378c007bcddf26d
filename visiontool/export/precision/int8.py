"""A network in 8-bit integers: as many of its operators as leave its answers as they are."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from visiontool.errors import ConversionError, DataError
from visiontool.export.precision import ranges
from visiontool.export.precision.qdq import Typed
from visiontool.model.spec import ModelSpec
from visiontool.progress import Progress, silent

NEAR_ENOUGH = 0.03
"""How far the logits may move where nobody says: length of the difference from those in float, as a share of theirs."""
_JUDGED, _RANKED = 32, 8  # pictures; the order of the operators needs fewer than the verdict
_NAMED = 12  # nodes of a kind


class Quantized(NamedTuple):
    """A graph in 8-bit integers.

    Attributes:
        model: it, without metadata.
        kept: a line for the user, if operators that could be quantized are still computed in float: which, and why.
    """

    model: onnx.ModelProto
    kept: tuple[str, ...]


def to_int8(
    model: onnx.ModelProto,
    spec: ModelSpec,
    pixels: Iterable[NDArray[np.uint8]],
    *,
    near_enough: float | None = None,
    progress: Progress = silent,
) -> Quantized:
    """The network in 8-bit integers, a quarter as large and, on processors that multiply them, twice as fast or more.

    Each value inside gets the range that it has on `pixels`; weights get one for each channel. The operators that move
    the logits most stay in float, as many as it takes until these are near enough.

    Args:
        model: is not changed.
        pixels: batches (n, H, W, 3) of pictures of the kind that the network will see, some hundred in all.
        near_enough: how far the logits may move on some of the pictures; None for `NEAR_ENOUGH`.
        progress: called with "calibrate", how much is done and how much there is; first of the pictures, then, where
            the logits were not near enough at once, of the operators.

    Returns:
        Logits and embedding are float32 and not rounded to 8 bits; a feature map is float32 and rounded.

    Raises:
        ConversionError: no operator can be computed with integers, or none of them leaves the answers as they are.
        DataError: there are no pictures.
        ModelError: onnxruntime cannot run the graph.
    """
    pictures = [picture for batch in pixels for picture in batch]
    if not pictures:
        raise DataError("int8 needs pictures of the kind that the network will see; there are none")
    search = _Search(Typed(model, spec), spec, pictures, NEAR_ENOUGH if near_enough is None else near_enough, progress)
    kept = search.run()
    return Quantized(search.quantized(kept), _lines(search.graph, kept))


class _Search:
    def __init__(
        self,
        graph: Typed,
        spec: ModelSpec,
        pictures: Sequence[NDArray[np.uint8]],
        near_enough: float,
        progress: Progress,
    ) -> None:
        self.graph, self.spec, self.near_enough, self.progress = graph, spec, near_enough, progress
        if not graph.candidates:
            raise ConversionError(
                f"{spec.name}: nothing in the graph can be computed with 8-bit integers.\nTake --precision fp16."
            )
        self._judged = _spread(pictures, _JUDGED)
        names = graph.values()
        self._ranges: ranges.Ranges = {}
        for batch, found in enumerate(ranges.ranges(graph.model, names, pictures, spec.input), 1):
            self._ranges = found
            progress("calibrate", min(batch * ranges.BATCH, len(pictures)), len(pictures))
        self._exact = self._logits(graph.model, self._judged)

    def run(self) -> dict[str, float]:
        """The operators to keep in float, and how far each alone would move the logits."""
        kept: dict[str, float] = {}
        error = self._error(self.quantized(kept), _JUDGED)
        if error <= self.near_enough:
            return kept
        ranked = self._ranked()
        while error > self.near_enough and ranked:
            # Errors of operators add up as squares do, and each is taken to have its share of what is there.
            of_all = error**2 / max(sum(alone**2 for _, alone in ranked), 1e-30)
            to_lose = error**2 - self.near_enough**2
            while ranked and to_lose > 0:
                name, alone = ranked.pop(0)
                kept[name] = alone
                to_lose -= alone**2 * of_all
            if not self.graph.quantizable(kept):
                break
            error = self._error(self.quantized(kept), _JUDGED)
        if error > self.near_enough:
            raise ConversionError(
                f"{self.spec.name}: in 8-bit integers its answers move too far, whatever is kept in float.\n"
                "Take --precision fp16."
            )
        return kept

    def quantized(self, kept: Iterable[str]) -> onnx.ModelProto:
        """The graph in which all but `kept` is quantized."""
        return self.graph.quantized(self._ranges, self.graph.quantizable(set(kept)))

    def _ranked(self) -> list[tuple[str, float]]:
        """Operators and how far each of them alone moves the logits, those first that move them most for their size.

        Errors add up as squares do, and a weight in float takes four times the room.
        """
        found = []
        for done, name in enumerate(self.graph.candidates):
            self.progress("calibrate", done, len(self.graph.candidates))
            alone = self.graph.quantized(self._ranges, self.graph.with_activation(name))
            found.append((name, self._error(alone, _RANKED)))
        self.progress("calibrate", len(found), len(found))
        sizes = self.graph.weights()
        return sorted(found, key=lambda item: -(item[1] ** 2) / sizes[item[0]])

    def _error(self, model: onnx.ModelProto, count: int) -> float:
        exact = self._exact[:count]
        difference = self._logits(model, self._judged[:count]) - exact
        return float(np.linalg.norm(difference) / max(float(np.linalg.norm(exact)), 1e-12))

    def _logits(self, model: onnx.ModelProto, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """(N, C), less their mean, which does not count: softmax takes it off again."""
        parts = [values[0] for values in ranges.outputs(model, [self.spec.logits], pictures, self.spec.input)]
        logits = np.concatenate(parts)[: len(pictures)].reshape(len(pictures), -1)
        centered: NDArray[np.float64] = logits - logits.mean(1, keepdims=True, dtype=np.float64)
        return centered


def _spread(pictures: Sequence[NDArray[np.uint8]], count: int) -> list[NDArray[np.uint8]]:
    """`count` of the pictures, taken evenly, since they may come sorted by class."""
    count = min(count, len(pictures))
    return [pictures[index * len(pictures) // count] for index in range(count)]


def _lines(graph: Typed, kept: dict[str, float]) -> tuple[str, ...]:
    if not kept:
        return ()
    most = max(kept.values())
    return (f"kept in float: {_named(graph, kept)}, each of which alone would move the logits by up to {most:.1%}",)


def _named(graph: Typed, names: Iterable[str]) -> str:
    """ "2 of 26 Conv (node_conv2d, node_conv2d_1)" """
    by_kind: dict[str, list[str]] = {}
    for name, kind in graph.kinds(list(names)):
        by_kind.setdefault(kind, []).append(name)
    all_of = Counter(node.op_type for node in graph.model.graph.node)
    return "; ".join(f"{len(found)} of {all_of[kind]} {kind} ({_listed(found)})" for kind, found in by_kind.items())


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
