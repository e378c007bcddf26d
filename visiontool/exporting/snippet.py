"""Ten lines of Python that run a model file without visiontool, for `export` and `models show --snippet`."""

import json
from collections.abc import Mapping
from pathlib import Path

from visiontool import runtime
from visiontool.images.transforms import fill_color, resize_to, scaled_size
from visiontool.model.spec import MANIFEST_KEY, ModelSpec


def snippet(spec: ModelSpec, path: Path) -> str:
    """A program of at most ten lines that prints the five best classes, or the labels, of the picture in its argument.

    It needs numpy, Pillow and onnxruntime, and gives the answer of `visiontool predict`, but for what that does with
    pictures that are transparent, of 16 bits, or CMYK. The model file at `path` is opened, since how many pictures it
    takes at once is not in its spec.

    Raises:
        ModelError: the file cannot be opened.
    """
    opened = runtime.open_model(path, device="cpu")
    batch, size = f"{_tensor(spec)}[None]", opened.inputs[0].shape[0]
    if isinstance(size, int) and size > 1:  # filled with copies
        batch = f"np.repeat({batch}, {size}, 0)"
    logits = f"session.run([{spec.logits!r}], {{{spec.input.name!r}: {batch}}})[0][0].ravel().astype(float)"
    if spec.activation == "softmax":
        logits = f"np.log(np.maximum({logits}, 1e-30))"
    scaled = "logits - logits.max()" if spec.temperature == 1 else f"(logits - logits.max()) / {spec.temperature!r}"
    labels, label = _labels(opened.scan.metadata)
    answer = [
        f"powers = np.exp({scaled})",
        f"labels = {labels}",
        f'for i in np.argsort(-powers, kind="stable")[:5]: print(f"{{powers[i] / powers.sum():.4f}}  {{{label}}}")',
    ]
    if spec.task == "multilabel":
        manifest = labels.removesuffix('["labels"]')
        answer = [
            f"manifest = {manifest}",
            "for label, least, logit in zip(manifest['labels'], manifest['decisions']['thresholds'], logits):",
            '    if (p := 1 / (1 + np.exp(-logit))) >= least: print(f"{p:.4f}  {label}")',
        ]
    return "\n".join(
        [
            f"import {'ast' if labels.startswith('ast') else 'json'}, sys, numpy as np, onnxruntime, PIL.ImageOps",
            *_pixels(spec),
            f"session = onnxruntime.InferenceSession({str(path)!r})",
            f"logits = {logits}",
            *answer,
        ]
    )


def _pixels(spec: ModelSpec) -> list[str]:
    """From a file to `pixels` (H, W, 3), as `open_image` and `fit_to_spec` do it."""
    draft = 2 * resize_to(spec.input.size, spec.crop_pct, spec.crop_mode)
    opened = f"(picture := PIL.Image.open(sys.argv[1])).draft(None, ({draft}, {draft}))"
    upright = 'picture = PIL.ImageOps.exif_transpose(picture).convert("RGB")'
    if spec.resize == "graph":
        return [opened, upright, "pixels = np.asarray(picture)"]
    height, width = spec.input.size
    tall, wide = scaled_size(spec.input.size, spec.crop_pct)
    if spec.crop_mode == "squash":
        size = f"{wide}, {tall}"
    elif spec.crop_mode == "center" and tall == wide:
        size = f"({wide} * side // min(picture.size) for side in picture.size)"
    else:
        choose = "min" if spec.crop_mode == "center" else "max"
        ratio = f"{choose}(picture.width / {wide}, picture.height / {tall})"
        size = f"(max(1, round(side / {ratio})) for side in picture.size)"
    resized = f"picture.resize((w, h), PIL.Image.Resampling.{spec.interpolation.upper()})"
    top, left = f"round((h - {height}) / 2)", f"round((w - {width}) / 2)"
    if spec.crop_mode == "border":
        # A border that is wide enough makes a crop of it; `int` is how `fit_to_spec` rounds the border.
        resized = f"PIL.ImageOps.expand({resized}, ({width}, {height}), {fill_color(spec)})"
        top = f"{height} + max({top}, int((h - {height}) / 2))"
        left = f"{width} + max({left}, int((w - {width}) / 2))"
    return [
        opened,
        upright,
        f"w, h = {size}",
        f"pixels = np.asarray({resized})[{top}:, {left}:][:{height}, :{width}]",
    ]


def _tensor(spec: ModelSpec) -> str:
    """`pixels` as the graph takes it, as `transforms.to_tensor` makes it."""
    color, dtype, layout = spec.input.color, spec.input.dtype, spec.input.layout
    tensor = "pixels"
    if color == "BGR":
        tensor = "pixels[..., ::-1]"
    elif color == "L":
        tensor = "(pixels @ np.float32([0.299, 0.587, 0.114]))[..., None]"
        if dtype == "uint8":
            tensor = f"{tensor}.round().astype(np.uint8)"
    if dtype != "uint8":
        mean, std = (f"np.float32({list(numbers)})" for numbers in (spec.input.mean, spec.input.std))
        tensor = f"(({tensor} / np.float32(255) - {mean}) / {std}).astype(np.{dtype})"
    return f"{tensor}.transpose(2, 0, 1)" if layout == "NCHW" else tensor


def _labels(metadata: Mapping[str, str]) -> tuple[str, str]:
    """What reads the labels out of the file, and what gives the one of class `i`."""
    stored = "session.get_modelmeta().custom_metadata_map"
    if MANIFEST_KEY in metadata:
        return f'json.loads({stored}["{MANIFEST_KEY}"])["labels"]', "labels[i]"
    if "names" not in metadata:
        return "range(len(logits))", "i"
    try:
        keyed_by_text = isinstance(json.loads(metadata["names"]), dict)
    except (ValueError, RecursionError):  # as Ultralytics writes them
        return f'ast.literal_eval({stored}["names"])', "labels[i]"
    return f'json.loads({stored}["names"])', "labels[str(i)]" if keyed_by_text else "labels[i]"
