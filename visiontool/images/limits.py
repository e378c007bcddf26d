"""Files that would cost far more than their picture is worth, told before a decoder sees their pixels.

What only a walk through a file could tell is left to whoever opens it: the time and the memory that it may take.
"""

from typing import Any

from PIL import Image

from visiontool.errors import PictureError

MAX_SLOW_SAMPLES = 10_000_000
MAX_SCANS = 1000  # of a JPEG; encoders write about ten
MAX_SCANS_OF_HUGE = 50  # of one of max_pixels. Measured at 100 megapixels: 0.06 s each

_DECODED_IN_PYTHON = {
    "ppm_plain": "a plain-text PPM, which decodes slowly",
    "bmp_rle": "a BMP with run lengths, which decodes slowly",
}
_SCAN = b"\xff\xda"


def check_pixels(size: tuple[int, int], max_pixels: int, hint: str = "") -> None:
    """Refuses what has no pixels or too many."""
    width, height = size
    if width < 1 or height < 1:
        raise PictureError(f"has no pixels ({width}x{height})")
    if width * height > max_pixels:
        count = f"{width}x{height} is {width * height:,} pixels"
        raise PictureError(f"{count}, the limit is {max_pixels:,} (--max-pixels){hint}")


def check_decoder(image: Image.Image, data: bytes) -> None:
    """Refuses what Pillow would decode in Python, and for more than some seconds."""
    tiles = getattr(image, "tile", [])
    codec = tiles[0].codec_name if tiles else ""
    if codec in _DECODED_IN_PYTHON:
        samples = image.width * image.height * len(image.getbands())
        if max(samples, len(data) if codec == "bmp_rle" else 0) > MAX_SLOW_SAMPLES:
            size = f"{image.width}x{image.height}"
            raise PictureError(f"{size} is too big for {_DECODED_IN_PYTHON[codec]}: convert it to PNG first")


def check_scans(image: Any, data: bytes, max_pixels: int) -> None:
    """Refuses a JPEG of too many scans. The decoder goes over all of the picture for each, and keeps it whole, at full
    size, until the last, unless all colors come in one scan, which is decoded row by row.
    """
    first = data.rfind(_SCAN, 0, image.fp.tell())  # to whose end Pillow has read
    if "progressive" not in image.info and data[first + 4] == image.layers:
        return
    check_pixels(image.size, max_pixels, "; a progressive JPEG cannot be decoded at a smaller size")
    most = min(MAX_SCANS, MAX_SCANS_OF_HUGE * max_pixels // (image.width * image.height))
    if data.count(_SCAN, first) > most:
        raise PictureError(f"has more than {most:,} scans, unlike any real picture")


def check_webp(data: bytes, max_pixels: int) -> None:
    """Refuses too big a canvas, two of which Pillow reserves when it opens the file."""
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    else:
        return
    if len(data) >= 30:
        check_pixels((width, height), max_pixels)
