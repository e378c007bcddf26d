"""`open_image`: what it reads, from files, bytes, arrays and Pillow pictures, and how it turns it upright."""

import subprocess
import sys
import zlib
from io import BytesIO

import numpy as np
import pytest
from oddities import chunk, frames
from pictures import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    corners,
    encoded,
    error_of,
    exif,
    only_pixel,
    palette_picture,
    pixels,
    saved,
    written,
)
from PIL import Image, TiffImagePlugin

from visiontool.errors import PictureError, UsageError
from visiontool.images.decode import Picture, open_image

# Formats


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.webp", {"lossless": True}),
        ("a.bmp", {}),
        ("a.tif", {}),
        ("a.tif", {"big_tiff": True}),
        ("a.gif", {}),
        ("a.ppm", {}),
        ("a.ico", {"sizes": [(2, 2)]}),
        ("a.jp2", {}),
        ("a.j2k", {"no_jp2": True}),
    ],
)
def test_lossless_formats_give_the_pixels_that_were_saved(tmp_path, name, options):
    picture = open_image(saved(tmp_path, name, corners(), **options))
    assert pixels(picture) == [[RED, GREEN], [BLUE, WHITE]]
    assert picture.notes == ()


@pytest.mark.parametrize(("name", "options"), [("a.jpg", {"quality": 95}), ("a.avif", {"quality": 95})])
def test_lossy_formats_give_nearly_the_pixels_that_were_saved(tmp_path, name, options):
    picture = open_image(saved(tmp_path, name, Image.new("RGB", (24, 16), (200, 100, 50)), **options))
    assert picture.image.size == (24, 16)
    assert np.abs(np.asarray(picture.image, int) - (200, 100, 50)).max() <= 3


@pytest.mark.parametrize("inside", ["png", "bmp"])
def test_an_icon_gives_its_biggest_picture(tmp_path, inside):
    path = saved(tmp_path, "a.ico", corners(16), sizes=[(16, 16), (32, 32)], bitmap_format=inside)
    picture = open_image(path)
    assert pixels(picture) == pixels(Picture(corners(16)))
    assert picture.notes == ()


# Upright

