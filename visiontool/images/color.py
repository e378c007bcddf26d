"""Pixels of any mode become 8-bit RGB, by declared rules; what the user should know of it becomes a note.

docs/design.md has the rule that finds white in pictures of more than 8 bits.
"""

import math
import sys
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from visiontool.errors import PictureError

SCALED = "{bits}-bit: scaled to 8 bits"
_LOST = "16-bit: only the upper 8 bits can be read here, and they say little: perhaps it has 12-bit values"
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_BAND_PIXELS = 2**17
_DEPTHS = (8, 10, 12, 14, 16)
TIFF_BITS, _TIFF_COMPRESSION, _TIFF_MAX_SAMPLE, _TIFF_SAMPLE_FORMAT = 258, 259, 281, 339
TIFF_PHOTOMETRIC, TIFF_EXTRA_SAMPLES = 262, 338
_FAX = ((2,), (3,), (4,))  # compressions whose white is 0 where nothing is declared

Notes = tuple[str, ...]


def to_rgb(image: Image.Image, alpha_is_declared: bool = True) -> tuple[Image.Image, Notes]:
    """The picture in mode "RGB" and what to note about it; `image` itself where it is RGB already."""
    mode = image.mode
    notes: Notes = ()
    is_deep = mode.startswith("I;16") or mode in ("I", "F")
    zero = tiff_tag(image, TIFF_PHOTOMETRIC)  # (0,) where that is white
    is_declared = zero != () or not hasattr(image, "tag_v2") or tiff_tag(image, _TIFF_COMPRESSION) in _FAX
    if not is_declared and (is_deep or mode in ("1", "L")):
        notes = ("does not say whether 0 is black or white: taken for black",)
        if not is_deep:  # Pillow takes it for white.
            image = image.convert("L").point(list(range(255, -1, -1)))
    more: Notes = ()
    if is_deep:
        image, more = _from_deep(image, white_is_zero=zero == (0,))
    elif mode == "CMYK":
        image, more = _from_cmyk(image)
    elif image.has_transparency_data:
        image, more = _over_white(image, alpha_is_declared)
    elif mode != "RGB":
        image = image.convert("RGB")
    return image, notes + more


