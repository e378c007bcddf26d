"""Files built to cost far more than their picture is worth, told from their bytes before a decoder sees them.

Pillow's plugins walk through the parts of a file in Python and keep what they meet. A few megabytes of empty parts, at
4 to 16 bytes each, made them take minutes and gigabytes; each number here is far above what real pictures have. What
is slow in a decoder itself is left to whoever runs it: it cannot be told beforehand.
"""

import re
from collections.abc import Callable

from PIL import Image

from visiontool.errors import PictureError

MAX_PARTS = 100_000  # of a file
MAX_SUB_BLOCKS = 500_000  # of a GIF: 64 MiB in full sub-blocks have 264,000
MAX_PACKED_TEXTS = 500  # of a PNG; each may inflate to a megabyte
MAX_FILLER_BYTES = 2**20  # between the parts of a JPEG
MAX_EXIF_BYTES = 2**20
MAX_TABLE_BYTES = 2**20  # of a JPEG; four tables have 260
MAX_HEADER_BYTES = 2**20  # of a JPEG 2000; a palette has a few thousand
MAX_SLOW_SAMPLES = 10_000_000
MAX_SCANS = 1000  # of a JPEG; encoders write about ten
MAX_SCANS_OF_HUGE = 50  # of one of max_pixels. Measured at 100 megapixels: 0.06 s each

_DECODED_IN_PYTHON = {
    "ppm_plain": "a plain-text PPM, which decodes slowly",
    "bmp_rle": "a BMP with run lengths, which decodes slowly",
}
_SOF = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_SOF_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_SOS, _DQT, _APP1 = 0xDA, 0xDB, 0xE1
_WITHOUT_LENGTH = frozenset({0, 1, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)})
_GIF_IMAGE, _GIF_EXTENSION, _GIF_TRAILER, _GIF_COMMENT = 0x2C, 0x21, 0x3B, b"\xfe"
_JPEG_2000_PIXELS = (0x90, 0xD9)  # the start of a tile, the end
_MARKER = re.compile(rb"\xff([^\xff])")


def check_pixels(size: tuple[int, int], max_pixels: int, hint: str = "") -> None:
    """Refuses what has no pixels or too many."""
    width, height = size
    if width < 1 or height < 1:
        raise PictureError(f"has no pixels ({width}x{height})")
    if width * height > max_pixels:
        count = f"{width}x{height} is {width * height:,} pixels"
        raise PictureError(f"{count}, the limit is {max_pixels:,} (--max-pixels){hint}")


def check_parts(plugin: str, data: bytes, max_pixels: int) -> None:
    """Refuses a file whose parts alone would keep its plugin busy.

    Raises:
        PictureError: There are more of them than any real picture has.
    """
    check = _CHECKS.get(plugin)
    if check is not None:
        check(data, max_pixels)


def check_decoder(image: Image.Image, data: bytes) -> None:
    """Refuses what Pillow would decode in Python, and for more than some seconds."""
    tiles = getattr(image, "tile", [])
    codec = tiles[0].codec_name if tiles else ""
    if codec in _DECODED_IN_PYTHON:
        samples = image.width * image.height * len(image.getbands())
        if max(samples, len(data) if codec == "bmp_rle" else 0) > MAX_SLOW_SAMPLES:
            size = f"{image.width}x{image.height}"
            raise PictureError(f"{size} is too big for {_DECODED_IN_PYTHON[codec]}: convert it to PNG first")


def _check_number(number: int, most: int, what: str) -> None:
    if number > most:
        raise PictureError(f"has more than {most:,} {what}, unlike any real picture")


def _check_jpeg(data: bytes, max_pixels: int) -> None:
    """Walks to the first scan, as Pillow and libjpeg do."""
    place, segments, filler, exif, tables, frames = 2, 0, 0, 0, 0, 0
    size, components, progressive = (0, 0), b"", False
    while (found := _MARKER.search(data, place)) is not None:
        marker, start = found[1][0], found.end()
        segments += 1
        filler += found.start() - place
        place = start
        if marker in _WITHOUT_LENGTH:
            continue
        length = int.from_bytes(data[start : start + 2])
        body = data[start + 2 : start + length]
        place += max(2, length)
        if marker == _SOS:
            # Otherwise the picture comes in one scan and is decoded row by row.
            if progressive or body[:1] != components:
                _check_scans(data.count(b"\xff\xda", start - 2), size, max_pixels)
            _check_number(data.count(b"8BIM", 0, start), MAX_PARTS, "Photoshop notes")
            return
        if marker in _SOF:
            frames += 1
            size = int.from_bytes(body[3:5]), int.from_bytes(body[1:3])
            components, progressive = body[5:6], marker in _SOF_PROGRESSIVE
        elif marker == _APP1 and body.startswith(b"Exif\0\0"):
            exif += length
        elif marker == _DQT:
            tables += length
        _check_number(frames, 1, "header")
        _check_number(segments, MAX_PARTS, "segments")
        _check_number(filler, MAX_FILLER_BYTES, "bytes between its segments")
        _check_number(exif, MAX_EXIF_BYTES, "bytes of EXIF")
        _check_number(tables, MAX_TABLE_BYTES, "bytes of tables")