UPRIGHT = {
    1: [[RED, GREEN], [BLUE, WHITE]],
    2: [[GREEN, RED], [WHITE, BLUE]],
    3: [[WHITE, BLUE], [GREEN, RED]],
    4: [[BLUE, WHITE], [RED, GREEN]],
    5: [[RED, BLUE], [GREEN, WHITE]],
    6: [[BLUE, RED], [WHITE, GREEN]],
    7: [[WHITE, GREEN], [BLUE, RED]],
    8: [[GREEN, WHITE], [RED, BLUE]],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg"])
def test_exif_orientation_is_applied(tmp_path, name, orientation):
    picture = open_image(saved(tmp_path, name, corners(16), exif=exif(orientation), lossless=True))
    assert np.abs(np.asarray(picture.image, int)[8::16, 8::16] - UPRIGHT[orientation]).max() <= 8


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_tiff_orientation_is_applied_once(tmp_path, compression, orientation):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[0x0112] = orientation
    path = saved(tmp_path, "a.tif", corners(), tiffinfo=info, compression=compression)
    assert pixels(open_image(path)) == UPRIGHT[orientation]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("broken", [b"Exif\0\0junk", exif(6)[:10], b"Exif\0\0MM\0*\xff\xff\xff\xff"])
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_broken_exif_costs_the_orientation_and_not_the_picture(tmp_path, name, broken):
    picture = open_image(saved(tmp_path, name, corners(16), exif=broken + bytes(20)))
    assert np.abs(np.asarray(picture.image, int)[8, 8] - RED).max() <= 8
    assert picture.notes == ("damaged or oversized EXIF: taken for upright",)


# More than one frame


@pytest.mark.parametrize(
    ("format", "notes"),
    [
        *((format, ("animated: only the first frame is used",)) for format in ("GIF", "WEBP", "PNG", "AVIF")),
        ("TIFF", ("several pictures in one file: only the first is used",)),
        ("MPO", ()),  # a phone's picture with its preview
    ],
)
def test_of_several_frames_the_first_is_taken(format, notes):
    picture = open_image(frames(format))
    assert np.abs(np.asarray(picture.image, int) - RED).max() <= 3
    assert picture.notes == notes


# Metadata that costs no picture

LEFT_OUT, NO_END = "damaged or oversized metadata: left out", "no end marker, but all pixels are there"
IN_FRONT = "blanks or line breaks in front of the picture: left out"
TURNED = corners(16)
PNG, JPEG, WEBP = (
    encoded(TURNED, "PNG", exif=exif(6)),
    encoded(TURNED, "JPEG", exif=exif(6), quality=95),
    encoded(TURNED, "WEBP", exif=exif(6), lossless=True),
)
NOT_TOO_MUCH, TOO_MUCH = zlib.compress(bytes(2**20)), zlib.compress(bytes(2 * 2**20))


def before_pixels(*chunks: bytes) -> bytes:
    place = PNG.index(b"IDAT") - 4
    return PNG[:place] + b"".join(chunks) + PNG[place:]


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (before_pixels(chunk(b"zTXt", b"workflow\0\0" + TOO_MUCH)), LEFT_OUT),
        (before_pixels(chunk(b"iCCP", b"printer\0\0" + TOO_MUCH)), LEFT_OUT),
        (before_pixels(*[chunk(b"zTXt", b"%d\0\0" % number + NOT_TOO_MUCH) for number in range(65)]), LEFT_OUT),
        (before_pixels(chunk(b"tEXt", b"a\0b")[:-1] + b"!"), LEFT_OUT),
        (before_pixels(chunk(b"pHYs", b"short")), LEFT_OUT),
        (PNG[:-12] + chunk(b"zTXt", b"after\0\0" + TOO_MUCH) + PNG[-12:], LEFT_OUT),
        (PNG[:-12] + chunk(b"tEXt", bytes(99))[:30], LEFT_OUT),
        (PNG[:-12], NO_END),
        (JPEG[:-2], NO_END),
        *((front + data, IN_FRONT) for front in (b"\r\n", b"\xef\xbb\xbf\n") for data in (PNG, JPEG, WEBP)),
        (b"\n" + JPEG[:-2], IN_FRONT),
        (encoded(TURNED.rotate(-90), "JPEG2000")[:-2], NO_END),
        (WEBP[:4] + bytes(4) + WEBP[8:], LEFT_OUT),
        (WEBP[:4] + b"\xff\xff\xff\x7f" + WEBP[8:] + b"XMP \xff\0\0\0<x", LEFT_OUT),
    ],
)
def test_faults_of_metadata_cost_neither_the_picture_nor_its_way_up(tmp_path, data, note):
    picture = open_image(written(tmp_path, "a", data))
    assert np.abs(np.asarray(picture.image, int)[8::16, 8::16] - UPRIGHT[6]).max() <= 8
    assert picture.notes[0] == note


# Bytes, Pillow pictures and arrays


@pytest.mark.parametrize("place", [0, 7, None])
def test_bytes_are_pictures_as_their_file_is(tmp_path, place):
    data = encoded(corners(), "PNG", exif=exif(6))
    stream = BytesIO(data)
    stream.seek(len(data) if place is None else place)  # as it stands after Pillow wrote into it
    assert pixels(open_image(data)) == pixels(open_image(stream)) == UPRIGHT[6]
    assert (stream.tell(), stream.getvalue()) == (len(data) if place is None else place, data)


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_a_pillow_picture_is_not_changed(transparency):
    source = palette_picture()
    source.info["transparency"] = transparency
    source.info["exif"] = exif(6)
    before = (source.mode, source.size, source.tobytes(), dict(source.info), source.getpalette("RGBA"))
    assert pixels(open_image(source)) == [[WHITE], [BLUE]]
    assert (source.mode, source.size, source.tobytes(), dict(source.info), source.getpalette("RGBA")) == before


