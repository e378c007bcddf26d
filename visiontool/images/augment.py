"""Views: several versions of one picture for finetuning, so that a head learns what does not matter.

View 0 is what predict sees and view 1 may be its mirror. Further ones are drawn at random, each from its own key and
the picture alone: the same view of the same picture is the same in any order, process and run, and can be cached.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from random import Random
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from visiontool.errors import UsageError
from visiontool.images import transforms

# Goes up when the same values give other pixels: views that were cached before are then not taken for these.
_DRAWING = 1

_TRIES = 10
_WIDEST = 4 / 3
_RANGES = {
    "crop": (0.01, 1.0),
    "rotate": (0.0, 180.0),
    "shift": (0.0, 1.0),
    "zoom": (0.0, 0.9),
    "brightness": (0.0, 1.0),
    "contrast": (0.0, 1.0),
    "color": (0.0, 1.0),
}
_CELL, _GAP, _LINE, _FONT_SIZE = 160, 8, 20, 13
_LEAST_SHEET_WIDTH = 2 * _CELL + 3 * _GAP
_BACKGROUND, _INK, _FAINT_INK = (255, 255, 255), (0, 0, 0), (110, 110, 110)


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """The ranges that random views are drawn from; all are off by default.

    Source: torchvision.transforms.v2: RandomHorizontalFlip, RandomResizedCrop, RandomAffine, ColorJitter.
    """

    mirror: bool = False  # in view 1, and in every second random view
    crop: float = 1.0  # the smallest share of the picture's area that is kept; 1 is off
    rotate: float = 0.0  # degrees to either side
    shift: float = 0.0  # share of each edge, to either side
    zoom: float = 0.0  # how much larger or smaller: 0.1 is 0.9 to 1.1 times the size
    brightness: float = 0.0  # how much more or less: 0.2 is 0.8 to 1.2 times as bright
    contrast: float = 0.0  # as brightness
    color: float = 0.0  # saturation; as brightness

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"{name} {value:g} is out of range: it goes from {low:g} to {high:g}")


LEVELS = {  # the choices of `--augment`
    "none": Augment(),
    "light": Augment(mirror=True),
    "medium": Augment(mirror=True, crop=0.5, brightness=0.2, contrast=0.2, color=0.2),
    "heavy": Augment(mirror=True, crop=0.25, rotate=15.0, brightness=0.4, contrast=0.4, color=0.4),
}


class View(NamedTuple):
    """One version of every picture; `views` makes them."""

    number: int
    augment: Augment
    seed: int

    @property
    def is_plain(self) -> bool:
        return self.number == 0

    @property
    def is_mirror(self) -> bool:
        return self.number == 1 and self.augment.mirror

    def key(self) -> str:
        """All that this view depends on beside the picture and the model's preprocessing, as one line of text."""
        if self.is_plain:
            return "plain"
        if self.is_mirror:
            return "mirror"
        values = " ".join(f"{field.name}={float(getattr(self.augment, field.name))!r}" for field in fields(Augment))
        return f"random-{_DRAWING} number={self.number} seed={self.seed} {values}"


def views(count: int, augment: Augment, seed: int) -> tuple[View, ...]:
    """The first `count` views, which must differ: the plain one, with `augment.mirror` its mirror, then random ones."""
    if count < 1:
        raise UsageError(f"{count} views of each picture: expected at least 1, the picture as it is")
    if count > 1 and augment == Augment():
        raise UsageError(f"{count} views of each picture would all be the same: choose an augmentation, or 1 view")
    if count > 2 and augment == Augment(mirror=True):
        raise UsageError(
            f"{count} views of each picture: with the mirror alone there are 2.\n"
            "Take 2, or add another augmentation, such as a crop."
        )
    return tuple(View(number, augment, seed) for number in range(count))


