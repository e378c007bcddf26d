"""Attributes of nodes, whatever type a file gives them."""

import onnx
from onnx import AttributeProto


def integers(node: onnx.NodeProto, name: str) -> tuple[int, ...] | None:
    """An attribute that is a list of integers, or None where there is none of that name."""
    for attribute in node.attribute:
        if attribute.name == name and attribute.type == AttributeProto.INTS:
            return tuple(attribute.ints)
    return None


def integer(node: onnx.NodeProto, name: str, default: int) -> int:
    """An attribute that is an integer."""
    for attribute in node.attribute:
        if attribute.name == name and attribute.type == AttributeProto.INT:
            return int(attribute.i)
    return default
