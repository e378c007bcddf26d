"""Pixels of 8 bits of every mode: what becomes of them is declared, and what is lost is noted."""

import struct

import numpy as np
import pytest
from oddities import bitmap, bmp, chunk, gray_tiff, icon, png, tiff
from pictures import BLUE, RED, WHITE, encoded, only_pixel, palette_picture, pixels, saved, written
from PIL import Image, ImageCms

from visiontool.images.decode import open_image

NOT_BELIEVED = ("alpha is 0 everywhere and not declared to be alpha: not believed",)


def two(mode: str, first: object, second: object) -> Image.Image:
    """Two pixels beside each other."""
    image = Image.new(mode, (2, 1), first)
    image.putpixel((1, 0), second)
    return image


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (two("L", 77, 0), {}, [(77, 77, 77), (0, 0, 0)]),
        (two("1", 0, 1), {}, [(0, 0, 0), WHITE]),
        (palette_picture(), {}, [RED, BLUE]),
        (palette_picture(), {"transparency": 0}, [WHITE, BLUE]),
        (palette_picture(), {"transparency": b"\x80\xff"}, [(255, 127, 127), BLUE]),
        (palette_picture(), {"transparency": 0, "format": "GIF"}, [WHITE, BLUE]),
        (two("RGBA", (255, 0, 0, 0), (255, 0, 0, 255)), {}, [WHITE, RED]),
        (two("RGBA", (255, 0, 0, 128), (0, 0, 255, 255)), {}, [(255, 127, 127), BLUE]),
        (two("LA", (0, 51), (0, 255)), {}, [(204, 204, 204), (0, 0, 0)]),
        (two("RGB", RED, BLUE), {"transparency": RED}, [WHITE, BLUE]),
        (two("L", 10, 20), {"transparency": 10}, [WHITE, (20, 20, 20)]),
    ],
)
def test_every_mode_becomes_rgb_over_white(image, options, expected):
    assert pixels(open_image(encoded(image, **{"format": "PNG", **options}))) == [expected]


@pytest.mark.parametrize(("bits", "packed"), [(1, 0b01000000), (2, 0b00011011), (4, 0b00000001)])
def test_gray_of_few_bits_is_transparent_where_the_png_says_so(tmp_path, bits, packed):
    data = png(2, 1, bytes((0, packed)), chunk(b"tRNS", struct.pack(">H", 0)), bits=bits, color=0)
    gray = 255 // (2**bits - 1)
    assert pixels(open_image(written(tmp_path, "a.png", data))) == [[WHITE, (gray, gray, gray)]]
    data = png(2, 1, bytes((0, packed)), chunk(b"tRNS", struct.pack(">H", 1)), bits=bits, color=0)
    assert pixels(open_image(written(tmp_path, "a.png", data))) == [[(0, 0, 0), WHITE]]


def v4_bmp(alpha_mask: int) -> bytes:
    """One red pixel of 4 bytes, the last of them 0, with masks that say where colors are; none where alpha has none."""
    masks = (0xFF0000, 0xFF00, 0xFF, alpha_mask) if alpha_mask else (0, 0, 0, 0)
    header = struct.pack("<IiiHHIIiiII4I52x", 108, 1, 1, 1, 32, 3, 4, 0, 0, 0, 0, *masks)
    return b"BM" + struct.pack("<IHHI", 126, 0, 0, 122) + header + b"\0\0\xff\0"


@pytest.mark.parametrize(
    ("name", "data", "notes"),
    [
        ("undeclared.tif", gray_tiff(1, 1, 8, 1, b"\xff\0\0\0", t262=2, t277=4), NOT_BELIEVED),
        ("padding.tif", gray_tiff(1, 1, 8, 1, b"\xff\0\0\0", t262=2, t277=4, t338=0), ()),
        ("padding.bmp", bmp(bitmap(1, 1, 32, data=b"\0\0\xff\0")), ()),
        ("no masks.bmp", v4_bmp(0), NOT_BELIEVED),
        ("a.ico", icon(bitmap(1, 2, 32, data=b"\0\0\xff\0" + bytes(4))), NOT_BELIEVED),
        ("a.j2k", encoded(Image.new("RGBA", (1, 1), (255, 0, 0, 0)), "JPEG2000", no_jp2=True), NOT_BELIEVED),
    ],
)
def test_alpha_of_0_everywhere_that_nobody_declared_is_not_believed(tmp_path, name, data, notes):
    picture = open_image(written(tmp_path, name, data))
    assert (only_pixel(picture), picture.notes) == (RED, notes)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("a.tif", gray_tiff(1, 1, 8, 1, b"\xff\0\0\0", t262=2, t277=4, t338=2)),
        ("a.bmp", v4_bmp(0xFF000000)),
        ("a.ico", icon(png(1, 1, b"\0\xff\0\0\0", color=6))),
        ("a.png", encoded(Image.new("RGBA", (1, 1), (255, 0, 0, 0)), "PNG")),
        ("a.jp2", encoded(Image.new("RGBA", (1, 1), (255, 0, 0, 0)), "JPEG2000")),
        ("array", np.uint8([[[255, 0, 0, 0]]])),
        ("Pillow", Image.new("RGBA", (1, 1), (255, 0, 0, 0))),
    ],
)
def test_declared_alpha_of_0_everywhere_is_believed_with_a_note(tmp_path, name, source):
    picture = open_image(written(tmp_path, name, source) if isinstance(source, bytes) else source)
    assert (only_pixel(picture), picture.notes) == (WHITE, ("wholly transparent: only white is left",))


