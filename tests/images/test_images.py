"""`open_image`: what it reads and how it turns it upright, what it says of what it cannot read, and who may call it."""

import os
import re
import socket
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from oddities import chunk, gray_tiff
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
    outcome_of,
    palette_picture,
    pixels,
    saved,
    written,
)
from PIL import Image, TiffImagePlugin

from visiontool.errors import PictureError, UsageError
from visiontool.images.decode import Limits, Picture, open_image

NO_FILE = "not a picture that can be read (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, ICO, AVIF, JPEG 2000, HEIC)"


# What a picture can be


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.webp", {"lossless": True}),
        ("a.bmp", {}),
        ("a.tif", {}),
        ("a.tiff", {"compression": "tiff_lzw"}),
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


def test_the_content_decides_and_not_the_extension(tmp_path):
    assert pixels(open_image(saved(tmp_path, "a.jpg", corners(), format="PNG"))) == [[RED, GREEN], [BLUE, WHITE]]


def test_a_path_object_is_a_path(tmp_path):
    assert only_pixel(open_image(Path(saved(tmp_path, "a.png", Image.new("RGB", (1, 1), RED))))) == RED


def test_plain_text_ppm_is_read(tmp_path):
    assert pixels(open_image(written(tmp_path, "a.ppm", b"P3 2 1 255\n255 0 0 0 0 255\n"))) == [[RED, BLUE]]


def test_an_avif_that_calls_itself_mif1_is_read(tmp_path):
    data = encoded(Image.new("RGB", (16, 16), RED), "AVIF")
    assert data[8:12] == b"avif"
    assert b"mif1" in data[16:32]
    path = written(tmp_path, "a.avif", data[:8] + b"mif1" + data[12:])
    assert open_image(path).image.size == (16, 16)


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
@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_exif_orientation_is_applied(tmp_path, name, orientation):
    path = saved(tmp_path, name, corners(), exif=exif(orientation), lossless=True)
    assert pixels(open_image(path)) == UPRIGHT[orientation]


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_tiff_orientation_is_applied_once(tmp_path, compression, orientation):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[0x0112] = orientation
    path = saved(tmp_path, "a.tif", corners(), tiffinfo=info, compression=compression)
    assert pixels(open_image(path)) == UPRIGHT[orientation]


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_jpeg_orientation_is_applied(tmp_path, orientation):
    path = saved(tmp_path, "a.jpg", corners(16), exif=exif(orientation), quality=95)
    image = np.asarray(open_image(path).image, int)[8::16, 8::16]
    assert np.abs(image - UPRIGHT[orientation]).max() <= 8


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist_are_ignored(tmp_path, orientation):
    assert pixels(open_image(saved(tmp_path, "a.png", corners(), exif=exif(orientation)))) == UPRIGHT[1]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("broken", [b"Exif\0\0junk", exif(6)[:10], b"Exif\0\0MM\0*\xff\xff\xff\xff"])
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_broken_exif_costs_the_orientation_and_not_the_picture(tmp_path, name, broken):
    picture = open_image(saved(tmp_path, name, corners(16), exif=broken + bytes(20)))
    assert np.abs(np.asarray(picture.image, int)[8, 8] - RED).max() <= 8
    assert picture.notes == ("damaged or oversized EXIF: taken for upright",)


def test_a_picture_that_was_turned_is_not_turned_again(tmp_path):
    picture = open_image(saved(tmp_path, "a.png", corners(), exif=exif(6)))
    assert pixels(open_image(picture.image)) == UPRIGHT[6]


# More than one frame


def save_frames(folder: Path, name: str, **options: object) -> str:
    first, *others = [Image.new("RGB", (4, 4), color) for color in (RED, GREEN, BLUE)]
    return saved(folder, name, first, save_all=True, append_images=others, **options)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.avif"])
def test_an_animation_gives_its_first_frame_with_a_note(tmp_path, name):
    picture = open_image(save_frames(tmp_path, name, lossless=True))
    assert np.abs(np.asarray(picture.image, int) - RED).max() <= 3
    assert picture.notes == ("animated: only the first frame is used",)


