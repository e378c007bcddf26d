"""A few lines of numpy that run a model file without visiontool, for `models show --snippet`."""

from pathlib import Path

from visiontool.preprocess import scaled_size
from visiontool.spec import MANIFEST_KEY, InputSpec, ModelSpec


def snippet(spec: ModelSpec, path: Path) -> str:
    """A Python program that prints the five best classes of the picture that is its argument.

    It gives the answer of `visiontool predict`, but for what that does beyond: 16-bit and transparent pictures,
    limits, and big JPEGs, which it decodes at a part of their size.
    """
    lines = [
        "import json",
        "import sys",
        "",
        "import numpy as np",
        "import onnxruntime",
        "from PIL import Image, ImageOps",
        "",
        'picture = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")',
        *_fit(spec),
        *_tensor(spec.input),
        f"session = onnxruntime.InferenceSession({str(path)!r})",
        f"answer = session.run([{spec.logits!r}], {{{spec.input.name!r}: pixels[None]}})[0].reshape(-1)",
    ]
    if spec.activation == "none":
        divided = f" / {spec.temperature!r}" if spec.temperature != 1 else ""
        lines += [
            f"powers = np.exp((answer - answer.max()){divided})",
            "probabilities = powers / powers.sum()",
        ]
    else:
        lines += [f"probabilities = answer ** (1 / {spec.temperature!r})", "probabilities /= probabilities.sum()"]
    lines += [
        "metadata = session.get_modelmeta().custom_metadata_map",
        f'labels = json.loads(metadata.get("{MANIFEST_KEY}", "{{}}")).get("labels", range(len(answer)))',
        "for index in np.argsort(-probabilities)[:5]:",
        '    print(f"{probabilities[index]:.4f}  {labels[index]}")',
    ]
    return "\n".join(lines)


def _fit(spec: ModelSpec) -> list[str]:
    """From `picture` to `pixels` (H, W, 3), as `preprocess.fit` does it."""
    height, width = spec.input.size
    tall, wide = scaled_size(spec.input.size, spec.crop_pct)
    by = f"Image.Resampling.{spec.interpolation.upper()}"
    if spec.crop_mode == "squash":
        size = [f"w, h = {wide}, {tall}"]
    elif spec.crop_mode == "center" and tall == wide:
        size = [f"w, h = ({wide} * side // min(picture.size) for side in picture.size)"]
    else:
        choose = "min" if spec.crop_mode == "center" else "max"
        size = [
            f"scale = {choose}(picture.width / {wide}, picture.height / {tall})",
            "w, h = max(1, round(picture.width / scale)), max(1, round(picture.height / scale))",
        ]
    resized = f"picture.resize((w, h), {by})"
    if spec.crop_mode == "border":
        fill = tuple(round(255 * mean) for mean in (spec.input.mean * 3)[:3])
        sides = (("w", width), ("h", height))
        x, y = (f"({side} - {name}) // 2 if {name} < {side} else -round(({name} - {side}) / 2)" for name, side in sides)
        return [
            *size,
            f"x, y = {x}, {y}",
            f'canvas = Image.new("RGB", ({width}, {height}), {fill})',
            f"canvas.paste({resized}, (x, y))",
            "pixels = np.asarray(canvas)",
        ]
    return [
        *size,
        f"x, y = round((w - {width}) / 2), round((h - {height}) / 2)",
        f"pixels = np.asarray({resized}.crop((x, y, x + {width}, y + {height})))",
    ]


def _tensor(spec: InputSpec) -> list[str]:
    """From `pixels` to what the graph takes, as `preprocess.to_tensor` does it."""
    lines = []
    if spec.color == "BGR":
        lines.append("pixels = pixels[..., ::-1]")
    elif spec.color == "L":
        lines.append("pixels = (pixels @ np.array([0.299, 0.587, 0.114]))[..., None]")
        if spec.dtype == "uint8":
            lines.append("pixels = np.round(pixels).astype(np.uint8)")
    if spec.dtype != "uint8":
        mean, std = list(spec.mean), list(spec.std)
        lines.append(f"pixels = ((pixels / 255 - {mean}) / {std}).astype(np.{spec.dtype})")
    if spec.layout == "NCHW":
        lines.append("pixels = pixels.transpose(2, 0, 1)")
    return lines
