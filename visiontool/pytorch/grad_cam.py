"""Grad-CAM: what each place of a network's last map adds to a logit, by the gradients there; for any kind of head.

Source: Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization".
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from visiontool.errors import ModelError
from visiontool.model.spec import InputSpec
from visiontool.pytorch import parity
from visiontool.pytorch.weights import from_folder


class _Part(nn.Module):
    """One method of a network as a layer, which can be looked at."""

    def __init__(self, model: Any, method: str) -> None:
        super().__init__()
        self.model, self.forward = model, getattr(model, method)


def grad_cam(folder: Path, spec: InputSpec) -> Callable[[NDArray[np.uint8], int], NDArray[np.float32]]:
    """What gives the map (h, w) of a picture (H, W, 3) and a class, for the network of a folder in timm's format.

    It is the paper's sum before that is cut off at 0, times the number of places: the class activation map itself where
    that is exact, and in units of the logit elsewhere. Raises ModelError where the network has no last map.
    """
    model: Any = from_folder(folder)
    network = nn.Sequential(_Part(model, "forward_features"), _Part(model, "forward_head"))
    layer, to_map = network[0], None
    with torch.inference_mode():
        shape = tuple(layer(torch.zeros(1, len(spec.mean), *spec.size)).shape)
    if len(shape) == 3 and hasattr(model, "blocks"):
        # Behind the last block the class token alone goes to the head: the others have no gradient there.
        layer, tokens = model.blocks[-1].norm1, shape[1] - getattr(model, "num_prefix_tokens", 0)
        to_map = lambda x: x[:, -tokens:].mT.unflatten(2, (math.isqrt(tokens), -1))  # noqa: E731
    elif len(shape) != 4 or shape.count(1) > 2:
        raise ModelError(f"{folder}: the network has no last map for Grad-CAM.\nTake --method occlusion.")
    elif getattr(model, "output_fmt", "NCHW") == "NHWC":
        to_map = lambda x: x.permute(0, 3, 1, 2)  # noqa: E731
    method = GradCAM(network, [layer], to_map)

    def map_of(pixels: NDArray[np.uint8], class_id: int) -> NDArray[np.float32]:
        method(parity.normalized(pixels[None], spec), [ClassifierOutputTarget(class_id)])
        seen = method.activations_and_grads
        values = (seen.activations[0].numpy(), seen.gradients[0].numpy())
        (image,) = method.get_cam_image(None, layer, None, *values)
        return np.asarray(image * image.size, np.float32)

    return map_of