def test_a_pillow_picture_is_treated_like_a_file(tmp_path):
    sixteen_bits = open_image(Image.fromarray(np.uint16([[386, 65535]])))
    assert (pixels(sixteen_bits), sixteen_bits.notes) == ([[(2, 2, 2), WHITE]], ("16-bit: scaled to 8 bits",))
    with Image.open(saved(tmp_path, "a.png", corners(), exif=exif(8))) as image:
        assert pixels(open_image(image)) == UPRIGHT[8]
    truncated = Image.open(BytesIO(encoded(Image.effect_noise((64, 64), 50), "JPEG")[:1000]))
    assert error_of(truncated).startswith("truncated or damaged: image file is truncated")


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.uint8([[7]]), (7, 7, 7)),
        (np.uint8([[[7]]]), (7, 7, 7)),
        (np.uint8([[[1, 2, 3]]]), (1, 2, 3)),
        (np.uint8([[[255, 0, 0, 128]]]), (255, 127, 127)),
        (np.uint16([[32768]]), (128, 128, 128)),
        (np.uint16([[[0, 386, 65535]]]), (0, 2, 255)),
        (np.uint16([[[65535, 0, 0, 32896]]]), (255, 127, 127)),
        (np.array([[32768]], ">u2"), (128, 128, 128)),
    ],
)
def test_arrays_are_pictures(array, expected):
    before = array.copy()
    picture = open_image(array)
    assert only_pixel(picture) == expected
    assert picture.notes == (("16-bit: scaled to 8 bits",) if array.dtype.itemsize == 2 else ())
    assert (array == before).all()


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.zeros((2, 2), np.float32), r"array of float32 with shape \(2, 2\)"),
        (np.zeros((3, 2, 9), np.uint8), r"array of uint8 with shape \(3, 2, 9\)"),
        (np.zeros(4, np.uint8), r"array of uint8 with shape \(4,\)"),
    ],
)
def test_other_arrays_are_refused(array, got):
    expected = r"expected uint8 or uint16 with shape \(H, W\), \(H, W, 1\), \(H, W, 3\) RGB or \(H, W, 4\) RGBA"
    with pytest.raises(PictureError, match=f"^{got}: {expected}$"):
        open_image(array)


@pytest.mark.parametrize("source", [5, None, [[0]]])
def test_what_cannot_be_a_picture_is_wrong_usage(source):
    kinds = "a path, bytes, a BytesIO, a Pillow picture or an array"
    with pytest.raises(UsageError, match=f"a picture is {kinds}, not {type(source).__name__}"):
        open_image(source)


# HEIC


def test_heic_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    words = error_of(b"\x00\x00\x00\x18ftypheic\0\0\0\0mif1heic" + bytes(50))
    assert words.startswith("Reading HEIC pictures needs packages that are not installed. Install them with: ")
    assert words.endswith('install "visiontool[heic]"')


def test_heic_is_read_upright():
    pillow_heif = pytest.importorskip("pillow_heif")
    heif, file = pillow_heif.from_pillow(corners(16)), BytesIO()
    heif.info["exif"] = exif(6)
    heif.save(file, quality=95)
    picture = open_image(file, resize_to=1)
    assert np.abs(np.asarray(picture.image, int)[8::16, 8::16] - UPRIGHT[6]).max() <= 30
    assert picture.notes == ()


def test_only_the_plugin_that_is_needed_is_imported(tmp_path):
    path = saved(tmp_path, "a.jpg", corners(8))
    program = (
        "import sys; from visiontool.images.decode import open_image\n"
        "heavy = {'torch', 'torchvision', 'pillow_heif', 'PIL.ImageCms', 'PIL.ImageOps', 'PIL.ImageFile'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        f"open_image({path!r})\n"
        "assert [name for name in sys.modules if name.endswith('ImagePlugin')] == ['PIL.JpegImagePlugin']\n"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
