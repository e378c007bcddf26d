import os
import random
import socket
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from visiontool.errors import PictureError, UsageError
from visiontool.images import Limits, Picture, open_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
NO_FILE = "not a picture that can be read (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, ICO, AVIF, JPEG 2000, HEIC)"


def saved(folder: Path, name: str, image: Image.Image, **options: object) -> str:
    path = folder / name
    image.save(path, **options)
    return str(path)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def written(folder: Path, name: str, data: bytes) -> str:
    (folder / name).write_bytes(data)
    return str(folder / name)


def corners(block: int = 1) -> Image.Image:
    """Red and green above blue and white, each `block` pixels."""
    pixels = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8)
    return Image.fromarray(pixels.repeat(block, 0).repeat(block, 1))


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def pixels(picture: Picture) -> list[list[tuple[int, ...]]]:
    assert picture.image.mode == "RGB"
    return [[tuple(pixel) for pixel in row] for row in np.asarray(picture.image).tolist()]


def only_pixel(picture: Picture) -> tuple[int, ...]:
    ((pixel,),) = pixels(picture)
    return pixel


def outcome_of(path: str, **options: object) -> Picture | str:
    try:
        return open_image(path, **options)
    except PictureError as error:
        return str(error)


def error_of(source: object, **options: object) -> str:
    with pytest.raises(PictureError) as caught:
        open_image(source, **options)
    return str(caught.value)


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


# Colors


def test_gray_becomes_three_equal_channels(tmp_path):
    assert only_pixel(open_image(saved(tmp_path, "a.png", Image.new("L", (1, 1), 77)))) == (77, 77, 77)


def test_one_bit_is_black_and_white(tmp_path):
    image = Image.new("1", (2, 1), 1)
    image.putpixel((0, 0), 0)
    assert pixels(open_image(saved(tmp_path, "a.png", image))) == [[(0, 0, 0), WHITE]]


def palette_picture() -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    return image


def test_a_palette_is_looked_up(tmp_path):
    assert pixels(open_image(saved(tmp_path, "a.png", palette_picture()))) == [[RED, BLUE]]


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_a_transparent_palette_color_is_white(tmp_path, transparency):
    path = saved(tmp_path, "a.png", palette_picture(), transparency=transparency)
    assert pixels(open_image(path)) == [[WHITE, BLUE]]


def test_a_half_transparent_palette_color_is_mixed_with_white(tmp_path):
    path = saved(tmp_path, "a.png", palette_picture(), transparency=b"\x80\xff")
    assert pixels(open_image(path)) == [[(255, 127, 127), BLUE]]


def test_a_transparent_gif_is_put_over_white(tmp_path):
    path = saved(tmp_path, "a.gif", palette_picture(), transparency=0)
    assert pixels(open_image(path)) == [[WHITE, BLUE]]


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("RGBA", (255, 0, 0, 0), WHITE),
        ("RGBA", (255, 0, 0, 255), RED),
        ("RGBA", (255, 0, 0, 128), (255, 127, 127)),
        ("LA", (0, 51), (204, 204, 204)),
    ],
)
def test_alpha_is_put_over_white(tmp_path, mode, color, expected):
    assert only_pixel(open_image(saved(tmp_path, "a.png", Image.new(mode, (1, 1), color)))) == expected


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA"])
def test_rare_alpha_modes_are_put_over_white(mode):
    source = Image.new("LA" if mode == "La" else "RGBA", (1, 1), (0, 51) if mode == "La" else (0, 0, 0, 51))
    assert only_pixel(open_image(source.convert(mode))) == (204, 204, 204)


@pytest.mark.parametrize(
    ("mode", "colors", "transparency", "expected"),
    [
        ("RGB", (RED, BLUE), RED, [WHITE, BLUE]),
        ("L", (10, 20), 10, [WHITE, (20, 20, 20)]),
    ],
)
def test_the_one_transparent_color_of_a_png_is_white(tmp_path, mode, colors, transparency, expected):
    image = Image.new(mode, (2, 1), colors[0])
    image.putpixel((1, 0), colors[1])
    assert pixels(open_image(saved(tmp_path, "a.png", image, transparency=transparency))) == [expected]


