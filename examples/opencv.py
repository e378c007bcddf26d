"""Classifies pictures with OpenCV's dnn module and a model file of visiontool, without visiontool and onnxruntime.

    python examples/opencv.py model.onnx samples/orange.jpg samples/teapot.jpg

Needs opencv-python-headless (4.10 or newer), onnx and Pillow.
"""

import argparse
import json
from typing import Any

import cv2
import numpy as np
import onnx
from PIL import Image


def fit(picture: np.ndarray, manifest: dict[str, Any]) -> np.ndarray:
    """A picture (height, width, RGB) at the size that the manifest asks for, its center cut out or squashed."""
    if manifest["preprocessing"].get("resize") == "graph":
        raise SystemExit("the file resizes pictures itself, which OpenCV does not do right: export it without")
    # Not cv2.resize, which has no antialiased filter: on 100 photographs INTER_AREA changed 6 answers of SqueezeNet
    # 1.1, INTER_LINEAR 10.
    image, way = Image.fromarray(picture), manifest["preprocessing"]
    height, width = manifest["input"]["size"]
    tall, wide = (int(side / way["crop_pct"]) for side in (height, width))
    if way["crop_mode"] == "squash":
        size = wide, tall
    elif way["crop_mode"] == "center" and tall == wide:
        size = wide * image.width // min(image.size), tall * image.height // min(image.size)
    else:
        raise SystemExit(f"this example does no {way['crop_mode']} crop to {width}x{height}")
    resized = np.asarray(image.resize(size, Image.Resampling[way["interpolation"].upper()]))
    top, left = round((resized.shape[0] - height) / 2), round((resized.shape[1] - width) / 2)
    return resized[top : top + height, left : left + width]


def read(model: onnx.ModelProto) -> cv2.dnn.Net:
    """The network of a model file."""
    for node in model.graph.node:
        for attribute in node.attribute:
            # OpenCV, up to 5.0.0 at least, takes x * HardSigmoid(y) with an alpha of 1/6 for HardSwish(y), whatever x
            # is: squeeze and excitation goes wrong. The next smaller alpha it leaves alone.
            if node.op_type == "HardSigmoid" and attribute.name == "alpha":
                attribute.f = np.nextafter(np.float32(attribute.f), np.float32(0))
    return cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description="Classify pictures with OpenCV's dnn module.")
    parser.add_argument("model", help="a model file that visiontool wrote")
    parser.add_argument("pictures", nargs="+")
    arguments = parser.parse_args()

    model = onnx.load(arguments.model)
    manifest = json.loads({entry.key: entry.value for entry in model.metadata_props}["visiontool.manifest"])
    net = read(model)
    for path in arguments.pictures:
        picture = cv2.imread(path)  # upright
        if picture is None:
            raise SystemExit(f"{path}: OpenCV cannot read it")
        pixels = fit(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), manifest)
        net.setInput(pixels[None], manifest["input"].get("name", "image"))
        logits = net.forward(manifest["outputs"]["logits"])[0].astype(float)
        powers = np.exp((logits - logits.max()) / manifest.get("temperature", 1))
        best = int(powers.argmax())
        print(f"{powers[best] / powers.sum():.4f}  {manifest['labels'][best]}  {path}")


if __name__ == "__main__":
    main()
