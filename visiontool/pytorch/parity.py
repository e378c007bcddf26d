"""The gate: a model file has to answer as torch does, on real pictures, at several batch sizes."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from visiontool import runtime
from visiontool.errors import ConversionError, ModelError
from visiontool.images import transforms
from visiontool.images.decode import ImageSource, open_image
from visiontool.model.difference import padded, relative_l2
from visiontool.model.spec import MANIFEST_KEY, InputSpec, ModelSpec
from visiontool.pytorch.exporters import LUMA, OnnxWrapper

MAX_RELATIVE_L2 = 1e-5
MAX_ABSOLUTE = 1e-3

_TORCH_BATCH = 8


def pixels_of(pictures: Sequence[ImageSource], spec: ModelSpec, count: int) -> NDArray[np.uint8]:
    """`count` different inputs, (count, H, W, 3): the pictures, padded with flips and shifts."""
    fitted = [transforms.fit_to_spec(open_image(picture).image, spec) for picture in pictures[:count]]
    return padded(fitted, count)


def check(
    path: Path,
    spec: InputSpec,
    pixels: NDArray[np.uint8],
    expected: Mapping[str, NDArray[np.float32]],
    batches: Sequence[int],
    max_relative: float = MAX_RELATIVE_L2,
) -> dict[int, float]:
    """Compares the file, opened by the code that users run, with the `answers` of the network in torch for pixels.

    Returns the largest relative L2 difference of an output at each batch size.

    Raises:
        ConversionError: an output differs by more than the bounds (docs/design.md has their source), or another class
            has the largest logit.
    """
    opened = runtime.open_model(path, device="cpu")
    manifest = ModelSpec.from_json(opened.scan.metadata[MANIFEST_KEY])
    manifest.check_graph(opened.inputs, opened.outputs, opened.scan.final_operators)
    largest = {}
    for batch in batches:
        largest[batch] = 0.0
        try:
            outputs = opened.session.run(list(expected), {spec.name: pixels[:batch]})
        except Exception as error:  # onnxruntime's exceptions share no root but Exception
            raise ModelError(f"onnxruntime cannot run it at batch {batch}: {error}") from None
        for (name, all_values), got in zip(expected.items(), outputs, strict=True):
            values = all_values[:batch]
            # Logits are of the order of 10 in every network, the values inside of some are in the thousands.
            scale = 1.0 if name == "logits" else max(1.0, float(np.abs(values).max()))
            relative = _compare(f"{name}, batch {batch}", got, values, max_relative, MAX_ABSOLUTE * scale)
            largest[batch] = max(largest[batch], relative)
            if name == "logits":
                ordered = np.sort(values, axis=1)
                is_clear = ordered[:, -1] - ordered[:, -2] > MAX_ABSOLUTE
                if (got.argmax(1) != values.argmax(1))[is_clear].any():
                    raise ConversionError(f"batch {batch}: the file and torch name different classes")
    return largest


def rounding(wrapper: OnnxWrapper, spec: InputSpec, pixels: NDArray[np.uint8]) -> float:
    """The largest relative L2 difference of an output of torch in float32 and in float64, for pixels (N, H, W, 3)."""
    exact = deepcopy(wrapper).double()
    x = normalized(pixels, spec)
    with torch.inference_mode():
        pairs = zip(exact.answers(x.double()), wrapper.answers(x), strict=True)
    return max(relative_l2(expected.numpy(), got.numpy()) for expected, got in pairs)


def answers(wrapper: OnnxWrapper, spec: InputSpec, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """The outputs of the network in torch for pixels (N, H, W, 3), which are normalized apart from the graph."""
    chunks = []
    for start in range(0, len(pixels), _TORCH_BATCH):
        with torch.inference_mode():
            x = normalized(pixels[start : start + _TORCH_BATCH], spec)
            values = [output.numpy() for output in wrapper.answers(x)]
            values[0] = wrapper.model(x).numpy()  # of the whole network at once, not of its parts
        chunks.append(values)
    return {name: np.concatenate(parts) for name, parts in zip(wrapper.outputs, zip(*chunks, strict=True), strict=True)}


def normalized(pixels: NDArray[np.uint8], spec: InputSpec) -> torch.Tensor:
    """The input of the network, (N, channels, H, W), computed in float64 apart from the exported graph."""
    values = pixels.astype(np.float64) / 255
    if len(spec.mean) == 1:
        values = (values @ np.array(LUMA))[..., None]
    values = (values - np.array(spec.mean)) / np.array(spec.std)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32))


def _compare(
    output: str,
    got: NDArray[np.float32],
    expected: NDArray[np.float32],
    max_relative: float,
    max_absolute: float,
) -> float:
    if got.shape != expected.shape:
        raise ConversionError(f"{output}: shape {got.shape} in the file, {expected.shape} in torch")
    relative, absolute = relative_l2(expected, got), float(np.abs(got - expected).max())
    if not (relative <= max_relative and absolute <= max_absolute):
        raise ConversionError(
            f"{output}: the file does not answer as torch does "
            f"(relative difference {relative:.1e}, at most {max_relative:.0e}; "
            f"largest {absolute:.1e}, at most {max_absolute:.0e})"
        )
    return relative