# 0 -> 0, 385 / 257 = 1.498 -> 1, 386 / 257 = 1.502 -> 2, 32768 / 257 = 127.502 -> 128, 65535 -> 255
SIXTEEN_BITS = np.array([[0, 385, 386, 32768, 65535]], np.uint16)
EIGHT_BITS = [[(v, v, v) for v in (0, 1, 2, 128, 255)]]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jp2"])
def test_16_bit_gray_is_scaled(tmp_path, name):
    picture = open_image(saved(tmp_path, name, Image.fromarray(SIXTEEN_BITS)))
    assert pixels(picture) == EIGHT_BITS
    assert picture.notes == ("16-bit: scaled to 8 bits",)


def test_16_bit_gray_of_the_other_byte_order_is_scaled(tmp_path):
    image = Image.frombytes("I;16B", (5, 1), SIXTEEN_BITS.astype(">u2").tobytes())
    path = saved(tmp_path, "a.tif", image)
    assert Path(path).read_bytes().startswith(b"MM")
    assert pixels(open_image(path)) == EIGHT_BITS


def test_16_bit_gray_pgm_is_scaled(tmp_path):
    picture = open_image(written(tmp_path, "a.pgm", b"P5 5 1 65535\n" + SIXTEEN_BITS.astype(">u2").tobytes()))
    assert pixels(picture) == EIGHT_BITS
    assert picture.notes == ("16-bit: scaled to 8 bits",)