def to_8_bits(values: NDArray[Any], white: int) -> NDArray[np.uint8]:
    """Whole numbers of 8 or 16 bits, scaled so that `white` becomes 255."""
    table = (np.arange(2**16).clip(max=white) * 255 + white // 2) // white
    scaled: NDArray[np.uint8] = table.astype(np.uint8)[values]
    return scaled


def from_16_bits(values: NDArray[Any]) -> tuple[NDArray[np.uint8], Notes]:
    """Gray (H, W), colors (H, W, 3) or those with alpha (H, W, 4), whose white is not declared, as 8-bit ones."""
    colors = values[..., :3] if values.ndim == 3 else values
    bits = _depth(int(colors.max()))
    pixels = to_8_bits(values, 2**bits - 1)
    if bits < 16 and values.shape[2:] == (4,):
        pixels[..., 3] = to_8_bits(values[..., 3], 2 ** _depth(int(values[..., 3].max())) - 1)
    return pixels, (_depth_note("16-bit", bits),)


def _depth(greatest: float) -> int:
    return next(bits for bits in _DEPTHS if greatest < 2**bits)


def _declared_max(image: Image.Image) -> int:
    """MaxSampleValue of a TIFF; 0 where it is just that of its 16 bits."""
    values = tiff_tag(image, _TIFF_MAX_SAMPLE)
    return max((value for value in values if isinstance(value, int) and value < 2**16 - 1), default=0)


def _depth_note(what: str, bits: int) -> str:
    if (what, bits) == ("16-bit", 16):
        return SCALED.format(bits=16)
    return f"{what}: no value needs more than {bits} bits, taken for {bits}-bit"


def _from_deep(image: Image.Image, white_is_zero: bool) -> tuple[Image.Image, Notes]:
    # Pillow widens signed numbers of 16 bits, and takes the unsigned ones of 32 bits in a TIFF for signed ones.
    tiff_bits = tiff_tag(image, TIFF_BITS)
    unsigned = image.mode == "I" and hasattr(image, "tag_v2") and tiff_tag(image, _TIFF_SAMPLE_FORMAT) in ((), (1,))
    what = f"{16 if tiff_bits == (16,) else 32}-bit {'float' if image.mode == 'F' else 'integer'}"
    if image.mode.startswith("I;16") or image.format == "PPM":  # whose 16 bits Pillow calls "I"
        what = "16-bit"
    values: NDArray[Any] = np.asarray(image)
    values = values.view(np.uint32) if unsigned else values
    is_number = np.isfinite(values)
    numbers = values if is_number.all() else values[is_number]
    if not numbers.size:
        raise PictureError(f"{what} without one pixel that is a number")
    low, high = float(numbers.min()), float(numbers.max())
    is_whole = numbers.dtype.kind != "f" or bool((np.rint(numbers) == numbers).all())
    if tiff_bits == (12,):
        black, white, note = 0.0, 4095.0, SCALED.format(bits=12)
    elif image.mode == "F" and low >= 0 and high <= 1:
        black, white, note = 0.0, 1.0, f"{what}: scaled from 0..1 to 8 bits"
    elif is_whole and low >= 0 and high < 2**16:
        bits = _depth(max(high, _declared_max(image)))
        black, white, note = 0.0, 2.0**bits - 1, _depth_note(what, bits)
        if white_is_zero and bits == 16:  # Then those that need few bits stand at the other end.
            bits = _depth(white - low)
            black, note = white - (2.0**bits - 1), _depth_note(what, bits)
    else:
        black, white = low, high
        least, greatest = (f"{value:.6g}" if image.mode == "F" else f"{value:.0f}" for value in (low, high))
        note = f"{what}: stretched from {least}..{greatest} to 8 bits"
        if low == high:
            white, note = low + 1, f"{what}: every pixel is {least}, shown as black"
    if white_is_zero:
        black, white = white, black
    transparent = image.info.get("transparency")
    gray = np.empty((image.height, image.width), np.uint8)
    step = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, step):  # a few rows at a time: 8 bytes a pixel would be much for a huge picture
        rows = slice(top, top + step)
        shares = values[rows].astype(np.float64)
        shares -= black
        shares *= 255 / (white - black)
        shares[~np.isfinite(shares)] = 0
        gray[rows] = np.rint(shares, out=shares)
        if isinstance(transparent, int):  # the one transparent gray of a PNG
            gray[rows][values[rows] == transparent] = 255
    return Image.fromarray(gray).convert("RGB"), (note,)


def tiff_tag(image: Image.Image, tag: int) -> tuple[Any, ...]:
    value = getattr(image, "tag_v2", {}).get(tag, ())
    return value if isinstance(value, tuple) else (value,)


def deep_colors(
    image: Image.Image, again: Callable[[], Any] | None = None, is_deep: bool = False
) -> tuple[Image.Image, Notes]:
    """Colors of 16 bits, of which Pillow keeps the upper 8; where those say little, the lower 8 are read as well.

    Args:
        image: Not decoded yet; `again` opens the same file once more.
        is_deep: Whether it has 16 bits, where neither its decoder's name for the pixels nor a TIFF tag says so.
    """
    raw, tiff_bits = _raw_mode(image), tiff_tag(image, TIFF_BITS)
    if raw.endswith(("BF", "BS")) and image.tile[0][0] == "libtiff":  # type: ignore[attr-defined]
        # It gives gray numbers in this machine's order, and Pillow takes them for those of the file's.
        _change_raw_modes(image, lambda raw: f"{raw[:-2]}N{raw[-1]}")
    is_deep = is_deep or raw.endswith((";16B", ";16L", ";16N")) or 16 in tiff_bits
    if not is_deep or image.mode not in ("LA", "RGB", "RGBA", "CMYK"):
        return image, ()
    if len(raw) == 1:  # Planes of 16 bits, which Pillow reads as if they had 8.
        _change_raw_modes(image, lambda plane: plane + _order(image))
    image.load()
    bits = 16
    if image.mode != "CMYK":
        bits = max(_depth_of_upper(*image.split()[:3]), _depth(_declared_max(image)))
    if bits < 16:
        if again is None or raw.startswith("RGBa"):
            return image, (_LOST,)
        image = _with_lower_bytes(image, again(), bits)
    return image, (_depth_note("16-bit", bits),)


