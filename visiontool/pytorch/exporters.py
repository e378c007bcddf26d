"""A network with the inputs and outputs of a model file, and the exporters that write it as ONNX.

No exporter is trusted: `parity` compares what they write with torch.
"""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import onnx
import onnx_ir
import torch
from onnx_ir.passes import common as passes
from timm.layers import SelectAdaptivePool2d
from torch import nn

from visiontool.errors import ConversionError, first_line
from visiontool.model.spec import InputSpec, ModelSpec

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's convert("L")
MAX_WEIGHTS_BYTES = 2**31 - 2**27  # protobuf ends at 2 GiB, and the graph itself needs some of it
_TRACE_BATCH = 2  # torch.export would make a constant of a batch of 1


class OnnxWrapper(nn.Module):
    """uint8 (N, H, W, 3) in; logits, embedding and, where there is one, the feature map out (docs/model-file.md)."""

    mean: torch.Tensor
    std: torch.Tensor
    luma: torch.Tensor

    def __init__(self, model: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.model = model
        self.gray = len(spec.mean) == 1
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1))
        self.register_buffer("luma", torch.tensor(LUMA).view(1, 3, 1, 1))
        self.eval()
        self.classes, self._has_map = _probe(model, torch.zeros(1, len(spec.mean), *spec.size))
        self._channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("logits", "embedding", *(["feature_map"] if self._has_map else []))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.answers(self.normalized(image))

    def normalized(self, image: torch.Tensor) -> torch.Tensor:
        """What the network itself takes, (N, channels, H, W), of pixels (N, H, W, 3), uint8."""
        # Without contiguous() the tensor is channels-last, and the exporter writes the pool as a gather.
        x = image.permute(0, 3, 1, 2).contiguous().to(torch.float32) / 255  # (N, 3, H, W)
        if self.gray:
            x = (x * self.luma).sum(dim=1, keepdim=True)  # (N, 1, H, W)
        return (x - self.mean) / self.std

    def answers(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs for what the network itself takes: (N, channels, H, W), normalized."""
        features = self.model.forward_features(x)  # type: ignore[operator]
        embedding = self.model.forward_head(features, pre_logits=True)  # type: ignore[operator]
        logits = self.model.forward_head(features)  # type: ignore[operator]
        if not self._has_map:
            return logits, embedding
        return logits, embedding, features.permute(0, 3, 1, 2) if self._channels_last else features


def _probe(model: nn.Module, x: torch.Tensor) -> tuple[int, bool]:
    """The number of logits, and whether the features are a map that goes into a global pool as it is.

    This also fixes what a network works out at its first picture, as timm's Conv2dSameExport does its padding.
    """
    pooled: list[torch.Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0]))
        for module in model.modules()
        if (isinstance(module, SelectAdaptivePool2d) and not module.is_identity())
        or (isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)))
    ]
    try:
        with torch.inference_mode():
            features = model.forward_features(x)  # type: ignore[operator]
            pooled.clear()
            embedding = model.forward_head(features, pre_logits=True)  # type: ignore[operator]
            logits = model.forward_head(features)  # type: ignore[operator]
    except Exception as error:  # whatever the network's own code raises for a size that it is not made for
        raise ConversionError(
            f"the network cannot run at {x.shape[2]}x{x.shape[3]} pixels: {first_line(error)}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if not all(isinstance(output, torch.Tensor) and output.ndim == 2 for output in (embedding, logits)):
        raise ConversionError("the network does not give one embedding and one row of logits for a picture")
    return logits.shape[1], features.ndim == 4 and any(tensor is features for tensor in pooled)


def program_of(
    wrapper: OnnxWrapper, example: torch.Tensor, inputs: Sequence[str], *, optimize: bool
) -> torch.onnx.ONNXProgram:
    """`wrapper` as torch's dynamo exporter writes it, for any number of pictures like `example`."""
    program = torch.onnx.export(
        wrapper,
        (example,),
        input_names=inputs,
        output_names=list(wrapper.outputs),
        dynamic_shapes=({0: "N"},),
        external_data=False,
        optimize=optimize,
        verbose=False,
        dynamo=True,
    )
    if program is None:
        raise ValueError("torch.onnx.export gave nothing")
    return program


def _dynamo(wrapper: OnnxWrapper, example: torch.Tensor, inputs: Sequence[str], *, optimize: bool) -> onnx_ir.Model:
    return program_of(wrapper, example, inputs, optimize=optimize).model


def _torchscript(wrapper: OnnxWrapper, example: torch.Tensor, inputs: Sequence[str]) -> onnx_ir.Model:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        torch.onnx.export(
            wrapper,
            (example,),
            path,
            input_names=inputs,
            output_names=list(wrapper.outputs),
            dynamic_axes={name: {0: "N"} for name in (*inputs, *wrapper.outputs)},
            verbose=False,
            dynamo=False,
        )
        return onnx_ir.from_proto(onnx.load(path))


# In the order in which they are tried; the manifest's `tools` names the one that passed where it was not the first.
EXPORTERS: dict[str, Callable[[OnnxWrapper, torch.Tensor, Sequence[str]], onnx_ir.Model]] = {
    "dynamo": partial(_dynamo, optimize=True),
    "dynamo without optimizer": partial(_dynamo, optimize=False),
    "TorchScript": _torchscript,
}


def export(exporter: str, wrapper: OnnxWrapper, spec: ModelSpec, path: Path) -> None:
    """Writes `wrapper` to `path` by one of `EXPORTERS`, as a valid ONNX file with the manifest `spec`."""
    height, width = spec.input.size
    example = torch.zeros((_TRACE_BATCH, height, width, 3), dtype=torch.uint8)
    try:
        with warnings.catch_warnings():  # they are about the exporters' own code, and the age of the older one
            warnings.simplefilter("ignore")
            model = EXPORTERS[exporter](wrapper, example, [spec.input.name])
            tidy(model)
    except Exception as error:  # the exporters raise everything that their many parts do
        raise ConversionError(f"the exporter failed: {error}") from error
    model.metadata_props.update(spec.to_metadata())
    onnx_ir.save(model, path)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"the exporter wrote a file that is not valid ONNX: {error}") from error


def tidy(model: onnx_ir.Model) -> None:
    """Takes out of an exported `model`, in place, what is there twice or unused, and the exporter's notes."""
    # The embedding's way through the head is a part of the logits' way, which was traced once more.
    passes.CommonSubexpressionEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.NameFixPass()(model)  # an exporter may call a node's output as one of our buffers
    # Node metadata holds stack traces with this machine's paths.
    passes.ClearMetadataAndDocStringPass()(model)
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for value in values + [output for node in model.graph for output in node.outputs]:
        value.metadata_props.clear()
    model.producer_version = torch.__version__.partition("+")[0]
    # ONNX's mark for an input of pictures (docs/TypeDenotation.md of onnx).
    model.graph.inputs[0].type = onnx_ir.TensorType(onnx_ir.DataType.UINT8, denotation="IMAGE")