def tiff(width: int, height: int, bits: int, sample_format: int, data: bytes) -> bytes:
    """An uncompressed gray TIFF, the way Pillow cannot write it."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 0, 277: 1, 278: height, 279: len(data)}
    tags[339] = sample_format
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def test_12_bit_gray_is_scaled_from_12_bits(tmp_path):
    # 0x000, 0xFFF and 0x800, 0x010: 2048 * 255 / 4095 = 127.53, 16 * 255 / 4095 = 0.996
    picture = open_image(written(tmp_path, "a.tif", tiff(4, 1, 12, 1, bytes.fromhex("000FFF800010"))))
    assert pixels(picture) == [[(v, v, v) for v in (0, 255, 128, 1)]]
    assert picture.notes == ("12-bit: scaled to 8 bits",)


def test_32_bit_pictures_are_refused(tmp_path):
    integers = saved(tmp_path, "i.tif", Image.new("I", (2, 2), 70000))
    floats = saved(tmp_path, "f.tif", Image.new("F", (2, 2), 0.5))
    assert error_of(integers) == "32-bit integer pixels have no fixed white: convert it to 8 or 16 bits first"
    assert error_of(floats) == "32-bit floating point pixels have no fixed white: convert it to 8 or 16 bits first"


def test_signed_16_bit_pictures_are_refused(tmp_path):
    assert "have no fixed white" in error_of(written(tmp_path, "a.tif", tiff(1, 1, 16, 2, b"\x00\x80")))


CMYK_RED = Image.new("CMYK", (8, 8), (0, 255, 255, 0))


@pytest.mark.parametrize("name", ["a.tif", "a.jpg"])
def test_cmyk_without_a_profile_is_converted_with_a_note(tmp_path, name):
    picture = open_image(saved(tmp_path, name, CMYK_RED))
    assert np.abs(np.asarray(picture.image, int) - RED).max() <= 3
    assert picture.notes == ("CMYK without a color profile: colors are approximate",)


def gray_cmyk_profile() -> bytes:
    """An ICC profile that says that without black ink any mixture looks like Lab (50, 0, 0), and with it black."""
    identity = struct.pack(">9i", *(65536 * (place % 4 == 0) for place in range(9)))
    tables = bytes(range(256))
    lut = (
        b"mft1"
        + bytes(4)
        + bytes((4, 3, 2, 0))
        + identity
        + tables * 4
        + bytes((128, 128, 128, 0, 128, 128)) * 8
        + tables * 3
    )
    body = struct.pack(">I4sII", 1, b"A2B0", 144, len(lut)) + lut
    header = struct.pack(
        ">I4sI4s4s4s12s4s", 128 + len(body), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"", b"acsp"
    )
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
@pytest.mark.parametrize("broken", [b"Exif\0\0junk", exif(6)[:-8], exif(6)[:10], b"Exif\0\0MM\0*\xff\xff\xff\xff"])
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_broken_exif_costs_the_orientation_and_not_the_picture(tmp_path, name, broken):
    path = saved(tmp_path, name, corners(16), exif=broken)
    assert np.abs(np.asarray(open_image(path).image, int)[8, 8] - RED).max() <= 8


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
    assert picture.notes == ("several pictures in one file: only the main one is used",)


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
    os.symlink(tmp_path / "none.png", tmp_path / "link.png")
    assert error_of(str(tmp_path / "link.png")) == "no such file"
    assert error_of("") == "no such file"


def test_a_folder_is_named_so(tmp_path, monkeypatch):
    assert error_of(str(tmp_path)) == "is a folder, not a picture"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert error_of(str(tmp_path)) == "is a folder that cannot be read"


def test_an_empty_file_is_named_so(tmp_path):
    assert error_of(written(tmp_path, "a.png", b"")) == "file is empty (0 bytes)"


@pytest.mark.parametrize(
    "data",
    [b"hello, world", b"\x00", b"%PDF-1.7\n", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>", b"SIMPLE  =  T", bytes(1000)],
)
def test_what_is_no_picture_is_named_so(tmp_path, data):
    assert error_of(written(tmp_path, "a.png", data)) == NO_FILE


def test_a_film_is_no_picture(tmp_path):
    assert error_of(written(tmp_path, "a.heic", b"\x00\x00\x00\x18ftypmp42\0\0\0\0mp42isom" + bytes(50))) == NO_FILE


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named_so(tmp_path):
    path = saved(tmp_path, "a.png", corners())
    os.chmod(path, 0)
    assert error_of(path) == "no permission to read it"


def test_errors_of_the_system_are_put_in_words(tmp_path, monkeypatch):
    os.symlink("loop.png", tmp_path / "loop.png")
    assert error_of(str(tmp_path / "loop.png")) == "cannot be opened: Too many levels of symbolic links"
    assert "null" in error_of("a\0b.png")

    def denied(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "stat", denied)
    assert error_of("a.png") == "no permission to read it"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_sockets_and_devices_are_refused_without_waiting(tmp_path, monkeypatch):
    expected = "is not a file but a pipe, a socket or a device"
    os.mkfifo(tmp_path / "pipe.png")
    assert error_of(str(tmp_path / "pipe.png")) == expected
    monkeypatch.chdir(tmp_path)  # The path of a socket must be short.
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        assert error_of("socket.png") == expected
    assert error_of("/dev/zero") == expected


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.png", "a.webp", "a.gif", "a.bmp", "a.tif", "a.ppm", "a.avif", "a.jp2", "a.ico"]
)
def test_a_truncated_file_is_named_so(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = Path(saved(tmp_path, name, Image.fromarray(noise)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert error_of(str(path)).startswith("truncated or damaged: ")


def test_a_truncated_jpeg_says_where(tmp_path):
    data = encoded(Image.effect_noise((64, 64), 50), "JPEG")
    message = error_of(written(tmp_path, "a.jpg", data[:1000]))
    assert message.startswith("truncated or damaged: image file is truncated (")


def test_no_damage_escapes_as_another_error(tmp_path):
    randomly = random.Random(0)
    names = ["a.jpg", "a.png", "a.webp", "a.gif", "a.bmp", "a.tif", "a.ppm", "a.avif", "a.jp2", "a.ico"]
    for name in names:
        good = Path(saved(tmp_path, name, corners(8), exif=exif(6))).read_bytes()
        for _ in range(100):
            bad = bytearray(good[: randomly.randint(1, len(good))])
            for _ in range(randomly.randint(0, 6)):
                bad[randomly.randrange(len(bad))] = randomly.randrange(256)
            assert outcome_of(written(tmp_path, "bad", bytes(bad)), limits=Limits(max_pixels=10_000))


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (MemoryError(), "not enough memory to decode it"),
        (RuntimeError("something odd"), "truncated or damaged: something odd"),
        (KeyError(320), "truncated or damaged: KeyError(320)"),
        (EOFError(), "truncated or damaged: EOFError()"),
        (Image.DecompressionBombError("big"), "more pixels than the limit of 100,000,000"),
        (Image.DecompressionBombWarning("big"), "more pixels than the limit of 100,000,000"),
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


@pytest.mark.parametrize("source", [5, None, b"a.png", [[0]]])
def test_what_cannot_be_a_picture_is_wrong_usage(source):
    with pytest.raises(
        UsageError, match=f"a picture is a path, a Pillow picture or an array, not {type(source).__name__}"
    ):
        open_image(source)


# Limits


def test_a_file_above_the_limit_is_not_opened(tmp_path):
    path = saved(tmp_path, "a.bmp", corners(8))
    size = os.path.getsize(path)
    assert error_of(path, limits=Limits(max_bytes=size - 1)) == f"file is {size} bytes, the limit is {size - 1}"
    assert open_image(path, limits=Limits(max_bytes=size)).image.size == (16, 16)


def test_pixels_above_the_limit_are_not_decoded(tmp_path):
    # Only a header: were it decoded, it would be truncated.
    header = struct.pack(">I4sIIBBBBB", 13, b"IHDR", 40000, 50000, 8, 2, 0, 0, 0)
    png = written(tmp_path, "a.png", b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 0x12345678))
    assert error_of(png).startswith("truncated or damaged: ")
    ppm = written(tmp_path, "a.ppm", b"P6 40000 50000 255\n")
    assert error_of(ppm) == "40000x50000 is 2,000,000,000 pixels, the limit is 100,000,000"


@pytest.mark.parametrize(
    "name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.bmp", "a.tif", "a.ppm", "a.avif", "a.jp2", "a.ico"]
)
def test_the_limit_of_pixels_holds_for_each_format(tmp_path, name):
    path = saved(tmp_path, name, Image.new("RGB", (32, 32)))
    assert open_image(path, limits=Limits(max_pixels=1024)).image.size == (32, 32)
    assert error_of(path, limits=Limits(max_pixels=1023)) == "32x32 is 1,024 pixels, the limit is 1,023"


def test_the_limit_of_pixels_holds_for_pictures_in_memory():
    limits = Limits(max_pixels=511)
    assert error_of(Image.new("RGB", (32, 16)), limits=limits) == "32x16 is 512 pixels, the limit is 511"
    assert error_of(np.zeros((16, 32), np.uint8), limits=limits) == "32x16 is 512 pixels, the limit is 511"


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.gif", "a.webp", "a.ico"])
def test_the_limit_of_pillow_never_speaks_below_ours(tmp_path, monkeypatch, name):
    path = saved(tmp_path, name, Image.new("RGB", (16, 16), RED), lossless=True)
    for pillows in (1, 200):  # 256 pixels: an error of Pillow's, and a warning, which is an error in tests
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows)
        assert pixels(open_image(path))[0][0] == RED


@pytest.mark.parametrize("pillows", [None, 10**9])
def test_the_limit_of_pillow_is_never_lowered(monkeypatch, pillows):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows)
    open_image(corners())
    assert pillows == Image.MAX_IMAGE_PIXELS


# Decoding a JPEG smaller


@pytest.mark.parametrize(
    ("resize_to", "size"),
    [
        (None, (1600, 800)),
        (500, (1600, 800)),
        (201, (1600, 800)),
        (200, (800, 400)),
        (101, (800, 400)),
        (100, (400, 200)),
        (50, (200, 100)),
        (5, (200, 100)),
    ],
)
def test_a_jpeg_is_decoded_smaller_only_to_twice_the_size_needed(tmp_path, resize_to, size):
    for orientation, expected in ((1, size), (6, size[::-1])):
        path = saved(tmp_path, "a.jpg", Image.new("RGB", (1600, 800), RED), exif=exif(orientation))
        picture = open_image(path, resize_to=resize_to)
        assert picture.image.size == expected
        assert picture.notes == ()


def test_other_formats_are_decoded_whole(tmp_path):
    assert open_image(saved(tmp_path, "a.png", Image.new("RGB", (1600, 800))), resize_to=5).image.size == (1600, 800)


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
    sixteen_bits = open_image(Image.fromarray(SIXTEEN_BITS))
    assert (pixels(sixteen_bits), sixteen_bits.notes) == (EIGHT_BITS, ("16-bit: scaled to 8 bits",))
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
        "import sys; from visiontool.images import open_image\n"
        "heavy = {'torch', 'torchvision', 'pillow_heif', 'PIL.ImageCms', 'PIL.ImageOps', 'PIL.ImageFile'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        f"open_image({path!r})\n"
        "assert [name for name in sys.modules if name.endswith('ImagePlugin')] == ['PIL.JpegImagePlugin']\n"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
