"""Pixels of more than 8 bits: white is what the file declares, or what the fewest bits hold that its values need."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from oddities import chunk, gray_tiff, patched, png, tiff
from pictures import RED, WHITE, encoded, error_of, only_pixel, pixels, saved, written
from PIL import Image

from visiontool.images.decode import open_image

SCALED_16, SCALED_12 = ("16-bit: scaled to 8 bits",), ("12-bit: scaled to 8 bits",)
# 0 -> 0, 385 / 257 = 1.498 -> 1, 386 / 257 = 1.502 -> 2, 32768 / 257 = 127.502 -> 128, 65535 -> 255
SIXTEEN_BITS, EIGHT_BITS = np.array([[0, 385, 386, 32768, 65535]], np.uint16), [0, 1, 2, 128, 255]

ROW_OF_16_BITS, ONE_CLEAR = b"\0" + struct.pack(">4H", 0, 300, 301, 65535), chunk(b"tRNS", struct.pack(">H", 300))
TRANSPARENT_300 = png(4, 1, ROW_OF_16_BITS, ONE_CLEAR, bits=16, color=0)


@pytest.mark.parametrize(
    ("data", "expected", "notes"),
    [
        *(
            (encoded(Image.fromarray(SIXTEEN_BITS), format), EIGHT_BITS, SCALED_16)
            for format in ("PNG", "TIFF", "JPEG2000")
        ),
        (b"P5 5 1 65535\n" + SIXTEEN_BITS.astype(">u2").tobytes(), EIGHT_BITS, SCALED_16),
        # 0x000, 0xFFF and 0x800, 0x010: 2048 * 255 / 4095 = 127.53, 16 * 255 / 4095 = 0.996
        (gray_tiff(4, 1, 12, 1, bytes.fromhex("000FFF800010")), [0, 255, 128, 1], SCALED_12),
        (gray_tiff(4, 1, 12, 1, bytes.fromhex("000FFF800010"), t262=0), [255, 0, 127, 254], SCALED_12),  # white is 0
        (b"P5 3 1 4095\n" + struct.pack(">3H", 0, 16, 4095), [0, 1, 255], SCALED_12),
        (b"P5 3 1 15\n\x00\x01\x0f", [0, 17, 255], ()),
        (b"P2 3 1 15\n0 1 15\n", [0, 17, 255], ()),
        (b"P5 3 1 65534\n" + struct.pack(">3H", 0, 386, 65535), [0, 2, 255], SCALED_16),
        (TRANSPARENT_300, [0, 255, 1, 255], SCALED_16),
    ],
)
def test_gray_is_scaled_from_the_white_that_is_declared(data, expected, notes):
    picture = open_image(data)
    assert (pixels(picture), picture.notes) == ([[(value,) * 3 for value in expected]], notes)


def test_16_bit_colors_of_a_png_are_noted(tmp_path):
    rows = b"\0" + struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x1200, 0x5678, 0x9ABC)
    picture = open_image(written(tmp_path, "a.png", png(2, 1, rows, bits=16)))
    assert (pixels(picture), picture.notes) == ([[(0x12, 0x56, 0x9A)] * 2], SCALED_16)
    one = chunk(b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC))
    assert pixels(open_image(written(tmp_path, "b.png", png(2, 1, rows, one, bits=16))))[0][0] == WHITE
    alpha = b"\0" + struct.pack(">4H", 0x5678, 0, 0x5678, 65535)
    picture = open_image(written(tmp_path, "c.png", png(2, 1, alpha, bits=16, color=4)))
    assert (pixels(picture), picture.notes) == ([[WHITE, (0x56, 0x56, 0x56)]], SCALED_16)


def test_16_bit_colors_of_a_tiff_are_noted(tmp_path):
    tags = {256: 1, 257: 1, 258: 16, 259: 1, 262: 2, 273: -1, 277: 3, 278: 1, 279: 6}
    picture = open_image(written(tmp_path, "a.tif", tiff(tags, struct.pack("<3H", 0x1234, 0x5678, 0x9ABC))))
    assert (only_pixel(picture), picture.notes) == ((0x12, 0x56, 0x9A), SCALED_16)
    tags.update({262: 5, 277: 4, 279: 8})
    picture = open_image(written(tmp_path, "b.tif", tiff(tags, struct.pack("<4H", 0, 65535, 65535, 0))))
    assert only_pixel(picture) == RED
    assert picture.notes == (*SCALED_16, "CMYK without a color profile: colors are approximate")


def test_a_ppm_of_any_white_is_scaled(tmp_path):
    data = b"P6 2 1 65535\n" + struct.pack(">6H", 0, 386, 65535, 65535, 0, 32768)
    picture = open_image(written(tmp_path, "a.ppm", data))
    assert (pixels(picture), picture.notes) == ([[(0, 2, 255), (255, 0, 128)]], SCALED_16)
    picture = open_image(written(tmp_path, "b.ppm", b"P6 1 1 3\n\x00\x01\x03"))
    assert (only_pixel(picture), picture.notes) == ((0, 85, 255), ())
    assert error_of(written(tmp_path, "c.ppm", data[:-1])).startswith("truncated or damaged: ")


# Values of fewer bits than they are kept in: the photo, and not a dark one


def taken(bits: int, what: str = "16-bit") -> tuple[str, ...]:
    if (what, bits) == ("16-bit", 16):
        return SCALED_16
    return (f"{what}: no value needs more than {bits} bits, taken for {bits}-bit",)


RAMP = np.linspace(0, 1, 24).reshape(4, 6)
KEPT_IN = {
    "16-bit": {
        "a.tif": lambda v: gray_tiff(6, 4, 16, 1, v.astype("<u2").tobytes()),
        "b.tif": lambda v: encoded(Image.frombytes("I;16B", (6, 4), v.astype(">u2").tobytes()), "TIFF"),
        "deflate.tif": lambda v: encoded(Image.fromarray(v.astype("u2")), "TIFF", compression="tiff_adobe_deflate"),
        "a.png": lambda v: encoded(Image.fromarray(v.astype("u2")), "PNG"),
        "gray and alpha.png": lambda v: png(6, 4, deep_rows(v, v.max()), bits=16, color=4),
        "a.jp2": lambda v: encoded(Image.fromarray(v.astype("u2")), "JPEG2000"),
        "a.pgm": lambda v: b"P5 6 4 65535 " + v.astype(">u2").tobytes(),
        "plain.pgm": lambda v: b"P2 6 4 65535 " + b" ".join(b"%d" % number for number in v.ravel()),
        "a.ppm": lambda v: b"P6 6 4 65535 " + v.repeat(3).astype(">u2").tobytes(),
        "colors.png": lambda v: png(6, 4, deep_rows(v, v, v), bits=16),
        "colors and alpha.png": lambda v: png(6, 4, deep_rows(v, v, v, 65535), bits=16, color=6),
        "colors.tif": lambda v: gray_tiff(6, 4, 16, 1, v.repeat(3).astype("<u2").tobytes(), t262=2, t277=3),
        "array": lambda v: v.astype("u2"),
        "array of colors": lambda v: np.stack([v, v, v, np.full_like(v, 65535)], -1).astype(">u2"),
        "Pillow": lambda v: Image.fromarray(v.astype("u2")),
    },
    "16-bit integer": {"signed.tif": lambda v: gray_tiff(6, 4, 16, 2, v.astype("<i2").tobytes())},
    "32-bit integer": {
        "a.tif": lambda v: gray_tiff(6, 4, 32, 1, v.astype("<u4").tobytes()),
        "Pillow": lambda v: Image.fromarray(v.astype("i4")),
    },
    "32-bit float": {
        "a.tif": lambda v: gray_tiff(6, 4, 32, 3, v.astype("<f4").tobytes()),
        "Pillow": lambda v: Image.fromarray(v.astype("f4")),
    },
}


def deep_rows(*bands: object) -> bytes:
    """Rows of a PNG of 16 bits."""
    pixels = np.stack(np.broadcast_arrays(*bands), -1).astype(">u2")
    return b"".join(b"\0" + row.tobytes() for row in pixels)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize(("what", "name"), [(what, name) for what, kinds in KEPT_IN.items() for name in kinds])
def test_values_of_few_bits_are_no_dark_picture(tmp_path, what, name, bits):
    values = np.rint(RAMP * (2**bits - 1)).astype(int).clip(max=32767 if name == "signed.tif" else None)
    source = KEPT_IN[what][name](values)
    picture = open_image(written(tmp_path, name, source) if isinstance(source, bytes) else source)
    expected = values / (2**bits - 1) * 255
    assert np.abs(np.asarray(picture.image) - expected[..., None]).max() <= 1
    assert picture.notes == taken(bits, what)


@pytest.mark.parametrize(
    ("source", "note"),
    [
        (lambda v: gray_tiff(6, 4, 16, 1, v.astype("<u2").tobytes(), t281=4095), taken(12)),
        (lambda v: gray_tiff(6, 4, 16, 1, v.repeat(3).astype("<u2").tobytes(), t262=2, t277=3, t281=4095), taken(12)),
        (lambda v: b"P5 6 4 4095 " + v.astype(">u2").tobytes(), ("12-bit: scaled to 8 bits",)),
        (lambda v: b"P2 6 4 4095 " + b" ".join(b"%d" % number for number in v.ravel()), ("12-bit: scaled to 8 bits",)),
    ],
)
def test_white_that_a_file_declares_is_believed_also_of_a_dark_picture(tmp_path, source, note):
    picture = open_image(written(tmp_path, "a", source(np.rint(RAMP * 500).astype(int))))
    assert np.abs(np.asarray(picture.image) - RAMP[..., None] * 500 / 4095 * 255).max() <= 1
    assert picture.notes == note


def test_lower_bytes_that_cannot_be_had_are_noted():
    lazy = Image.open(BytesIO(png(6, 4, deep_rows(*[RAMP * 4095] * 3), bits=16)))
    assert open_image(lazy).notes[0].startswith("16-bit: only the upper 8 bits can be read here")
    deep = png(6, 4, deep_rows(*[RAMP * 65535] * 3), bits=16)
    assert open_image(Image.open(BytesIO(deep))).notes == SCALED_16
    data = encoded(Image.new("RGB", (8, 8), RED), "JPEG2000", no_jp2=True)
    assert open_image(patched(data, b"\xff\x4f\xff\x51", b"\x0f\1\1" * 3, 38)).notes == SCALED_16


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("values", "color"), [((60000, 30000, 5), (234, 117, 0)), ((4095, 2048, 16), (255, 128, 1))])
def test_planes_of_16_bits_are_not_mixed_up(order, values, color):
    assert pixels(open_image(planar_tiff(order, values))) == [[color] * 2] * 2


def planar_tiff(order: str, values: tuple[int, ...]) -> bytes:
    """A TIFF of 2x2 pixels of one color of 16 bits, its planes one behind the other."""
    behind = 8 + 2 + 12 * 10 + 4
    lists = {258: [16] * 3, 273: [behind + 36 + 8 * place for place in range(3)], 279: [8] * 3}
    tags = {256: 2, 257: 2, 258: 0, 259: 1, 262: 2, 273: 0, 277: 3, 278: 2, 279: 0, 284: 2}
    entries = [
        struct.pack(f"{order}HHII", tag, 4, 1 if value else 3, value or behind + 12 * list(lists).index(tag))
        for tag, value in tags.items()
    ]
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    numbers = [struct.pack(f"{order}3I", *each) for each in lists.values()]
    planes = [struct.pack(f"{order}4H", *[value] * 4) for value in values]
    return b"".join((start, *entries, bytes(4), *numbers, *planes))


# White is 0


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("bits", "sample_format", "type_", "numbers", "expected"),
    [
        (8, 1, "u1", [0, 16, 255], [255, 239, 0]),
        (16, 1, "u2", [0, 16 * 257, 65535], [255, 239, 0]),
        (16, 1, "u2", [0, 2048, 4095], [255, 127, 0]),
        (16, 1, "u2", [65535 - 4095, 65535 - 2048, 65535], [255, 128, 0]),
        (16, 2, "i2", [-300, 0, 300], [255, 128, 0]),
        (32, 2, "i4", [0, 2048, 4095], [255, 127, 0]),
        (32, 3, "f4", [0, 0.25, 1], [255, 191, 0]),
        (32, 3, "f4", [np.nan, 5.5, 10.5], [0, 255, 0]),
    ],
)
@pytest.mark.parametrize("compression", [1, 8])
def test_where_0_is_white_the_picture_is_no_negative(
    tmp_path, order, compression, bits, sample_format, type_, numbers, expected
):
    values = np.array(numbers, order + type_).tobytes()
    values = values if compression == 1 else zlib.compress(values)
    tags = {256: 3, 257: 1, 258: bits, 259: compression, 262: 0, 273: 134, 277: 1, 278: 1, 279: len(values)}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    entries += struct.pack(f"{order}HHIHH", 339, 3, 1, sample_format, 0)
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 10)
    data = start + entries + bytes(4) + values
    assert pixels(open_image(written(tmp_path, "a.tif", data))) == [[(value,) * 3 for value in expected]]


# Numbers that have no bits to go by


@pytest.mark.parametrize(
    ("values", "expected", "note"),
    [
        ([0, 0.5, 1], [0, 128, 255], "scaled from 0..1"),
        ([0.5, 0.5, 0.5], [128, 128, 128], "scaled from 0..1"),
        ([-3.2, 518.9, 1041], [0, 128, 255], "stretched from -3.2..1041"),
        ([0, 0.5, 1.5], [0, 85, 255], "stretched from 0..1.5"),
        ([-0.5, 0, 0.5], [0, 128, 255], "stretched from -0.5..0.5"),
        ([np.nan, 0.5, 10], [0, 0, 255], "stretched from 0.5..10"),
        ([-np.inf, 5.5, 10], [0, 0, 255], "stretched from 5.5..10"),
        ([-3e38, 0, 3e38], [0, 128, 255], "stretched from -3e+38..3e+38"),
        ([1e9, 1e9 + 64, 1e9 + 128], [0, 128, 255], "stretched from 1e+09..1e+09"),
    ],
)
def test_floats_are_scaled_or_stretched_as_the_note_says(tmp_path, values, expected, note):
    path = saved(tmp_path, "a.tif", Image.fromarray(np.float32([values])))
    picture = open_image(path)
    assert pixels(picture) == [[(value,) * 3 for value in expected]]
    assert picture.notes == (f"32-bit float: {note} to 8 bits",)


UNSIGNED = gray_tiff(3, 1, 32, 1, struct.pack("<3I", 0, 2**31, 2**32 - 2))
SIGNED = gray_tiff(3, 1, 16, 2, struct.pack("<3h", -300, 0, 300))


@pytest.mark.parametrize(
    ("source", "expected", "note"),
    [
        (Image.fromarray(np.int32([[0, 35000, 70000]])), [0, 128, 255], "32-bit integer: stretched from 0..70000"),
        (Image.fromarray(np.int32([[-5, 0, 0]])), [0, 255, 255], "32-bit integer: stretched from -5..0"),
        (UNSIGNED, [0, 128, 255], "32-bit integer: stretched from 0..4294967294"),  # brighter above 2 ** 31
        (SIGNED, [0, 128, 255], "16-bit integer: stretched from -300..300"),
    ],
)
def test_integers_are_stretched_as_the_note_says(source, expected, note):
    picture = open_image(source)
    assert (pixels(picture), picture.notes) == ([[(value,) * 3 for value in expected]], (f"{note} to 8 bits",))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_one_value_everywhere_is_black(mode):
    picture = open_image(Image.new(mode, (2, 1), -7))
    assert pixels(picture) == [[(0, 0, 0), (0, 0, 0)]]
    kind = "integer" if mode == "I" else "float"
    assert picture.notes == (f"32-bit {kind}: every pixel is -7, shown as black",)


def test_no_number_at_all_is_no_picture():
    assert error_of(Image.new("F", (2, 2), float("nan"))) == "32-bit float without one pixel that is a number"


def test_bands_of_a_big_picture_are_put_together(monkeypatch):
    values = np.arange(35, dtype=np.float32).reshape(5, 7) + 0.5
    whole = pixels(open_image(Image.fromarray(values)))
    monkeypatch.setattr("visiontool.images.color._BAND_PIXELS", 15)
    assert pixels(open_image(Image.fromarray(values))) == whole
    assert whole[4][6] == WHITE


def test_floats_of_several_channels_are_refused_by_name(tmp_path):
    tags = {256: 1, 257: 1, 258: 32, 259: 1, 262: 2, 273: -1, 277: 3, 278: 1, 279: 12, 339: 3}
    path = written(tmp_path, "a.tif", tiff(tags, bytes(12)))
    unread = "TIFF of a kind that is not read (3 x 32-bit float, compression 1): convert it to PNG first"
    assert error_of(path) == unread
    path = written(tmp_path, "b.tif", gray_tiff(1, 1, 8, 1, b"\0", t259=34712))
    assert "(1 x 8-bit integer, compression 34712)" in error_of(path)