def test_a_tiff_of_several_pages_gives_its_first_with_a_note(tmp_path):
    picture = open_image(save_frames(tmp_path, "a.tif"))
    assert pixels(picture)[0][0] == RED
    assert picture.notes == ("several pictures in one file: only the first is used",)


def test_the_preview_in_a_phone_picture_is_no_animation(tmp_path):
    path = save_frames(tmp_path, "a.jpg", format="MPO")
    with Image.open(path) as image:
        assert (image.format, image.n_frames) == ("MPO", 3)
    assert open_image(path).notes == ()


def test_a_gif_that_is_damaged_behind_its_first_frame_is_read(tmp_path):
    data = Path(save_frames(tmp_path, "a.gif")).read_bytes()
    second = data.index(b",", data.index(b",") + 1)
    assert pixels(open_image(written(tmp_path, "a.gif", data[: second + 4])))[0][0] == RED


# What cannot be read


def test_a_missing_file_is_named_so(tmp_path):
    assert error_of(str(tmp_path / "none.png")) == "no such file"
    assert error_of("") == "no such file"


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_link_that_leads_nowhere_is_named_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink("none.png", "link.png")
    assert error_of("link.png") == "is a link to a file that is not there: 'none.png'"
    os.symlink("link.png", "second.png")
    assert error_of("second.png") == "is a link to a file that is not there: 'link.png'"
    os.symlink(b"a\xff\x1b[2J\n" + b"x" * 200, "odd.png")
    shown = error_of("odd.png")
    assert shown.startswith("is a link to a file that is not there: 'a\\udcff\\x1b[2J\\nxxx")
    assert len(shown) < 120
    os.symlink("loop.png", "loop.png")
    assert error_of("loop.png") == "is a link that leads back to itself"
    os.symlink("loop.png/a.png", "below.png")
    assert error_of("below.png") == "is a link that leads back to itself"


def test_a_folder_is_named_so(tmp_path, monkeypatch):
    assert error_of(str(tmp_path)) == "is a folder, not a picture"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert error_of(str(tmp_path)) == "is a folder that cannot be read"


def test_an_empty_file_is_named_so(tmp_path):
    assert error_of(written(tmp_path, "a.png", b"")) == "file is empty (0 bytes)"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named_so(tmp_path):
    path = saved(tmp_path, "a.png", corners())
    os.chmod(path, 0)
    assert error_of(path) == "no permission to read it"


def test_errors_of_the_system_are_put_in_words(tmp_path, monkeypatch):
    assert "null" in error_of("a\0b.png")
    assert error_of(str(tmp_path / ("a" * 300 + ".png"))) == "cannot be opened: File name too long"
    assert error_of(saved(tmp_path, "a.png", corners()) + "/b.png") == "cannot be opened: Not a directory"

    def denied(path: str, *flags: int) -> None:
        raise PermissionError(13, "Permission denied", path)

    for function in ("stat", "open"):
        with monkeypatch.context() as patched:
            patched.setattr(os, function, denied)
            assert error_of(str(tmp_path / "a.png")) == "no permission to read it"


