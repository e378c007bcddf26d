"""Receptive fields: how much of the picture each position of a map sees.

Source: Araujo, Norris, Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks", Distill.
"""

from collections.abc import Iterable
from typing import NamedTuple

import onnx

from visiontool.graph.cost.shaped_graph import ELEMENTWISE, VIEWS, Shape, ShapedGraph, integer, integers

_MAX_PIXELS = 2**31  # a field or stride above it is no network's

_WINDOWS = ("Conv", "MaxPool", "AveragePool", "LpPool")
_POINTWISE = ELEMENTWISE | {"Cast", "CastLike", "DequantizeLinear", "Dropout", "Identity", "LRN", "QuantizeLinear"}


class Span(NamedTuple):
    """What the first position sees along one side: pixels `start` to `end`; the next sees `stride` pixels further."""

    start: int
    end: int
    stride: int

    def through(self, kernel: int, stride: int, dilation: int, pad: int) -> "Span":
        """Behind a window; `pad` is the padding at its start."""
        start = self.start - pad * self.stride
        end = self.end + ((kernel - 1) * dilation - pad) * self.stride
        return Span(start, end, self.stride * stride)

    def sliced(self, start: int, step: int) -> "Span":
        """Where only every `step`th position from `start` on is left."""
        return Span(self.start + start * self.stride, self.end + start * self.stride, self.stride * step)


class Field(NamedTuple):
    """What the positions of a map see of the picture."""

    axes: tuple[int, int]  # where height and width are in the map's shape
    rows: Span
    columns: Span

    @property
    def pixels(self) -> int:
        """The longer side of what one position sees."""
        return max(span.end - span.start + 1 for span in self[1:])

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """What one position sees: top, left, bottom, right in pixels, inclusive; they may lie in the padding."""
        (top, bottom, down), (left, right, along) = self.rows, self.columns
        return top + row * down, left + column * along, bottom + row * down, right + column * along


