"""What a file is, told by its first bytes and not by its name: a kind that is read, or one that is refused by name."""

import re

from visiontool.errors import PictureError

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


def plugin_for(data: bytes) -> str:
    """The name of the plugin that reads this file: Pillow's, or "Heif".

    Raises:
        PictureError: No plugin that is allowed does.
    """
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
    raise PictureError(_why_not(data))


def _why_not(data: bytes) -> str:
    for place, signature, words in _REFUSED:
        if data.startswith(signature, place):
            return words
    text = data[:_TEXT_BYTES].replace(b"\0", b"").lstrip(_BEFORE_TEXT)
    for pattern, words in _REFUSED_TEXT:
        if re.match(pattern, text):
            return words
    return f"not a picture that can be read ({_READABLE})"
