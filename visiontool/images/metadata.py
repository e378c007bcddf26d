"""Metadata of picture files: the tags of a TIFF before it is decoded, and files without what no pixel depends on."""

import zlib
from typing import Literal

from visiontool.errors import PictureError

NO_END = "no end marker, but all pixels are there"
JPEG_END = b"\xff\xd9"  # of a JPEG 2000 as well
_PNG_PIXELS = (b"IHDR", b"PLTE", b"IDAT")
_PNG_KEPT = (b"tRNS", b"eXIf", b"acTL")  # where they are whole
_PNG_END = b"\0\0\0\0IEND\xae\x42\x60\x82"
_WEBP_PIXELS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_WEBP_EXIF, _WEBP_METADATA = 0x08, 0x2C  # flags
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_WHOLE_NUMBERS = (3, 4, 13, 16)

_SUBFILE_TYPE, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 254, 258, 259, 262, 277
_TILE_WIDTH, _TILE_HEIGHT, _SUB_PICTURES, _SAMPLE_FORMAT = 322, 323, 330, 339
# Tags that pixels and the way up depend on.
_OF_PIXELS = frozenset((
        *(254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 281, 284, 292, 293, 317, 320, 322, 323, 324, 325),
        *(332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532, 34675),
))  # fmt: skip
_PREVIEW = 1


def repair(plugin: str, data: bytes) -> tuple[bytes, str]:
    """The file without what neither its pixels nor the way up depend on, and with an end; and a note about it."""
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


class TiffHeader:
    """The tags of the first picture of a TIFF file."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
        is_big = 43 in (data[2], data[3])
        self._width = width = 8 if is_big else 4
        directory = self._number(8, 8) if is_big else self._number(4, 4)
        size, count_bytes = (20, 8) if is_big else (12, 2)
        first = directory + count_bytes
        end = min(first + self._number(directory, count_bytes) * size, len(data))
        self._entries = range(first, end, size)
        # The type of each tag and where its first value is, without those that Pillow leaves out.
        self._tags: dict[int, tuple[int, int]] = {}
        for entry in self._entries:
            tag, kind, count = self._number(entry, 2), self._number(entry + 2, 2), self._number(entry + 4, width)
            size, place = count * _TYPE_BYTES.get(kind, 0), entry + 4 + width
            if size > width:
                place = self._number(place, width)
            if 0 < size <= len(data) - place:
                self._tags.setdefault(tag, (kind, place))

    def check(self, max_pixels: int) -> None:
        """Refuses files whose first picture only stands for another, and tiles above `max_pixels`."""
        width, height = self._value(_TILE_WIDTH), self._value(_TILE_HEIGHT)
        if width * height > max_pixels:
            raise PictureError(f"tiles of {width}x{height} pixels, the limit is {max_pixels:,} (--max-pixels)")
        if self._data[8:10] == b"CR" or (self._value(_SUBFILE_TYPE, 0) & _PREVIEW and self._value(_SUB_PICTURES, 0)):
            raise PictureError("is a camera's raw file, which is not read: convert it to JPEG or PNG first")

    def __str__(self) -> str:
        """ "3 x 32-bit float, compression 8": what the pixels are."""
        number = {1: "integer", 2: "signed integer", 3: "float"}.get(self._value(_SAMPLE_FORMAT), "unknown number")
        return f"{self._value(_SAMPLES)} x {self._value(_BITS)}-bit {number}, compression {self.compression}"

    @property
    def compression(self) -> int:
        """TIFF's number for it; 1 is none."""
        return self._value(_COMPRESSION)

    def with_zero_as_black(self) -> bytes | None:
        """The file with WhiteIsZero turned round where Pillow does not heed it, above 8 bits; else None."""
        if self._value(_PHOTOMETRIC) != 0 or self._value(_BITS) <= 8:
            return None
        kind, place = self._tags[_PHOTOMETRIC]
        size = _TYPE_BYTES[kind]
        return self._data[:place] + (1).to_bytes(size, self._order) + self._data[place + size :]

    def without_metadata(self) -> bytes:
        """The file with each tag that no pixel depends on made one byte, which is 0."""
        one_byte = (1).to_bytes(2, self._order) + (1).to_bytes(self._width, self._order) + bytes(self._width)
        data = bytearray(self._data)
        for entry in self._entries:
            if self._number(entry, 2) not in _OF_PIXELS:
                data[entry + 2 : entry + 2 + len(one_byte)] = one_byte
        return bytes(data)

    def _value(self, tag: int, default: int = 1) -> int:
        if tag not in self._tags:
            return default
        kind, place = self._tags[tag]
        return self._number(place, _TYPE_BYTES[kind]) if kind in _WHOLE_NUMBERS else 0

    def _number(self, place: int, size: int) -> int:
        return int.from_bytes(self._data[place : place + size], self._order)