class ReceptiveFields:
    """The receptive fields of a graph's values; None where a value has no positions, or each sees the whole."""

    def __init__(self, graph: ShapedGraph) -> None:
        pixel = Span(0, 0, 1)
        self._graph = graph
        self._fields: dict[str, Field] = {graph.picture: Field(graph.spatial_axes, pixel, pixel)}
        for node in graph.nodes:
            self._add_outputs(node)

    def of(self, name: str) -> int | None:
        """What one position of a value sees, in pixels along the longer side."""
        return self._fields[name].pixels if name in self._fields else None

    def field(self, name: str) -> Field | None:
        """What the positions of a value see."""
        return self._fields.get(name)

    def of_last_map(self) -> int | None:
        """The same for the last value that has more than one position: a map, or the tokens of a transformer."""
        for node in reversed(self._graph.nodes):
            for name in node.output:
                long_axes = [side for side in self._shape(name)[1:] if side > 1]
                if name in self._graph.varying and len(long_axes) > 1:
                    return self.of(name)
        return None

    def _shape(self, name: str) -> Shape:
        return self._graph.shape(name) or ()

    def _add_outputs(self, node: onnx.NodeProto) -> None:
        inputs = self._graph.varying_inputs(node)
        before = [self._fields[name] for name in inputs if name in self._fields and self._shape(name)]
        if not before or len(before) < len(inputs):
            return
        for output in filter(None, node.output):
            # onnx gives no shape for most wrong attributes; a wrong perm is one that it lets pass.
            field = self._behind(node, before, output) if self._shape(output) else None
            if field is not None and max(field.pixels, field.rows.stride, field.columns.stride) < _MAX_PIXELS:
                self._fields[output] = field

    def _behind(self, node: onnx.NodeProto, before: list[Field], output: str) -> Field | None:
        first, inputs = before[0], self._graph.varying_inputs(node)
        if node.op_type in _POINTWISE:
            ranks = {len(self._shape(name)) for name in (*inputs, output)}
            return _union(before) if len(ranks) == 1 else None
        if node.op_type in ("Concat", "Split"):
            axis = integer(node, "axis", 0) % len(self._shape(output))
            return None if axis in first.axes else _union(before)
        if inputs != node.input[:1]:  # a kernel or a shape that depends on the picture
            return None
        shape = self._shape(node.input[0])
        if node.op_type in _WINDOWS:
            return self._window(node, first, shape)
        if node.op_type in VIEWS:  # axes ahead of the positions may be split and joined, as shuffling channels does
            new = self._shape(output)
            is_same_map = first.axes == (len(shape) - 2, len(shape) - 1) and len(new) > 2 and new[-2:] == shape[-2:]
            return first._replace(axes=(len(new) - 2, len(new) - 1)) if is_same_map else None
        if node.op_type == "Slice":
            return self._sliced(node, first, shape)
        if node.op_type == "Pad":
            return self._padded(node, first, shape)
        if node.op_type == "Transpose":
            order = integers(node, "perm") or tuple(reversed(range(len(shape))))
            if sorted(order) != list(range(len(shape))):
                return None
            return first._replace(axes=(order.index(first.axes[0]), order.index(first.axes[1])))
        if node.op_type == "LayerNormalization":
            return first if max(first.axes) < integer(node, "axis", -1) % len(shape) else None
        if node.op_type.startswith("Reduce"):  # over channels, as for gray
            axes = {axis % len(shape) for axis in self._graph.integers(node, 1, "axes") or ()}
            return first if axes and axes.isdisjoint(first.axes) and integer(node, "keepdims", 1) else None
        if node.op_type == "MatMul":  # a layer on the last axis, the same for each position
            return None if len(shape) - 1 in first.axes else first
        return None

    def _window(self, node: onnx.NodeProto, before: Field, shape: Shape) -> Field | None:
        sides = shape[2:]
        if before.axes != (2, 3) or len(sides) != 2:
            return None
        kernel = integers(node, "kernel_shape") or self._shape(node.input[1])[2:]
        strides = integers(node, "strides") or (1, 1)
        dilations = integers(node, "dilations") or (1, 1)
        pads = _pads(node, sides, kernel, strides, dilations)
        windows = zip(before[1:], kernel, strides, dilations, pads, strict=True)
        return Field(before.axes, *(span.through(*window) for span, *window in windows))

    def _sliced(self, node: onnx.NodeProto, before: Field, shape: Shape) -> Field | None:
        starts = self._graph.integers(node, 1, "starts")
        axes = self._graph.integers(node, 3, "axes") or tuple(range(len(starts or ())))
        steps = self._graph.integers(node, 4, "steps") or (1,) * len(axes)
        if starts is None or not len(starts) == len(axes) == len(steps):
            return None
        spans = dict(zip(before.axes, before[1:], strict=True))
        for start, axis, step in zip(starts, (axis % len(shape) for axis in axes), steps, strict=True):
            if axis in spans:
                if step < 1:
                    return None
                first = start if start >= 0 else max(start + shape[axis], 0)
                spans[axis] = spans[axis].sliced(min(first, shape[axis]), step)
        return Field(before.axes, *spans.values())

    def _padded(self, node: onnx.NodeProto, before: Field, shape: Shape) -> Field | None:
        pads = self._graph.integers(node, 1, "pads")
        axes = self._graph.integers(node, 3, "axes") or tuple(range(len(shape)))
        if pads is None or len(pads) != 2 * len(axes):
            return None
        starts = {axis % len(shape): pad for axis, pad in zip(axes, pads, strict=False)}  # the second half are ends
        spans = zip(before.axes, before[1:], strict=True)
        return Field(before.axes, *(span.sliced(-starts.get(axis, 0), 1) for axis, span in spans))


def _union(fields: Iterable[Field]) -> Field | None:
    """What positions see that are put together from maps of the same stride."""
    first, *others = fields
    for other in others:
        pairs = list(zip(first[1:], other[1:], strict=True))
        if other.axes != first.axes or any(a.stride != b.stride for a, b in pairs):
            return None
        first = Field(first.axes, *(Span(min(a.start, b.start), max(a.end, b.end), a.stride) for a, b in pairs))
    return first


def _pads(node: onnx.NodeProto, sides: Shape, kernel: Shape, strides: Shape, dilations: Shape) -> Shape:
    """The padding at the start of each side."""
    mode = next((attribute.s for attribute in node.attribute if attribute.name == "auto_pad"), b"NOTSET")
    if mode not in (b"SAME_UPPER", b"SAME_LOWER"):
        return (integers(node, "pads") or (0, 0))[:2]
    pads = []
    for side, window, stride, dilation in zip(sides, kernel, strides, dilations, strict=True):
        total = max((-(-side // stride) - 1) * stride + (window - 1) * dilation + 1 - side, 0)
        pads.append(total // 2 if mode == b"SAME_UPPER" else total - total // 2)
    return tuple(pads)
