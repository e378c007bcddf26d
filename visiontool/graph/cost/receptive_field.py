"""Receptive fields: how much of the picture each position of a map sees.

Source: Araujo, Norris, Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks", Distill.
"""

from collections.abc import Iterable
from typing import NamedTuple

import onnx

from visiontool.graph.cost.network import ELEMENTWISE, Network, integer, integers

_MAX_PIXELS = 2**31  # a field or stride above it is no network's

_WINDOWS = ("Conv", "MaxPool", "AveragePool", "LpPool")
_POINTWISE = ELEMENTWISE | {"Cast", "CastLike", "DequantizeLinear", "Dropout", "Identity", "LRN", "QuantizeLinear"}
_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


class Span(NamedTuple):
    """What the first position sees along one side: pixels `start` to `end`; the next sees `stride` pixels further."""

    start: int
    end: int
    stride: int

    @property
    def length(self) -> int:
        return self.end - self.start + 1

    def through(self, kernel: int, stride: int, dilation: int, pad: int) -> "Span":
        """Behind a window; `pad` is the padding at its start."""
        return Span(
            self.start - pad * self.stride,
            self.end + ((kernel - 1) * dilation - pad) * self.stride,
            self.stride * stride,
        )

    def sliced(self, start: int, step: int) -> "Span":
        """Where only every `step`th position from `start` on is kept."""
        return Span(self.start + start * self.stride, self.end + start * self.stride, self.stride * step)


class Field(NamedTuple):
    """What the positions of a map see of the picture."""

    axes: tuple[int, int]  # where height and width are in the map's shape
    rows: Span
    columns: Span

    @property
    def pixels(self) -> int:
        """The longer side of what one position sees."""
        return max(self.rows.length, self.columns.length)


