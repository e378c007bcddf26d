"""Picture files before a decoder: read, recognized by their first bytes, and refused where they would cost too much."""

import os
import re
import stat
from typing import Any

from visiontool.errors import PictureError
from visiontool.text import short_repr

MAX_SLOW_SAMPLES = 10_000_000
MAX_SCANS = 1000  # of a JPEG; encoders write about ten
MAX_SCANS_OF_HUGE = 50  # of one of max_pixels. Measured at 100 megapixels: 0.06 s each

# How a file begins, and the Pillow plugin that reads it. What starts an interpreter is left out on purpose.
_SIGNATURES = {
    "Jpeg": (b"\xff\xd8\xff",),
    "Png": (b"\x89PNG\r\n\x1a\n",),
    "Gif": (b"GIF87a", b"GIF89a"),
    "Bmp": (b"BM",),
    "Tiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "Ppm": tuple(b"P%c%c" % (kind, space) for kind in b"123456f" for space in b" \t\n\r\v\f"),
    "Ico": (b"\0\0\1\0",),
    "Jpeg2K": (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
}
_EXTENSIONS = {
    "Jpeg": ".jpg .jpeg .jpe .jfif .mpo", "Png": ".png .apng", "WebP": ".webp", "Gif": ".gif", "Bmp": ".bmp",
    "Tiff": ".tif .tiff", "Ppm": ".ppm .pgm .pbm .pnm", "Ico": ".ico", "Avif": ".avif", "Jpeg2K": ".jp2 .j2k",
    "Heif": ".heic .heif .hif",
}  # fmt: skip
PLUGIN_OF = {extension: plugin for plugin, all_of_it in _EXTENSIONS.items() for extension in all_of_it.split()}
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"))
_READABLE = "JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, ICO, AVIF, JPEG 2000, HEIC"

_PROGRAM = "is {}, which is a program and not only a picture: convert it to PNG first"
_OTHER = "is {}, which is not read: convert it to JPEG or PNG first"
# Where a signature stands, and what a file that has it is.
_REFUSED = (
    (0, b"\xc5\xd0\xd3\xc6", _PROGRAM.format("PostScript (EPS)")),
    (0, b"\xd7\xcd\xc6\x9a", _PROGRAM.format("WMF")),
    (40, b" EMF\0\0\1\0", _PROGRAM.format("EMF")),
    (0, b"8BPS", _OTHER.format("a Photoshop file (PSD)")),
    (0, b"SIMPLE  =", _OTHER.format("FITS")),
    (0, b"\xff\x0a", _OTHER.format("JPEG XL")),
    (0, b"\0\0\0\x0cJXL ", _OTHER.format("JPEG XL")),
    (0, b"FUJIFILMCCD-RAW", _OTHER.format("a camera's raw file (RAF)")),
    (4, b"ftypcrx ", _OTHER.format("a camera's raw file (CR3)")),
    (0, b"version https://git-lfs", "is only a pointer of Git LFS to a picture; fetch it with: git lfs pull"),
)
# Text that may have a byte order mark, white space or a prolog in front, and may be UTF-16.
_TEXT_BYTES = 4096
_BEFORE_TEXT = b"\xef\xbb\xbf\xfe\xff\x04 \t\r\n"
_REFUSED_TEXT = (
    (rb"%!", _PROGRAM.format("PostScript (EPS)")),
    (rb"%PDF-", _PROGRAM.format("PDF")),
    (rb"(?i)<(!doctype\s+)?html\b", "is a web page (HTML), not a picture"),
    (rb"(?s)(?=<).*?<(\w{1,20}:)?svg[\s/>]", _PROGRAM.format("SVG")),
)
_DECODED_IN_PYTHON = {
    "ppm_plain": "a plain-text PPM, which decodes slowly",
    "bmp_rle": "a BMP with run lengths, which decodes slowly",
}


def read(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """What the file at `path` holds; a PictureError where it cannot be read, is empty or above `max_bytes`."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            is_readable = os.access(path, os.R_OK | os.X_OK)
            raise PictureError("is a folder, not a picture" if is_readable else "is a folder that cannot be read")
        if not stat.S_ISREG(status.st_mode):  # to open some devices is to use them
            raise PictureError("is not a file but a pipe, a socket or a device")
        check_bytes(status.st_size, max_bytes)
        with open(path, "rb") as file:
            return file.read(max_bytes)
    except FileNotFoundError as error:
        if os.path.islink(path):
            raise PictureError(f"is a link to a file that is not there: {short_repr(os.readlink(path))}") from error
        raise PictureError("no such file") from error
    except PermissionError as error:
        raise PictureError("no permission to read it") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise PictureError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error


def check_bytes(size: int, max_bytes: int) -> None:
    if size == 0:
        raise PictureError("file is empty (0 bytes)")
    if size > max_bytes:
        raise PictureError(f"file is {size:,} bytes, the limit is {max_bytes:,} (--max-bytes)")


def plugin_for(data: bytes) -> str:
    """The name of the plugin that reads this file: Pillow's, or "Heif"; a PictureError names what is not read."""
    if data[4:8] == b"ftyp":
        box = data[8 : int.from_bytes(data[:4])]
        brands = {box[place : place + 4] for place in range(0, min(len(box), 256), 4)}
        if brands & _AVIF_BRANDS:
            return "Avif"
        if brands & _HEIF_BRANDS:
            return "Heif"
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    for plugin, signatures in _SIGNATURES.items():
        if data.startswith(signatures):
            return plugin
    for place, signature, words in _REFUSED:
        if data.startswith(signature, place):
            raise PictureError(words)
    text = data[:_TEXT_BYTES].replace(b"\0", b"").lstrip(_BEFORE_TEXT)
    for pattern, words in _REFUSED_TEXT:
        if re.match(pattern, text):
            raise PictureError(words)
    raise PictureError(f"not a picture that can be read ({_READABLE})")


def check_pixels(size: tuple[int, int], max_pixels: int, hint: str = "") -> None:
    """Refuses what has no pixels or too many."""
    width, height = size
    if width < 1 or height < 1:
        raise PictureError(f"has no pixels ({width}x{height})")
    if width * height > max_pixels:
        count = f"{width}x{height} is {width * height:,} pixels"
        raise PictureError(f"{count}, the limit is {max_pixels:,} (--max-pixels){hint}")


def check_decoder(image: Any, data: bytes) -> None:
    """Refuses what Pillow would decode in Python, and for more than some seconds."""
    tiles = getattr(image, "tile", [])
    codec = tiles[0].codec_name if tiles else ""
    if codec in _DECODED_IN_PYTHON:
        samples = image.width * image.height * len(image.getbands())
        if max(samples, len(data) if codec == "bmp_rle" else 0) > MAX_SLOW_SAMPLES:
            fault = f"is too big for {_DECODED_IN_PYTHON[codec]}: convert it to PNG first"
            raise PictureError(f"{image.width}x{image.height} {fault}")


def check_scans(image: Any, data: bytes, max_pixels: int) -> None:
    """Refuses too many scans: the decoder keeps all of a JPEG, at full size, until the last of several."""
    scan = b"\xff\xda"
    first = data.rfind(scan, 0, image.fp.tell())  # to whose end Pillow has read
    if "progressive" not in image.info and data[first + 4] == image.layers:
        return
    check_pixels(image.size, max_pixels, "; a progressive JPEG cannot be decoded at a smaller size")
    most = min(MAX_SCANS, MAX_SCANS_OF_HUGE * max_pixels // (image.width * image.height))
    if data.count(scan, first) > most:
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
