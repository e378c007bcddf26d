"""Color models whose graphs differ from that of conftest.py."""

from dataclasses import replace

from conftest import COLOR_SPEC, color_graph, save_model
from onnx import TensorProto, helper

from visiontool import Classifier


def load(path):
    return Classifier.load(path, device="cpu")


def changed_color_model(path, change, **spec):
    """The color model with `change(graph)` done to its graph."""
    model = color_graph()
    change(model.graph)
    return save_model(model, path, replace(COLOR_SPEC, **spec).to_metadata())


def brighter(graph):
    """Logits are twice the mean of each channel."""
    graph.initializer[0].CopyFrom(helper.make_tensor("white", TensorProto.FLOAT, [], [127.5]))