@pytest.mark.parametrize(("bits", "data"), [(1, b"\x40"), (8, b"\x00\xff"), (16, b"\0\0\xff\xff")])
def test_where_nothing_is_said_0_is_black(tmp_path, bits, data):
    tags = {256: 2, 257: 1, 258: bits, 259: 1, 273: -1, 277: 1, 278: 1, 279: len(data)}
    picture = open_image(written(tmp_path, "a.tif", tiff(tags, data)))
    assert pixels(picture) == [[(0, 0, 0), WHITE]]
    assert picture.notes[0] == "does not say whether 0 is black or white: taken for black"


# Four inks, and other color spaces

CMYK_RED = Image.new("CMYK", (8, 8), (0, 255, 255, 0))


def gray_cmyk_profile() -> bytes:
    """An ICC profile that says that without black ink any mixture looks like Lab (50, 0, 0), and with it black."""
    identity = struct.pack(">9i", *(65536 * (place % 4 == 0) for place in range(9)))
    table, colors = bytes(range(256)), bytes((128, 128, 128, 0, 128, 128)) * 8
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + table * 4 + colors + table * 3
    body = struct.pack(">I4sII", 1, b"A2B0", 144, len(lut)) + lut
    kinds = (b"prtr", b"CMYK", b"Lab ", b"", b"acsp")
    header = struct.pack(">I4sI4s4s4s12s4s", 128 + len(body), b"lcms", 0x02400000, *kinds)
    illuminant = struct.pack(">iii", 63190, 65536, 54061)
    return header.ljust(68, b"\0") + illuminant.ljust(60, b"\0") + body


@pytest.mark.parametrize("name", ["a.tif", "a.jpg"])
def test_cmyk_goes_through_its_own_profile(tmp_path, name):
    picture = open_image(saved(tmp_path, name, CMYK_RED, icc_profile=gray_cmyk_profile()))
    # L* = 50.2 is 18.6 % of white's luminance, which sRGB writes as 119.
    assert np.abs(np.asarray(picture.image, int) - 119).max() <= 1
    assert picture.notes == ()


@pytest.mark.parametrize("profile", [b"junk", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()])
def test_cmyk_with_a_useless_profile_is_converted_with_a_note(tmp_path, profile):
    picture = open_image(saved(tmp_path, "a.tif", CMYK_RED, icc_profile=profile))
    assert pixels(picture)[0][0] == RED
    assert picture.notes == ("CMYK with a color profile that does not work: colors are approximate",)


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("YCbCr", (90, 128, 128), (90, 90, 90)),
        ("HSV", (0, 255, 255), RED),
        ("LAB", (137, 128, 128), (128, 128, 128)),  # L* = 137 / 255 * 100 = 53.7, a* = b* = 128 - 128
    ],
)
def test_other_color_spaces_become_rgb(mode, color, expected):
    assert only_pixel(open_image(Image.new(mode, (1, 1), color))) == expected


# Every mode in every format that can hold it

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")
MODES = ("1", "L", "P", "RGB", "RGBA", "RGBX", "RGBa", "LA", "La", "PA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16")
COMPRESSIONS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group3", "group4", "lzma", "zstd")


def test_every_mode_in_every_format_is_read(tmp_path):
    gray = Image.linear_gradient("L").resize((32, 32))
    between = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}
    read = 0
    for mode in MODES:
        image = gray.convert(between.get(mode, "L")).convert(mode)
        for format in FORMATS:
            for option in [{"compression": kind} for kind in COMPRESSIONS] if format == "TIFF" else [{}]:
                path = tmp_path / f"{mode}.{format}"
                try:
                    image.save(path, format, **option)
                except (OSError, KeyError, ValueError, AttributeError, RuntimeError):
                    continue
                picture = open_image(path)
                assert (picture.image.mode, picture.image.size) == ("RGB", (32, 32)), (mode, format, option)
                read += 1
                if mode not in ("1", "I", "F", "I;16"):  # these are not gray from 0 to 255
                    seen = np.asarray(picture.image, int)
                    assert np.abs(seen - np.asarray(gray, int)[..., None]).max() <= 40, (mode, format, option)
    assert read > 100