def render(image: Image.Image, view: View, name: str, fit_options: dict[str, Any]) -> NDArray[np.uint8]:
    """One view of a picture at the size of the graph's input: (H, W, 3), uint8, RGB.

    Args:
        image: Mode "RGB", upright, as `decode.open_image` gives it for the plain view. It is not changed. A big JPEG
            was then decoded to no less than twice what the plain view needs: a crop that keeps a quarter of the area is
            enlarged by a sixth at most.
        name: What tells this picture from others, `Fingerprint.pixels`.
        fit_options: Of `transforms.fit_options`.
    """
    if view.is_plain:
        return transforms.fit(image, **fit_options)
    if view.is_mirror:
        return _mirrored(transforms.fit(image, **fit_options))
    draw = Random(int.from_bytes(blake2b(f"{view.key()}\0{name}".encode(), digest_size=16).digest()))
    part, options = _part(image, view.augment, fit_options, draw)
    pixels = _colored(transforms.fit(part, **options), view.augment, draw)
    return _mirrored(pixels) if view.augment.mirror and draw.random() < 0.5 else pixels


def render_all(image: Image.Image, views: Sequence[View], name: str, fit_options: dict[str, Any]) -> NDArray[np.uint8]:
    """`render` for each view: (V, H, W, 3), uint8, RGB."""
    pixels = np.empty((len(views), *fit_options["size"], 3), np.uint8)
    for place, view in enumerate(views):
        if view.is_mirror and place and views[place - 1].is_plain:
            pixels[place] = _mirrored(pixels[place - 1])
        else:
            pixels[place] = render(image, view, name, fit_options)
    return pixels