NO_FILE_BUT = "is not a file but a pipe, a socket or a device"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_sockets_and_devices_are_refused_without_waiting(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    assert error_of(str(tmp_path / "pipe.png")) == NO_FILE_BUT
    monkeypatch.chdir(tmp_path)  # The path of a socket must be short.
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        assert error_of("socket.png") == NO_FILE_BUT
    assert error_of("/dev/zero") == NO_FILE_BUT


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_file_that_becomes_something_else_before_it_is_opened_is_refused(tmp_path, monkeypatch):
    path = saved(tmp_path, "a.png", corners())
    regular = os.stat(path)
    monkeypatch.setattr(os, "stat", lambda path: regular)
    open_files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    os.remove(path)
    os.mkfifo(path)
    assert error_of(path) == NO_FILE_BUT
    os.remove(path)
    os.mkdir(path)
    assert error_of(path) == "is a folder, not a picture"
    os.rmdir(path)
    Path(path).touch()
    assert error_of(path) == "file is empty (0 bytes)"
    os.truncate(path, 2**30)
    assert error_of(path) == "file is 1,073,741,824 bytes, the limit is 67,108,864 (--max-bytes)"
    os.remove(path)
    assert error_of(path) == "no such file"
    assert len(os.listdir("/proc/self/fd")) == open_files if open_files else True


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="needs /proc")
def test_a_file_of_the_system_that_calls_itself_empty_is_not_read():
    assert os.path.getsize("/proc/self/environ") == 0
    assert Path("/proc/self/environ").read_bytes()
    assert error_of("/proc/self/environ") == "file is empty (0 bytes)"


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.png", "a.webp", "a.gif", "a.bmp", "a.tif", "a.ppm", "a.avif", "a.jp2", "a.ico"]
)
def test_a_truncated_file_is_named_so(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = Path(saved(tmp_path, name, Image.fromarray(noise)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert error_of(str(path)).startswith("truncated or damaged: ")


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
        (before_pixels(chunk(b"iTXt", b"a\0\1\0\0\0" + TOO_MUCH)), LEFT_OUT),
        (before_pixels(chunk(b"iCCP", b"printer\0\0" + TOO_MUCH)), LEFT_OUT),
        (before_pixels(*[chunk(b"zTXt", b"%d\0\0" % number + NOT_TOO_MUCH) for number in range(65)]), LEFT_OUT),
        (before_pixels(chunk(b"tEXt", b"a\0b")[:-1] + b"!"), LEFT_OUT),
        (before_pixels(chunk(b"abCd", b"private")[:-1] + b"!"), LEFT_OUT),
        (before_pixels(chunk(b"pHYs", b"short")), LEFT_OUT),
        (PNG[:-12] + chunk(b"zTXt", b"after\0\0" + TOO_MUCH) + PNG[-12:], LEFT_OUT),
        (PNG[:-12] + chunk(b"tEXt", bytes(99))[:30], LEFT_OUT),
        (PNG[:-12], NO_END),
        (JPEG[:-2], NO_END),
        (JPEG[:-1], NO_END),
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


def test_an_animation_with_too_much_text_is_its_first_frame(tmp_path):
    data = Path(save_frames(tmp_path, "a.png")).read_bytes()
    place = data.index(b"IDAT") - 4
    picture = open_image(data[:place] + chunk(b"zTXt", b"a\0\0" + TOO_MUCH) + data[place:])
    assert pixels(picture)[0][0] == RED
    assert picture.notes == (LEFT_OUT, "animated: only the first frame is used")


@pytest.mark.parametrize(
    ("tag", "type_", "count", "value"),
    [(700, 4, 3, 8), (269, 12, 1, 2**31), (34853, 4, 1, 2**32 - 1), (315, 2, 2**31, 8)],
)
def test_odd_tags_cost_no_tiff(tmp_path, tag, type_, count, value):
    data = gray_tiff(2, 1, 8, 1, b"\0\xff", **{f"t{tag}": value})
    odd = struct.pack("<HHII", tag, 4, 1, value)
    picture = open_image(written(tmp_path, "a.tif", data.replace(odd, struct.pack("<HHII", tag, type_, count, value))))
    assert pixels(picture) == [[(0, 0, 0), WHITE]]


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
@pytest.mark.parametrize("resize_to", [None, 8])
def test_a_jpeg_that_is_cut_off_is_refused_or_filled_with_gray(mode, resize_to):
    whole = Image.effect_noise((64, 64), 50).convert("RGB").resize((640, 640)).convert(mode)
    data = encoded(whole, "JPEG", quality=60, exif=exif(3))
    cut = data[: len(data) // 2]
    assert re.fullmatch(
        r"truncated or damaged: image file is truncated \(\d+ bytes not processed\);"
        r" [45]\d% of it is there, which predict --on-truncated fill takes",
        error_of(cut, resize_to=resize_to),
    )
    picture = open_image(cut, resize_to=resize_to, limits=Limits(on_truncated="fill"))
    assert re.fullmatch(r"truncated: [45]\d% of it is there, the rest is gray", picture.notes[0])
    seen, right = (np.asarray(image, int) for image in (picture.image, open_image(data, resize_to=resize_to).image))
    middle = len(seen) // 2
    assert np.abs(seen - right)[middle + len(seen) // 8 :].max() <= 1  # upside down
    assert np.ptp(seen[: middle - len(seen) // 8]) <= 1


def test_a_progressive_jpeg_that_is_cut_off_is_coarse_below():
    data = encoded(Image.radial_gradient("L").resize((400, 400)), "JPEG", progressive=True, quality=95)
    picture = open_image(data[: len(data) * 2 // 3], limits=Limits(on_truncated="fill"))
    assert picture.notes[0] == "truncated: a coarser picture is there, the rest is gray"
    assert np.abs(np.asarray(picture.image, int) - np.asarray(open_image(data).image)).mean() < 8


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"quality": 95}, {"restart_marker_blocks": 2}])
def test_a_jpeg_that_lacks_pixels_is_not_taken_for_whole(mode, options):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    data = encoded(noise.convert(mode), "JPEG", **options)
    assert [isinstance(outcome_of(data[:-lost]), Picture) for lost in range(1, 40)] == [True] * 2 + [False] * 37


def test_of_a_jpeg_without_pixels_nothing_is_filled():
    for end in (JPEG.index(b"\xff\xda"), JPEG.index(b"\xff\xda") + 14):
        assert "--on-truncated" not in error_of(JPEG[:end], limits=Limits(on_truncated="fill"))


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (MemoryError(), "not enough memory to decode it"),
        (RuntimeError("something odd"), "truncated or damaged: something odd"),
        (KeyError(320), "truncated or damaged: KeyError(320)"),
        (EOFError(), "truncated or damaged: EOFError()"),
        (OSError("two\n lines\n"), "truncated or damaged: two lines"),
        (OSError("a\x1b[31m b"), "truncated or damaged: a?[31m b"),
        (OSError("long " * 1000), f"truncated or damaged: {('long ' * 40)}..."),
        (OSError("x" * 1000), f"truncated or damaged: OSError('{'x' * 191}..."),
        (Image.DecompressionBombError("big"), "more pixels than the limit of 100,000,000 (--max-pixels)"),
        (Image.DecompressionBombWarning("big"), "more pixels than the limit of 100,000,000 (--max-pixels)"),
    ],
)
def test_whatever_a_decoder_raises_becomes_a_picture_error(tmp_path, monkeypatch, raised, message):
    path = saved(tmp_path, "a.png", corners())

    def failing(image: Image.Image) -> None:
        raise raised

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", failing)
    assert error_of(path) == message


def test_an_interrupt_is_no_picture_error(tmp_path, monkeypatch):
    path = saved(tmp_path, "a.png", corners())

    def interrupted(image: Image.Image) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_image(path)


@pytest.mark.parametrize("source", [5, None, [[0]]])
def test_what_cannot_be_a_picture_is_wrong_usage(source):
    kinds = "a path, bytes, a BytesIO, a Pillow picture or an array"
    with pytest.raises(UsageError, match=f"a picture is {kinds}, not {type(source).__name__}"):
        open_image(source)


# Bytes


@pytest.mark.parametrize("place", [0, 7, None])
def test_bytes_are_pictures_as_their_file_is(tmp_path, place):
    data = encoded(corners(), "PNG", exif=exif(6))
    stream = BytesIO(data)
    stream.seek(len(data) if place is None else place)  # as it stands after Pillow wrote into it
    assert pixels(open_image(data)) == pixels(open_image(stream)) == UPRIGHT[6]
    assert (stream.tell(), stream.getvalue()) == (len(data) if place is None else place, data)


def test_bytes_have_the_limits_and_errors_of_files():
    assert error_of(b"a.png") == NO_FILE
    assert error_of(BytesIO()) == "file is empty (0 bytes)"
    data = encoded(corners(), "PNG")
    assert error_of(data, limits=Limits(max_bytes=9)) == f"file is {len(data)} bytes, the limit is 9 (--max-bytes)"
    assert error_of(BytesIO(data), limits=Limits(max_pixels=3)).startswith("2x2 is 4 pixels")


# Pillow pictures and arrays


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_a_pillow_picture_is_not_changed(transparency):
    source = palette_picture()
    source.info["transparency"] = transparency
    source.info["exif"] = exif(6)
    before = (source.mode, source.size, source.tobytes(), dict(source.info), source.getpalette("RGBA"))
    assert pixels(open_image(source)) == [[WHITE], [BLUE]]
    assert (source.mode, source.size, source.tobytes(), dict(source.info), source.getpalette("RGBA")) == before


def test_a_pillow_picture_is_never_handed_back_itself():
    source = corners()
    picture = open_image(source)
    picture.image.paste(BLUE, (0, 0, 2, 2))
    assert source.getpixel((0, 0)) == RED


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
        (np.uint16([[[32768]]]), (128, 128, 128)),
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


def test_a_view_of_an_array_is_a_picture_of_its_own():
    array = np.asarray(corners()).copy()
    picture = open_image(array[::-1, :, ::-1])
    array[...] = 0
    assert pixels(picture) == [[RED, WHITE], [BLUE, GREEN]]


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.zeros((2, 2), np.float32), r"array of float32 with shape \(2, 2\)"),
        (np.zeros((2, 2), bool), r"array of bool with shape \(2, 2\)"),
        (np.zeros((3, 2, 9), np.uint8), r"array of uint8 with shape \(3, 2, 9\)"),
        (np.zeros(4, np.uint8), r"array of uint8 with shape \(4,\)"),
        (np.zeros((1, 2, 2, 3), np.uint8), r"array of uint8 with shape \(1, 2, 2, 3\)"),
    ],
)
def test_other_arrays_are_refused(array, got):
    expected = r"expected uint8 or uint16 with shape \(H, W\), \(H, W, 1\), \(H, W, 3\) RGB or \(H, W, 4\) RGBA"
    with pytest.raises(PictureError, match=f"^{got}: {expected}$"):
        open_image(array)


def test_pictures_without_pixels_are_refused():
    assert error_of(np.zeros((0, 5, 3), np.uint8)) == "has no pixels (5x0)"
    assert error_of(Image.new("RGB", (0, 5))) == "has no pixels (0x5)"


# HEIC

HEIC_HEADER = b"\x00\x00\x00\x18ftypheic\0\0\0\0mif1heic" + bytes(50)


@pytest.mark.parametrize("with_pip", [True, False])
def test_heic_without_its_package_says_what_to_install(tmp_path, monkeypatch, with_pip):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if with_pip else None)
    pip = "pip" if with_pip else f'python3 -m pip --python "{sys.prefix}"'
    assert error_of(written(tmp_path, "a.jpg", HEIC_HEADER)) == (
        "Reading HEIC pictures needs packages that are not installed. "
        f'Install them with: {pip} install "visiontool[heic]"'
    )