def _check_scans(scans: int, size: tuple[int, int], max_pixels: int) -> None:
    """The decoder goes over all of the picture for each scan, and keeps it whole, at full size, until the last."""
    if all(size):
        check_pixels(size, max_pixels, "; a progressive JPEG cannot be decoded at a smaller size")
        _check_number(scans, min(MAX_SCANS, MAX_SCANS_OF_HUGE * max_pixels // (size[0] * size[1])), "scans")


def _check_png(data: bytes, max_pixels: int) -> None:
    place, chunks, packed = 8, 0, 0
    while place + 8 <= len(data):
        kind = data[place + 4 : place + 8]
        if kind == b"IEND":
            return
        chunks += 1
        packed += kind in (b"iCCP", b"zTXt", b"iTXt")
        _check_number(chunks, MAX_PARTS, "chunks")
        _check_number(packed, MAX_PACKED_TEXTS, "compressed texts")
        place += 12 + int.from_bytes(data[place : place + 4])


def _check_gif(data: bytes, max_pixels: int) -> None:
    """Walks to the second image, as Pillow does to tell whether there is one."""
    place = 13 + _color_table_bytes(data[10:11])
    parts = images = 0
    while place < len(data) and data[place] != _GIF_TRAILER:
        kind = data[place]
        if kind == _GIF_IMAGE:
            images += 1
            if images == 2:
                return
            # Pillow makes the screen as big as its first image needs.
            width, height = _shorts(data, 6, 2)
            left, top, right, bottom = _shorts(data, place + 1, 4)
            check_pixels((max(width, left + right), max(height, top + bottom)), max_pixels)
            place += 11 + _color_table_bytes(data[place + 9 : place + 10])
        elif kind == _GIF_EXTENSION:
            label, first = data[place + 1 : place + 2], data[place + 2 : place + 3]
            place += 2
            if first == b"\0" and label != _GIF_COMMENT:
                place += 1  # Pillow reads on behind an empty first sub-block.
        while place < len(data) and data[place] and kind in (_GIF_IMAGE, _GIF_EXTENSION):
            parts += 1
            place += 1 + data[place]
            _check_number(parts, MAX_SUB_BLOCKS, "sub-blocks")
        parts += 1
        place += 1
        _check_number(parts, MAX_SUB_BLOCKS, "sub-blocks")


def _shorts(data: bytes, place: int, count: int) -> list[int]:
    return [int.from_bytes(data[at : at + 2], "little") for at in range(place, place + 2 * count, 2)]


def _color_table_bytes(flags: bytes) -> int:
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 128 else 0


def _check_tiff(data: bytes, max_pixels: int) -> None:
    from visiontool.images.tiff_header import TiffHeader

    TiffHeader(data).check(max_pixels)


def _check_webp(data: bytes, max_pixels: int) -> None:
    # Pillow reserves two whole canvases when it opens the file.
    kind = data[12:16]
    if kind not in (b"VP8 ", b"VP8L", b"VP8X") or len(data) < 30:
        return
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in _shorts(data, 26, 2))
    check_pixels((width, height), max_pixels)


def _check_jpeg_2000(data: bytes, max_pixels: int) -> None:
    place = boxes = segments = 0
    if data[4:8] == b"jP  ":
        while place + 8 <= len(data) and data[place + 4 : place + 8] != b"jp2c":
            length = int.from_bytes(data[place : place + 4])
            if length == 0:  # up to the end of the file
                return
            if length == 1:
                length = int.from_bytes(data[place + 8 : place + 16])
            if data[place + 4 : place + 8] == b"jp2h":
                _check_number(length, MAX_HEADER_BYTES, "bytes of header")
            place += length
            boxes += 1
            _check_number(boxes, MAX_PARTS, "boxes")
        place += 8
    place += 2
    while place + 4 <= len(data) and data[place + 1] not in _JPEG_2000_PIXELS:
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
        segments += 1
        _check_number(segments, MAX_PARTS, "segments")


_CHECKS: dict[str, Callable[[bytes, int], None]] = {
    "Jpeg": _check_jpeg,
    "Png": _check_png,
    "Gif": _check_gif,
    "Tiff": _check_tiff,
    "WebP": _check_webp,
    "Jpeg2K": _check_jpeg_2000,
}