def _mirrored(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(pixels[:, ::-1])


class _Box(NamedTuple):
    left: int
    top: int
    width: int
    height: int


def _part(
    image: Image.Image, augment: Augment, fit_options: dict[str, Any], draw: Random
) -> tuple[Image.Image, dict[str, Any]]:
    """The part of the picture that a random view shows, and how it is fitted."""
    moves = bool(augment.rotate or augment.shift or augment.zoom)
    if augment.crop == 1.0 and not moves:
        return image, fit_options
    mode, (height, width) = fit_options["crop_mode"], fit_options["size"]
    # "center" shows the proportions of the graph's input, the others those of the picture.
    ratio = width / height if mode == "center" else image.width / image.height
    options = fit_options
    if augment.crop < 1.0:
        box = _random_box(image.size, ratio, augment.crop, draw)
        # All of the box is seen, resized to the graph's input as torchvision does; "border" keeps its proportions.
        options = {**fit_options, "crop_mode": "border" if mode == "border" else "squash", "crop_pct": 1.0}
    else:
        box = _central_box(image.size, ratio, ratio)
    # How many times smaller `transforms.fit` will make the box, along the edge where it shrinks least.
    tall, wide = transforms.scaled_size(options["size"], options["crop_pct"])
    shrink = (max if options["crop_mode"] == "border" else min)(box.width / wide, box.height / tall)
    # Not at the full size of a big picture, but never below twice what is needed: the rule of JPEGs in `open_image`.
    factor = max(1, int(shrink / 2))
    if not moves:
        return image.reduce(factor, (box.left, box.top, box.left + box.width, box.top + box.height)), options
    # Bicubic takes more than twice as long, and what bilinear blurs is lost anyway when the picture is halved next.
    resample = Image.Resampling.BILINEAR if shrink >= 2 else Image.Resampling.BICUBIC
    return _moved(image.reduce(factor), box, factor, augment, draw, resample, options["fill"]), options


def _random_box(size: tuple[int, int], around: float, least: float, draw: Random) -> _Box:
    """A box of at least the share `least` of `size` (width, height), with 3/4 to 4/3 of `around` as ratio."""
    width, height = size
    for _ in range(_TRIES):
        area = width * height * draw.uniform(least, 1.0)
        ratio = around * math.exp(draw.uniform(-math.log(_WIDEST), math.log(_WIDEST)))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            # Of all that `Random` has, only random() and what is made of it is the same in every version of Python.
            left, top = int(draw.random() * (width - wide + 1)), int(draw.random() * (height - high + 1))
            return _Box(left, top, wide, high)
    return _central_box(size, around / _WIDEST, around * _WIDEST)


def _central_box(size: tuple[int, int], low: float, high: float) -> _Box:
    """The biggest box in the middle of a picture of `size` (width, height) whose width / height is `low` to `high`."""
    width, height = size
    wide = min(width, max(1, round(height * high)))
    tall = min(height, max(1, round(width / low)))
    return _Box((width - wide) // 2, (height - tall) // 2, wide, tall)


def _moved(
    image: Image.Image,
    box: _Box,
    factor: int,
    augment: Augment,
    draw: Random,
    resample: Image.Resampling,
    fill: tuple[int, int, int],
) -> Image.Image:
    """The box of a picture, which is `factor` times smaller than the box's, turned, resized and shifted."""
    width, height = max(1, round(box.width / factor)), max(1, round(box.height / factor))
    from_x, from_y = (box.left + box.width / 2) / factor, (box.top + box.height / 2) / factor
    angle = math.radians(draw.uniform(-augment.rotate, augment.rotate))
    scale = draw.uniform(1 - augment.zoom, 1 + augment.zoom)
    to_x = width * (0.5 + draw.uniform(-augment.shift, augment.shift))
    to_y = height * (0.5 + draw.uniform(-augment.shift, augment.shift))
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    # For each pixel of the result, where it is taken from.
    inverse = (cos, sin, from_x - cos * to_x - sin * to_y, -sin, cos, from_y + sin * to_x - cos * to_y)
    return image.transform((width, height), Image.Transform.AFFINE, inverse, resample, fillcolor=fill)


def _colored(pixels: NDArray[np.uint8], augment: Augment, draw: Random) -> NDArray[np.uint8]:
    """The pixels with another brightness, contrast and saturation, always in this order, a border's too."""
    image = Image.fromarray(pixels)
    for enhance, most in (
        (ImageEnhance.Brightness, augment.brightness),
        (ImageEnhance.Contrast, augment.contrast),
        (ImageEnhance.Color, augment.color),
    ):
        if most:
            image = enhance(image).enhance(draw.uniform(1 - most, 1 + most))
    return np.array(image)


def sheet(pictures: Sequence[tuple[str, Sequence[NDArray[np.uint8]]]], headings: Sequence[str]) -> Image.Image:
    """A picture with a row for each of `pictures`, its caption and its views (H, W, 3), and a column for each view."""
    from PIL import ImageDraw, ImageFont, ImageOps

    font = ImageFont.load_default(_FONT_SIZE)
    columns = [_GAP + number * (_CELL + _GAP) for number in range(len(headings))]
    width = max(_LEAST_SHEET_WIDTH, len(columns) * (_CELL + _GAP) + _GAP)
    row_height = _LINE + _CELL + _GAP
    result = Image.new("RGB", (width, _GAP + _LINE + len(pictures) * row_height), _BACKGROUND)
    draw = ImageDraw.Draw(result)

    def write(text: str, left: int, top: int, max_width: int, ink: tuple[int, int, int]) -> None:
        text = "".join(char if char.isprintable() else "?" for char in text)
        while font.getlength(text) > max_width:
            text = "..." + text.removeprefix("...")[1:]
        draw.text((left, top), text, ink, font)

    for heading, left in zip(headings, columns, strict=True):
        write(heading, left, _GAP, _CELL, _FAINT_INK)
    for number, (caption, pixels) in enumerate(pictures):
        top = _GAP + _LINE + number * row_height
        write(caption, _GAP, top, width - 2 * _GAP, _INK)
        for view, left in zip(pixels, columns, strict=True):
            # Of a tiny view each pixel stays to be seen.
            method = Image.Resampling.NEAREST if max(view.shape) < _CELL else Image.Resampling.LANCZOS
            cell = ImageOps.pad(Image.fromarray(view), (_CELL, _CELL), method, _BACKGROUND)
            result.paste(cell, (left, top + _LINE))
    return result