class Fields:
    """The receptive fields of a network's values; None where a value has no positions, or each sees the whole."""

    def __init__(self, network: Network) -> None:
        pixel = Span(0, 0, 1)
        self._network = network
        self._of: dict[str, Field] = {network.picture: Field(network.spatial_axes, pixel, pixel)}
        for node in network.nodes:
            self._add_outputs(node)

    def of(self, name: str) -> int | None:
        """What one position of a value sees, in pixels along the longer side."""
        field = self._of.get(name)
        return None if field is None else field.pixels

    def of_last_map(self) -> int | None:
        """The same for the last value that has more than one position: a map, or the tokens of a transformer."""
        for node in reversed(self._network.nodes):
            for name in node.output:
                long_axes = [side for side in self._shape(name)[1:] if side > 1]
                if name in self._network.varying and len(long_axes) > 1:
                    return self.of(name)
        return None

    def _add_outputs(self, node: onnx.NodeProto) -> None:
        inputs = self._network.varying_inputs(node)
        before = [self._of[name] for name in inputs if name in self._of and self._shape(name)]
        if not before or len(before) < len(inputs):
            return
        for output in filter(None, node.output):
            # onnx gives no shape for most wrong attributes; a wrong perm is one that it lets pass.
            if self._shape(output):
                field = self._behind(node, before, output)
                if field is not None and max(field.pixels, field.rows.stride, field.columns.stride) < _MAX_PIXELS:
                    self._of[output] = field

    def _behind(self, node: onnx.NodeProto, before: list[Field], output: str) -> Field | None:
        first, inputs = before[0], self._network.varying_inputs(node)
        if node.op_type in _POINTWISE:
            ranks = {len(self._shape(name)) for name in (*inputs, output)}
            return _union(before) if len(ranks) == 1 else None
        if node.op_type in ("Concat", "Split"):
            axis = integer(node, "axis", 0) % len(self._shape(output))
            return None if axis in first.axes else _union(before)
        if inputs != node.input[:1]:  # a kernel or a shape that depends on the picture
            return None
        if node.op_type in _WINDOWS:
            return self._window(node, first)
        if node.op_type == "Transpose":
            sides = range(len(self._shape(node.input[0])))
            order = integers(node, "perm") or tuple(reversed(sides))
            if sorted(order) != list(sides):
                return None
            return first._replace(axes=(order.index(first.axes[0]), order.index(first.axes[1])))
        if node.op_type in _RESHAPES:
            return self._reshaped(node, first, output)
        if node.op_type == "Slice":
            return self._sliced(node, first, output)
        if node.op_type == "Pad":
            return self._padded(node, first)
        if node.op_type == "LayerNormalization":
            axis = integer(node, "axis", -1) % len(self._shape(output))
            return first if max(first.axes) < axis else None
        if node.op_type.startswith("Reduce"):  # over channels, as for gray
            axes = self._network.integers(node, 1, "axes") or ()
            over = {axis % len(self._shape(node.input[0])) for axis in axes}
            return first if over.isdisjoint(first.axes) and axes and integer(node, "keepdims", 1) else None
        if node.op_type == "MatMul":  # a layer on the last axis, the same for each position
            last = len(self._shape(node.input[0])) - 1
            return first if last not in first.axes else None
        return None

    def _shape(self, name: str) -> tuple[int, ...]:
        return self._network.shapes.of(name) or ()

    def _window(self, node: onnx.NodeProto, before: Field) -> Field | None:
        sides = self._shape(node.input[0])[2:]
        if before.axes != (2, 3) or len(sides) != 2:
            return None
        kernel = integers(node, "kernel_shape") or self._shape(node.input[1])[2:]
        strides = integers(node, "strides") or (1, 1)
        dilations = integers(node, "dilations") or (1, 1)
        pads = _pads(node, sides, kernel, strides, dilations)
        rows, columns = (
            span.through(*window)
            for span, *window in zip((before.rows, before.columns), kernel, strides, dilations, pads, strict=True)
        )
        return Field(before.axes, rows, columns)

    def _reshaped(self, node: onnx.NodeProto, before: Field, output: str) -> Field | None:
        """Axes ahead of the positions may be split and joined, as shuffling channels does."""
        old, new = self._shape(node.input[0]), self._shape(output)
        kept = before.axes == (len(old) - 2, len(old) - 1) and len(new) > 2 and new[-2:] == old[-2:]
        return before._replace(axes=(len(new) - 2, len(new) - 1)) if kept else None

    def _sliced(self, node: onnx.NodeProto, before: Field, output: str) -> Field | None:
        network, rank = self._network, len(self._shape(output))
        starts = network.integers(node, 1, "starts")
        axes = network.integers(node, 3, "axes") or tuple(range(len(starts or ())))
        steps = network.integers(node, 4, "steps") or (1,) * len(axes)
        if starts is None or not len(starts) == len(axes) == len(steps):
            return None
        spans = [before.rows, before.columns]
        for start, axis, step in zip(starts, axes, steps, strict=True):
            if axis % rank in before.axes:
                if step < 1:
                    return None
                place, length = before.axes.index(axis % rank), self._shape(node.input[0])[axis % rank]
                spans[place] = spans[place].sliced(min(start if start >= 0 else max(start + length, 0), length), step)
        return before._replace(rows=spans[0], columns=spans[1])

    def _padded(self, node: onnx.NodeProto, before: Field) -> Field | None:
        pads = self._network.integers(node, 1, "pads")
        rank = len(self._shape(node.input[0]))
        axes = self._network.integers(node, 3, "axes") or tuple(range(rank))
        if pads is None or len(pads) != 2 * len(axes):
            return None
        first = {axis % rank: pad for axis, pad in zip(axes, pads[: len(axes)], strict=True)}
        rows, columns = (
            span.sliced(-first.get(axis, 0), 1)
            for span, axis in zip((before.rows, before.columns), before.axes, strict=True)
        )
        return before._replace(rows=rows, columns=columns)


def _union(fields: Iterable[Field]) -> Field | None:
    """What positions see that are put together from maps of the same stride."""
    first, *others = fields
    for other in others:
        if other.axes != first.axes or any(a.stride != b.stride for a, b in zip(first[1:], other[1:], strict=True)):
            return None
        first = Field(first.axes, _hull(first.rows, other.rows), _hull(first.columns, other.columns))
    return first


def _hull(a: Span, b: Span) -> Span:
    return Span(min(a.start, b.start), max(a.end, b.end), a.stride)


def _pads(
    node: onnx.NodeProto,
    sides: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> tuple[int, ...]:
    """The padding at the start of each side."""
    mode = next((attribute.s for attribute in node.attribute if attribute.name == "auto_pad"), b"NOTSET")
    if mode not in (b"SAME_UPPER", b"SAME_LOWER"):
        return (integers(node, "pads") or (0, 0))[:2]
    pads = []
    for side, window, stride, dilation in zip(sides, kernel, strides, dilations, strict=True):
        whole = max((-(-side // stride) - 1) * stride + (window - 1) * dilation + 1 - side, 0)
        pads.append(whole // 2 if mode == b"SAME_UPPER" else whole - whole // 2)
    return tuple(pads)
