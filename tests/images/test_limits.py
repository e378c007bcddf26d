"""What one picture may cost: limits, and files built to cost more."""

import os
import struct
import time
from pathlib import Path

import pytest
from oddities import broken_pictures, good_pictures, plain_pictures
from pictures import RED, corners, encoded, error_of, exif, outcome_of, pixels, saved, written
from PIL import Image

from visiontool.images.decode import Limits, Picture, open_image

# Limits


@pytest.mark.parametrize("name", plain_pictures())
def test_the_limit_of_pixels_holds_for_each_format(name):
    data = plain_pictures()[name]
    assert open_image(data, limits=Limits(max_pixels=256)).image.size == (16, 16)
    assert error_of(data, limits=Limits(max_pixels=255)) == "16x16 is 256 pixels, the limit is 255 (--max-pixels)"


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
    [(None, (1600, 800)), (201, (1600, 800)), (200, (800, 400)), (101, (800, 400)), (100, (400, 200)), (5, (200, 100))],
)
def test_a_jpeg_is_decoded_smaller_only_to_twice_the_size_needed(tmp_path, resize_to, size):
    for orientation, expected in ((1, size), (6, size[::-1])):
        path = saved(tmp_path, "a.jpg", Image.new("RGB", (1600, 800), RED), exif=exif(orientation))
        picture = open_image(path, resize_to=resize_to)
        assert picture.image.size == expected
        assert picture.notes == ()


def test_a_jpeg_above_the_limit_is_read_where_it_is_decoded_below_it(tmp_path):
    path = saved(tmp_path, "a.jpg", Image.new("RGB", (1600, 800), RED))
    limits, too_many = Limits(max_pixels=800 * 400), "1600x800 is 1,280,000 pixels, the limit is 320,000 (--max-pixels)"
    assert open_image(path, resize_to=200, limits=limits).image.size == (800, 400)
    data, thumbnail = encoded(Image.new("RGB", (1600, 800)), "JPEG"), encoded(corners(8), "JPEG", progressive=True)
    with_thumbnail = data[:2] + b"\xff\xe5" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail + data[2:] + thumbnail
    assert open_image(with_thumbnail, resize_to=200, limits=limits).image.size == (800, 400)
    assert error_of(path, resize_to=201, limits=limits) == too_many
    assert error_of(path, limits=limits) == too_many
    small = Limits(max_pixels=800 * 400 - 1)
    assert error_of(path, resize_to=200, limits=small).startswith("800x400 is 320,000 pixels, the limit is 319,999")
    assert open_image(path, resize_to=100, limits=small).image.size == (400, 200)


@pytest.mark.parametrize("kind", ["progressive", "one scan a color"])
def test_a_jpeg_that_is_kept_whole_counts_in_full(tmp_path, kind):
    data = encoded(Image.new("RGB", (1600, 800), RED), "JPEG", progressive=kind == "progressive")
    if kind != "progressive":
        scan = data.index(b"\xff\xda")
        data = data[:scan] + b"\xff\xda\0\x08\x01\x01\x00\x00\x3f\x00" + data[scan + 14 :]
    path = written(tmp_path, "a.jpg", data)
    words = "1600x800 is 1,280,000 pixels, the limit is 1,279,999 (--max-pixels)"
    words += "; a progressive JPEG cannot be decoded at a smaller size"
    assert error_of(path, resize_to=100, limits=Limits(max_pixels=1600 * 800 - 1)) == words
    assert "--max-pixels" not in str(outcome_of(path, resize_to=100, limits=Limits(max_pixels=1600 * 800)))


# What it costs


def peak_megabytes() -> float:
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="measures memory through /proc")
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_what_is_refused_or_made_smaller_costs_little(tmp_path):
    big = {name: data for name, data in good_pictures().items() if name.startswith("big_")}  # what nobody needs of them
    pictures = {**broken_pictures(), **big, "huge.jpg": encoded(Image.new("L", (8000, 6000), 77), "JPEG")}
    for name, data in pictures.items():
        Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
        memory, start = peak_megabytes(), time.perf_counter()
        outcome = outcome_of(data, resize_to=224)
        assert isinstance(outcome, Picture) == (name in big or name == "huge.jpg"), name
        assert time.perf_counter() - start < 3, name
        assert peak_megabytes() - memory < 60, name  # the whole of the huge one has 183 in RGB


# Told before anything is decoded


def test_fewer_scans_are_allowed_the_bigger_the_picture(tmp_path):
    data = encoded(Image.new("L", (32, 32)), "JPEG", progressive=True)  # 6 scans
    path = written(tmp_path, "a.jpg", data + data.replace(data[:2], b"", 1) * 50)
    assert isinstance(outcome_of(path), Picture)
    assert error_of(path, limits=Limits(max_pixels=1024)) == "has more than 50 scans, unlike any real picture"
    assert isinstance(outcome_of(path, limits=Limits(max_pixels=7 * 1024)), Picture)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bomb_header.png", "2147483647x2147483647 is "),
        ("bomb_screen.gif", "65535x65535 is 4,294,836,225 pixels, the limit is 100,000,000 (--max-pixels)"),
        ("bomb_frame.gif", "more pixels than the limit of 100,000,000 (--max-pixels)"),
        ("bomb_png.ico", "30000x30000 is "),
        ("bomb_bmp.ico", "30000x30000 is "),
        ("bomb_run_lengths.ico", "9000x18000 is too big for a BMP with run lengths, which decodes slowly: convert"),
        ("bomb_run_lengths.bmp", "99999999x1 is too big for a BMP with run lengths, which decodes slowly: convert"),
        ("bomb_plain_text.ppm", "5000x5000 is too big for a plain-text PPM, which decodes slowly: convert it to PNG"),
        ("bomb_lossless.webp", "16384x16384 is "),
        ("bomb_canvas.webp", "16384x16384 is "),
        ("bomb_stream.jp2", "truncated or damaged: "),
        ("bomb_header.avif", "truncated or damaged: "),
        ("bomb_header.jpg", "65535x65535 is "),
        ("bomb_scans.jpg", "has more than 1,000 scans, unlike any real picture"),
        ("bomb_tiles.tif", "tiles of 30000x30000 pixels, the limit is 100,000,000 (--max-pixels)"),
        ("bomb_size.bmp", "2147483647x2147483647 is "),
        ("bomb_negative.bmp", "4294967291x2147483648 is "),
        ("bomb_header.ppm", "999999999x999999999 is "),
    ],
)
def test_each_bomb_is_refused_in_its_own_words(tmp_path, name, words):
    assert error_of(written(tmp_path, name, broken_pictures()[name])).startswith(words)
