"""What one picture may cost: limits, and files built to cost more."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from oddities import bitmap, bmp, broken_pictures, good_pictures
from pictures import RED, corners, encoded, error_of, exif, outcome_of, pixels, saved, written
from PIL import Image

from visiontool.images import formats as bombs
from visiontool.images.decode import Limits, Picture, open_image

# Limits


def test_a_file_above_the_limit_is_not_opened(tmp_path):
    path = saved(tmp_path, "a.bmp", corners(8))
    size = os.path.getsize(path)
    limit = f"the limit is {size - 1} (--max-bytes)"
    assert error_of(path, limits=Limits(max_bytes=size - 1)) == f"file is {size} bytes, {limit}"
    assert open_image(path, limits=Limits(max_bytes=size)).image.size == (16, 16)


@pytest.mark.parametrize(
    "name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.bmp", "a.tif", "a.ppm", "a.avif", "a.jp2", "a.ico"]
)
def test_the_limit_of_pixels_holds_for_each_format(tmp_path, name):
    path = saved(tmp_path, name, Image.new("RGB", (32, 32)))
    assert open_image(path, limits=Limits(max_pixels=1024)).image.size == (32, 32)
    assert error_of(path, limits=Limits(max_pixels=1023)) == "32x32 is 1,024 pixels, the limit is 1,023 (--max-pixels)"


def test_the_limit_of_pixels_holds_for_pictures_in_memory():
    limits, words = Limits(max_pixels=511), "32x16 is 512 pixels, the limit is 511 (--max-pixels)"
    assert error_of(Image.new("RGB", (32, 16)), limits=limits) == words
    assert error_of(np.zeros((16, 32), np.uint8), limits=limits) == words


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
    assert (
        error_of(path, resize_to=200, limits=small) == "800x400 is 320,000 pixels, the limit is 319,999 (--max-pixels)"
    )
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


class Cost(NamedTuple):
    seconds: float
    megabytes: float
    outcome: list[int] | str  # width and height, or the error


def costs(paths: Sequence[str], **options: int) -> list[Cost]:
    """What opening each of `paths` costs in a process of its own, above what importing Pillow and numpy costs."""
    program = """
import json, sys, time, warnings
from PIL import AvifImagePlugin, BmpImagePlugin, GifImagePlugin, IcoImagePlugin, Jpeg2KImagePlugin, JpegImagePlugin
from PIL import PngImagePlugin, PpmImagePlugin, TiffImagePlugin, WebPImagePlugin
from visiontool.errors import PictureError
from visiontool.images.decode import open_image
warnings.filterwarnings("ignore", module=r"PIL\\.")
def peak():
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) / 1024
for path in sys.argv[2:]:
    open("/proc/self/clear_refs", "w").write("5")  # peak() from here on
    memory, start = peak(), time.perf_counter()
    try:
        outcome = open_image(path, **json.loads(sys.argv[1])).image.size
    except PictureError as error:
        outcome = str(error)
    print(json.dumps([time.perf_counter() - start, peak() - memory, outcome]))
"""
    command = [sys.executable, "-c", program, json.dumps(options), *paths]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, "Traceback" in ran.stderr) == (0, False)
    return [Cost(*json.loads(line)) for line in ran.stdout.splitlines()]


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="measures memory through /proc")


@needs_proc
def test_every_broken_picture_is_refused_soon_and_costs_little(tmp_path):
    big = {name: data for name, data in good_pictures().items() if name.startswith("big_")}  # what nobody needs of them
    paths = [written(tmp_path, name, data) for name, data in {**broken_pictures(), **big}.items()]
    for path, cost in zip(paths, costs(paths), strict=True):
        assert isinstance(cost.outcome, str) == (os.path.basename(path) not in big), path
        assert cost.seconds < 1, (path, cost)
        assert cost.megabytes < 40, (path, cost)


@needs_proc
def test_108_megapixels_are_read_in_little_memory_where_little_is_wanted(tmp_path):
    path = saved(tmp_path, "a.jpg", Image.new("L", (12000, 9000), 77))
    (cost,) = costs([path], resize_to=224)
    assert cost.outcome == [1500, 1125]
    assert cost.seconds < 3
    assert cost.megabytes < 60  # 8 were measured; the whole picture has 412 in RGB
    (whole,) = costs([path])
    assert whole.outcome == "12000x9000 is 108,000,000 pixels, the limit is 100,000,000 (--max-pixels)"


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
        ("bomb_ico.ico", "truncated or damaged: "),
        (
            "bomb_run_lengths.ico",
            "9000x18000 is too big for a BMP with run lengths, which decodes slowly: convert it to",
        ),
        (
            "bomb_run_lengths.bmp",
            "99999999x1 is too big for a BMP with run lengths, which decodes slowly: convert it to",
        ),
        (
            "bomb_plain_text.ppm",
            "5000x5000 is too big for a plain-text PPM, which decodes slowly: convert it to PNG first",
        ),
        ("bomb_lossless.webp", "16384x16384 is "),
        ("bomb_canvas.webp", "16384x16384 is "),
        ("bomb_header.jp2", "2147483647x2147483647 is "),
        ("bomb_stream.jp2", "truncated or damaged: "),
        ("bomb_header.avif", "truncated or damaged: "),
        ("bomb_header.jpg", "65535x65535 is "),
        ("bomb_scans.jpg", "has more than 1,000 scans, unlike any real picture"),
        ("bomb_tiles.tif", "tiles of 30000x30000 pixels, the limit is 100,000,000 (--max-pixels)"),
        ("bomb_size.tif", "4294967295x4294967295 is "),
        ("bomb_size.bmp", "2147483647x2147483647 is "),
        ("bomb_negative.bmp", "4294967291x2147483648 is "),
        ("bomb_header.ppm", "999999999x999999999 is "),
    ],
)
def test_each_bomb_is_refused_in_its_own_words(tmp_path, name, words):
    assert error_of(written(tmp_path, name, broken_pictures()[name])).startswith(words)


def test_what_python_decodes_is_limited_by_its_bytes_too(tmp_path, monkeypatch):
    monkeypatch.setattr(bombs, "MAX_SLOW_SAMPLES", 2000)
    good = bmp(bitmap(2, 1, 8, 1, bytes(1024) + b"\2\0\0\1"), colors=256)
    assert isinstance(outcome_of(written(tmp_path, "a.bmp", good)), Picture)
    assert "too big for a BMP with run lengths" in error_of(written(tmp_path, "b.bmp", good + bytes(1000)))
    text = b"P3 20 33 255\n" + b"1 " * 1980
    assert isinstance(outcome_of(written(tmp_path, "a.ppm", text)), Picture)
    assert "too big for a plain-text PPM" in error_of(written(tmp_path, "b.ppm", text.replace(b"33", b"34")))
    monkeypatch.setattr(bombs, "MAX_SLOW_SAMPLES", 0)
    assert isinstance(outcome_of(written(tmp_path, "c.ppm", b"P6 1 1 254\n\0\0\0")), Picture)