def test_heic_is_read_upright_and_whole(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    heif = pillow_heif.from_pillow(corners(16))
    heif.info["exif"] = exif(6)
    heif.save(tmp_path / "a.heic", quality=95)
    picture = open_image(tmp_path / "a.heic", resize_to=1)
    assert np.abs(np.asarray(picture.image, int)[8::16, 8::16] - UPRIGHT[6]).max() <= 30
    assert picture.notes == ()
    assert error_of(written(tmp_path, "b.heic", HEIC_HEADER)).startswith("truncated or damaged: ")


# Many at once, and little at first


def test_threads_do_not_disturb_each_other(tmp_path):
    expected = []
    for number in range(40):
        color = (number, 255 - number, 7)
        good = saved(tmp_path, f"{number}.png", Image.new("RGB", (32, 32), color), exif=exif(number % 9))
        expected.append((good, color))
        expected.append((written(tmp_path, f"{number}.jpg", b"text"), NO_FILE))
        expected.append((str(tmp_path / f"{number}.none"), "no such file"))

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(outcome_of, [path for path, _ in expected] * 3))
    for outcome, (_, wanted) in zip(outcomes, expected * 3, strict=True):
        assert (pixels(outcome)[31][31] if isinstance(outcome, Picture) else outcome) == wanted


def test_no_file_is_left_open(tmp_path):
    paths = [saved(tmp_path, "a.png", corners()), written(tmp_path, "b.png", b"\x89PNG\r\n\x1a\n"), str(tmp_path)]
    paths.append(save_frames(tmp_path, "a.tif"))
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    kept = [outcome_of(path) for path in paths]
    assert [isinstance(outcome, Picture) for outcome in kept] == [True, False, False, True]
    assert (os.listdir("/proc/self/fd") if before else []) == before


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
