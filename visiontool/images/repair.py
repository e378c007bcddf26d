"""Bytes of files with faults that cost no pixel, put right: for files that a decoder refuses as they are."""

import zlib

from visiontool.images.tiff_header import TiffHeader

NO_END = "no end marker, but all pixels are there"
JPEG_END = b"\xff\xd9"  # of a JPEG 2000 as well
_PNG_PIXELS = (b"IHDR", b"PLTE", b"IDAT")
_PNG_KEPT = (b"tRNS", b"eXIf", b"acTL")  # where they are whole
_PNG_END = b"\0\0\0\0IEND\xae\x42\x60\x82"
_WEBP_PIXELS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_WEBP_EXIF, _WEBP_METADATA = 0x08, 0x2C  # flags


def mended(plugin: str, data: bytes) -> tuple[bytes, str]:
    """The file without what neither its pixels nor the way up depend on, and with an end; and what to note of it.

    Unchanged for formats of which that is not known.
    """
    if plugin == "Jpeg2K":  # whose decoder tells whether any bits are missing
        return data.rstrip(b"\xff") + JPEG_END, NO_END
    if plugin == "Png":
        data = _png(data)
    elif plugin == "WebP":
        data = _webp(data)
    elif plugin == "Tiff":
        data = TiffHeader(data).without_metadata()
    return data, "damaged or oversized metadata: left out"


def _png(data: bytes) -> bytes:
    parts, place = [data[:8]], 8
    while place + 12 <= len(data) and (kind := data[place + 4 : place + 8]) != b"IEND":
        end = place + 12 + int.from_bytes(data[place : place + 4])
        if end > len(data):  # The bytes behind it would be taken for pixels.
            break
        is_whole = zlib.crc32(data[place + 4 : end - 4]) == int.from_bytes(data[end - 4 : end])
        if kind in _PNG_PIXELS or (kind in _PNG_KEPT and is_whole):
            parts.append(data[place:end])
        place = end
    return b"".join((*parts, _PNG_END))


def _webp(data: bytes) -> bytes:
    parts, place, flags = [], 12, 0
    while place + 8 <= len(data):
        kind, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        end = place + 8 + size + size % 2
        if kind in _WEBP_PIXELS:
            parts.append(data[place:end])
        elif kind == b"EXIF" and end <= len(data):
            parts.append(data[place:end])
            flags = _WEBP_EXIF
        place = end
    body = bytearray(b"".join(parts))
    if body.startswith(b"VP8X"):
        body[8:9] = bytes((body[8] & ~_WEBP_METADATA | flags,))
    return b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WEBP" + body
