"""From an upright RGB picture to the pixels a graph takes: resize and crop, nothing else.

Scaling to 0..1, mean and std happen inside the graph. The size is got exactly as in timm's evaluation transform.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visiontool.errors import PictureError, UsageError
from visiontool.model.spec import CropMode, InputSpec, Interpolation, ModelSpec

CROP_MODES: tuple[CropMode, ...] = get_args(CropMode)
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
Tta = Literal["flip", "crops"]  # test-time augmentation
VIEWS: dict[Tta, int] = {"flip": 2, "crops": 5}
_CROPS_PCT = 0.875  # the most that one of the five crops keeps of an edge, else they would be the same
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # ITU-R BT.601, as Pillow's convert("L")

# A picture of 1 x 90,000 pixels is small, but resized until its short side is 224 it has 4,500 million.
_MAX_RESIZED_PIXELS = 100_000_000


def fit(
    image: Image.Image,
    size: tuple[int, int],
    *,
    crop_mode: CropMode = "center",
    crop_pct: float = 1.0,
    interpolation: str = "bicubic",
    fill: tuple[int, int, int] = (0, 0, 0),
) -> NDArray[np.uint8]:
    """The picture at the size of the graph's input: (H, W, 3), uint8, RGB.

    Args:
        image: Mode "RGB", upright, as `decode.open_image` gives it. It is not changed.
        size: (H, W) of the result in pixels.
        crop_mode: "center" covers `size` and cuts off what sticks out; "border" shows the whole picture and fills
            the rest with `fill`; "squash" shows the whole picture and does not keep its proportions.
        crop_pct: The share of each resized edge that the crop keeps, above 0.
        fill: The color of the border, 0..255; timm takes round(255 * mean) of each channel.

    Raises:
        UsageError: An unknown crop mode or interpolation.
        PictureError: A picture so elongated that "center" would resize it to more than 100 million pixels.

    Source: gives the same bytes as timm.data.transforms_factory.transforms_imagenet_eval(normalize=False). One
        difference: timm fails where an edge would be rounded to 0 pixels; here that edge gets 1 pixel.
    """
    resized = _resize(image, size, crop_mode, crop_pct, interpolation)
    height, width = resized.shape[:2]
    pixels = np.empty((*size, 3), np.uint8)
    pixels[...] = fill if crop_mode == "border" else 0
    from_rows, to_rows = _overlap(height, size[0])
    from_columns, to_columns = _overlap(width, size[1])
    pixels[to_rows, to_columns] = resized[from_rows, from_columns]
    return pixels


def tta_views(image: Image.Image, tta: Tta, **options: Any) -> NDArray[np.uint8]:
    """The views that test-time augmentation averages over, from the options of `fit`: (V, H, W, 3), uint8, RGB.

    "flip" gives the picture and its mirror, "crops" its center and four corners, of at most 0.875 of each edge.

    Source: torchvision.transforms.FiveCrop.
    """
    plain = fit(image, **options)
    if tta == "flip":
        return np.stack([plain, plain[:, ::-1]])
    height, width = options["size"]
    crop_pct = min(options["crop_pct"], _CROPS_PCT)
    resized = _resize(image, options["size"], options["crop_mode"], crop_pct, options["interpolation"])
    bottom, right = max(0, resized.shape[0] - height), max(0, resized.shape[1] - width)
    lacking = [(0, max(0, side - length)) for side, length in zip((height, width), resized.shape, strict=False)]
    padded = np.pad(resized, [*lacking, (0, 0)], mode="edge")
    corners = [padded[top : top + height, left : left + width] for top in (0, bottom) for left in (0, right)]
    return np.stack([plain, *corners])


def whole(image: Image.Image, options: Mapping[str, Any]) -> NDArray[np.uint8]:
    """All pixels of the picture, (h, w, 3), for a graph that resizes it itself; refused where `fit` refuses it."""
    _checked_size(image, options["size"], options["crop_mode"], options["crop_pct"])
    return np.asarray(image)


def resize_to(size: tuple[int, int], crop_pct: float, crop_mode: CropMode) -> int:
    """The most pixels that the short side of a picture has after `fit` resized it, for `open_image(resize_to=...)`."""
    scaled = scaled_size(size, crop_pct)
    return min(scaled) if crop_mode == "border" else max(scaled)


def share_kept(picture: tuple[int, int], spec: ModelSpec) -> float:
    """The share, up to 1, of the area of a picture of (height, width) pixels that `fit` shows to a model."""
    height, width = _resized(picture, scaled_size(spec.input.size, spec.crop_pct), spec.crop_mode)
    return min(1.0, spec.input.size[0] / height) * min(1.0, spec.input.size[1] / width)


def fit_to_spec(image: Image.Image, spec: ModelSpec) -> NDArray[np.uint8]:
    """`fit` with the options of a model: (H, W, 3), uint8, RGB."""
    return fit(image, **fit_options(spec))


def fit_options(spec: ModelSpec) -> dict[str, Any]:
    """The options of `fit` for a model."""
    options = {"crop_mode": spec.crop_mode, "crop_pct": spec.crop_pct, "interpolation": spec.interpolation}
    return {"size": spec.input.size, **options, "fill": fill_color(spec)}


def fill_color(spec: ModelSpec) -> tuple[int, ...]:
    """The color of the border, 0..255 for red, green and blue: the mean that the network takes off."""
    return tuple(round(255 * mean) for mean in (spec.input.mean * 3)[:3])


def to_tensor(pixels: NDArray[np.uint8], spec: InputSpec) -> NDArray[Any]:
    """Fitted pixels (N, H, W, 3) as the tensor of a graph: themselves, or for one of another tool in its layout,
    colors and type, normalized.
    """
    values: NDArray[Any] = pixels
    if spec.color == "BGR":
        values = values[..., ::-1]
    elif spec.color == "L":
        values = (values.astype(np.float32) @ _LUMA)[..., None]
        if spec.dtype == "uint8":
            values = np.round(values).astype(np.uint8)
    if spec.dtype != "uint8":
        mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
        values = ((values.astype(np.float32) / 255 - mean) / std).astype(spec.dtype)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if spec.layout == "NCHW" else values)


def scaled_size(size: tuple[int, int], crop_pct: float) -> tuple[int, int]:
    """The (height, width) to resize towards, of which the crop keeps `crop_pct`."""
    return math.floor(size[0] / crop_pct), math.floor(size[1] / crop_pct)


def _resize(
    image: Image.Image, size: tuple[int, int], crop_mode: CropMode, crop_pct: float, interpolation: str
) -> NDArray[np.uint8]:
    """The picture at the size that the crop is taken from."""
    if interpolation not in INTERPOLATIONS:
        raise UsageError(f"interpolation {interpolation!r} is unknown: it is one of {', '.join(INTERPOLATIONS)}")
    height, width = _checked_size(image, size, crop_mode, crop_pct)
    return np.asarray(image.resize((width, height), Image.Resampling[interpolation.upper()]))


def _checked_size(image: Image.Image, size: tuple[int, int], crop_mode: CropMode, crop_pct: float) -> tuple[int, int]:
    height, width = _resized((image.height, image.width), scaled_size(size, crop_pct), crop_mode)
    if width * height > _MAX_RESIZED_PIXELS:
        raise PictureError(
            f"{image.width}x{image.height} pixels is too elongated for the crop mode 'center':"
            f" it would have to be resized to {width}x{height}. Use 'border' or 'squash'."
        )
    return height, width


def _resized(picture: tuple[int, int], scaled: tuple[int, int], crop_mode: CropMode) -> tuple[int, int]:
    """The (height, width) that `picture` (height, width) is resized to."""
    if crop_mode == "squash":
        return scaled
    if crop_mode == "center" and scaled[0] == scaled[1]:
        # Not the same as the general case below: the long side is cut off here, and rounded there.
        short, long = min(picture), scaled[0] * max(picture)
        return (long // short, scaled[0]) if picture[0] > picture[1] else (scaled[0], long // short)
    if crop_mode not in CROP_MODES:
        raise UsageError(f"crop mode {crop_mode!r} is unknown: it is one of {', '.join(CROP_MODES)}")
    ratio = (min if crop_mode == "center" else max)(picture[0] / scaled[0], picture[1] / scaled[1])
    return max(1, round(picture[0] / ratio)), max(1, round(picture[1] / ratio))


def _overlap(length: int, target: int) -> tuple[slice, slice]:
    """Along one edge, centered: which pixels to take of `length`, and where they go in `target`."""
    if target > length:
        start = (target - length) // 2
        return slice(0, length), slice(start, start + length)
    start = round((length - target) / 2)
    return slice(start, start + target), slice(0, target)