def deep_ppm(image: Any, data: bytes) -> tuple[Image.Image, Notes]:
    """Decodes a PPM whose white is not 255; Pillow would do it in Python, at a microsecond a number."""
    codec, _, start, arguments = image.tile[0]
    white = arguments[1] if codec in ("ppm", "ppm_plain") else 0
    if codec == "ppm_plain" and image.mode == "I" and white < 2**16 - 1:  # Pillow scales it to 16 bits
        image.load()
        return Image.fromarray(to_8_bits(np.asarray(image), 2**16 - 1)), (SCALED.format(bits=white.bit_length()),)
    if codec != "ppm":
        return image, ()
    shape = (image.height, image.width) + ((3,) if image.mode == "RGB" else ())
    values = np.frombuffer(data, ">u2" if white > 255 else "u1", math.prod(shape), start).reshape(shape)
    if white == 2**16 - 1:
        pixels, notes = from_16_bits(values)
        return Image.fromarray(pixels), notes
    notes = (SCALED.format(bits=white.bit_length()),) if white > 255 else ()
    return Image.fromarray(to_8_bits(values, white)), notes


def _raw_mode(image: Image.Image) -> str:
    """Pillow's name for the pixels of a file that is not decoded yet; "" where there is none."""
    tiles = getattr(image, "tile", None) or [("", None, 0, "")]
    return str(tiles[0][3] if isinstance(tiles[0][3], str) else tiles[0][3][0])


def _change_raw_modes(image: Any, change: Callable[[str], str]) -> None:
    image.tile = [
        tile._replace(args=change(tile.args) if isinstance(tile.args, str) else (change(tile.args[0]), *tile.args[1:]))
        for tile in image.tile
    ]


def _order(image: Any) -> str:
    return ";16L" if image.tag_v2.prefix == b"II" else ";16B"


def _depth_of_upper(*bands: Image.Image) -> int:
    """What `_depth` gives for 16-bit numbers of which `bands` have the upper bytes."""
    return _depth(256 * max(int(band.getextrema()[1]) for band in bands) + 255)  # type: ignore[arg-type]


def _with_lower_bytes(upper: Image.Image, lower: Any, bits: int) -> Image.Image:
    """The colors of `upper`, scaled from `bits`, and its alpha from those that it needs; `lower` is the file again."""

    def of_lower_bytes(raw: str) -> str:
        if raw == "LA;16B":
            return "RGBA"  # gray, its lower byte, alpha, its lower byte
        raw += _order(lower) if len(raw) == 1 else ""
        return raw[:-1] + _OTHER_ORDER[raw[-1]]  # Such numbers have the lower byte in front.

    is_gray = _raw_mode(lower) == "LA;16B"
    _change_raw_modes(lower, of_lower_bytes)
    lower.load()
    bands = []
    for place, (high, low) in enumerate(zip(upper.split(), lower.split(), strict=True)):
        low = lower.getchannel("G") if is_gray and place < 3 else low
        depth = bits if place < 3 else _depth_of_upper(high)
        shifted = high.point([value << (16 - depth) & 255 for value in range(256)])
        bands.append(ImageChops.add(shifted, low.point([value >> (depth - 8) for value in range(256)])))
    colors = Image.merge(upper.mode, bands)
    colors.info = dict(upper.info)
    if isinstance(transparent := lower.info.get("transparency"), tuple):
        colors.info["transparency"] = tuple(min(255, value >> (bits - 8)) for value in transparent)
    return colors


def _over_white(image: Image.Image, alpha_is_declared: bool) -> tuple[Image.Image, Notes]:
    if image.mode == "P":
        image = image.copy()  # convert() writes into the palette of the picture it converts.
    if image.mode == "La":
        image = image.convert("LA")  # Pillow knows no direct way from here.
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    is_clear = alpha.getextrema()[1] == 0
    if is_clear and not alpha_is_declared:
        return rgba.convert("RGB"), ("alpha is 0 everywhere and not declared to be alpha: not believed",)
    white = Image.new("RGB", image.size, "white")
    white.paste(rgba, mask=alpha)
    return white, ("wholly transparent: only white is left",) if is_clear else ()


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
