"""Pixels of any mode become 8-bit RGB, by declared rules; what the user should know of it becomes a note."""

from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visiontool.errors import PictureError

SCALED = "{bits}-bit: scaled to 8 bits"
_WHITE = (255, 255, 255)
_BAND_PIXELS = 2**17
_TIFF_BITS, _TIFF_SAMPLE_FORMAT = 258, 339

Notes = tuple[str, ...]


def to_rgb(image: Image.Image) -> tuple[Image.Image, Notes]:
    """The picture in mode "RGB" and what to note about it; `image` itself where it is RGB already.

    Raises:
        PictureError: It has no pixel that is a number.
    """
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format == "PPM"):
        return _from_16_bits(image)
    if mode in ("I", "F"):
        return _from_32_bits(image)
    # Of several channels Pillow keeps the high byte of each.
    notes = (SCALED.format(bits=16),) if 16 in _tiff_tag(image, _TIFF_BITS) else ()
    if mode == "CMYK":
        image, more = _from_cmyk(image)
        return image, notes + more
    if image.has_transparency_data:
        return _over_white(image), notes
    return (image if mode == "RGB" else image.convert("RGB")), notes


def to_8_bits(values: NDArray[Any], white: int = 2**16 - 1) -> NDArray[np.uint8]:
    """Whole numbers of 8 or 16 bits, scaled so that `white` becomes 255."""
    scaled: NDArray[np.uint8] = _eight_bit_table(white)[values]
    return scaled


@lru_cache(maxsize=4)  # A file may say any white.
def _eight_bit_table(white: int) -> NDArray[np.uint8]:
    values = np.arange(2**16).clip(max=white)
    table: NDArray[np.uint8] = ((values * 255 + white // 2) // white).astype(np.uint8)
    return table


def _from_16_bits(image: Image.Image) -> tuple[Image.Image, Notes]:
    # Image.convert would clip nearly everything to white. Pillow scales PPM files to 16 bits, and calls that "I".
    bits = 12 if _tiff_tag(image, _TIFF_BITS) == (12,) else 16
    transparent = image.info.get("transparency")
    gray = np.empty((image.height, image.width), np.uint8)
    for rows, values in _bands(image):
        gray[rows] = to_8_bits(values, 2**bits - 1)
        if isinstance(transparent, int):  # the one transparent gray of a PNG
            gray[rows][values == transparent] = 255
    return Image.fromarray(gray).convert("RGB"), (SCALED.format(bits=bits),)


def _from_32_bits(image: Image.Image) -> tuple[Image.Image, Notes]:
    """Floats within 0..1 are scaled by 255; all else is stretched from its own least to its own greatest value."""
    bits = 16 if _tiff_tag(image, _TIFF_BITS) == (16,) else 32  # Pillow widens signed numbers of 16 bits.
    what = f"{bits}-bit {'float' if image.mode == 'F' else 'integer'}"
    # Pillow takes the unsigned numbers of a TIFF for signed ones.
    unsigned = image.mode == "I" and hasattr(image, "tag_v2") and _tiff_tag(image, _TIFF_SAMPLE_FORMAT) in ((), (1,))
    low, high = _range(image, unsigned)
    if low > high:
        raise PictureError(f"{what} without one pixel that is a number")
    least, greatest = (f"{value:.6g}" if image.mode == "F" else f"{value:.0f}" for value in (low, high))
    if image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
        note = f"{what}: scaled from 0..1 to 8 bits"
    elif low == high:
        note = f"{what}: every pixel is {least}, shown as black"
    else:
        note = f"{what}: stretched from {least}..{greatest} to 8 bits"
    gray = np.empty((image.height, image.width), np.uint8)
    for rows, values in _bands(image, unsigned):
        shares = values.astype(np.float64)
        shares -= low
        shares *= 255 / ((high - low) or 1)
        shares[~np.isfinite(shares)] = 0
        gray[rows] = np.rint(shares, out=shares)
    return Image.fromarray(gray).convert("RGB"), (note,)


def _range(image: Image.Image, unsigned: bool) -> tuple[float, float]:
    low, high = float("inf"), float("-inf")
    for _, values in _bands(image, unsigned):
        finite = np.isfinite(values)
        numbers = values if finite.all() else values[finite]
        if numbers.size:
            low, high = min(low, float(numbers.min())), max(high, float(numbers.max()))
    return low, high


def _bands(image: Image.Image, unsigned: bool = False) -> Iterator[tuple[slice, NDArray[Any]]]:
    """The pixels a few rows at a time, so that no second copy of a huge picture is made."""
    height = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, height):
        rows = slice(top, min(top + height, image.height))
        values = np.asarray(image.crop((0, rows.start, image.width, rows.stop)))
        yield rows, values.view(np.uint32) if unsigned else values


def _tiff_tag(image: Image.Image, tag: int) -> tuple[Any, ...]:
    value = getattr(image, "tag_v2", {}).get(tag, ())
    return value if isinstance(value, tuple) else (value,)


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode == "P":
        image = image.copy()  # convert() writes into the palette of the picture it converts.
    if image.mode == "La":
        image = image.convert("LA")  # Pillow knows no direct way from here.
    rgba = image.convert("RGBA")
    white = Image.new("RGB", image.size, _WHITE)
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _from_cmyk(image: Image.Image) -> tuple[Image.Image, Notes]:
    profile = image.info.get("icc_profile")
    if not profile:
        return image.convert("RGB"), ("CMYK without a color profile: colors are approximate",)
    try:
        from PIL import ImageCms

        embedded = ImageCms.ImageCmsProfile(BytesIO(profile))
        to_srgb = ImageCms.buildTransform(embedded, ImageCms.createProfile("sRGB"), "CMYK", "RGB")
        return to_srgb.apply(image), ()
    except Exception:  # The profile comes from the file, and fails in as many ways.
        return image.convert("RGB"), ("CMYK with a color profile that does not work: colors are approximate",)
