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
from oddities import bitmap, bmp, broken_pictures, chunk, good_pictures, plain_pictures, png
from pictures import RED, corners, encoded, error_of, exif, outcome_of, pixels, saved, written
from PIL import Image

from visiontool.images import Limits, Picture, bombs, open_image, tiff_header

# Limits


def test_a_file_above_the_limit_is_not_opened(tmp_path):
    path = saved(tmp_path, "a.bmp", corners(8))
    size = os.path.getsize(path)
    limit = f"the limit is {size - 1} (--max-bytes)"
    assert error_of(path, limits=Limits(max_bytes=size - 1)) == f"file is {size} bytes, {limit}"
    assert open_image(path, limits=Limits(max_bytes=size)).image.size == (16, 16)


def test_pixels_above_the_limit_are_not_decoded(tmp_path):
    # Only a header: were it decoded, it would be truncated.
    header = struct.pack(">I4sIIBBBBB", 13, b"IHDR", 40000, 50000, 8, 2, 0, 0, 0)
    png = written(tmp_path, "a.png", b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 0x12345678))
    assert error_of(png).startswith("truncated or damaged: ")
    ppm = written(tmp_path, "a.ppm", b"P6 40000 50000 255\n")
    assert error_of(ppm) == "40000x50000 is 2,000,000,000 pixels, the limit is 100,000,000 (--max-pixels)"


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


def test_other_formats_are_decoded_whole(tmp_path):
    assert open_image(saved(tmp_path, "a.png", Image.new("RGB", (1600, 800))), resize_to=5).image.size == (1600, 800)


def test_a_jpeg_above_the_limit_is_read_where_it_is_decoded_below_it(tmp_path):
    path = saved(tmp_path, "a.jpg", Image.new("RGB", (1600, 800), RED))
    limits, too_many = Limits(max_pixels=800 * 400), "1600x800 is 1,280,000 pixels, the limit is 320,000 (--max-pixels)"
    assert open_image(path, resize_to=200, limits=limits).image.size == (800, 400)
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
from visiontool.images import open_image
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


@needs_proc
@pytest.mark.slow
def test_the_costs_of_100_megapixels_in_many_scans(tmp_path):
    data = encoded(Image.new("L", (10000, 10000), 77), "JPEG", progressive=True)
    scans = bombs.MAX_SCANS_OF_HUGE - data.count(b"\xff\xda")
    last = data[data.rindex(b"\xff\xc4") : -2]  # its table and its pixels
    path = written(tmp_path, "a.jpg", data[:-2] + last * scans + b"\xff\xd9")
    (cost,) = costs([path], resize_to=224)
    assert cost.outcome == [1250, 1250]
    assert cost.seconds < 10  # 3 were measured
    assert cost.megabytes < 300
    path = written(tmp_path, "b.jpg", data[:-2] + last * (scans + 1) + b"\xff\xd9")
    assert error_of(path) == "has more than 50 scans, unlike any real picture"


@needs_proc
def test_floats_are_scaled_without_a_second_copy(tmp_path):
    values = np.zeros((4000, 4000), np.float32)
    values[0, 0] = 7
    (cost,) = costs([saved(tmp_path, "a.tif", Image.fromarray(values))])
    assert cost.outcome == [4000, 4000]
    # The file, 61 MB, and its pixels; then 15 of gray, once or twice, and 61 of RGB.
    assert cost.megabytes < 260


# Files of more parts than pictures have


def fewer(monkeypatch: pytest.MonkeyPatch, **limits: int) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(tiff_header if hasattr(tiff_header, name) else bombs, name, value)


def with_segments(data: bytes, *segments: bytes) -> bytes:
    """A JPEG with `segments` put in front of its own."""
    return data[:2] + b"".join(segments) + data[2:]


def with_chunks(*chunks: bytes) -> bytes:
    return png(1, 1, b"\0\1\2\3", *chunks)


def photoshop(notes: int) -> bytes:
    return b"\xff\xed" + struct.pack(">H", 16 + 12 * notes) + b"Photoshop 3.0\0" + b"8BIM\0\1\0\0\0\0\0\0" * notes


JPEG, GIF, JP2 = (plain_pictures()[name] for name in ("a.jpg", "a.gif", "a.jp2"))
GIF_IMAGE = GIF.index(b",", 13 + 768 if GIF[10] & 7 == 7 else 13)
CODESTREAM = JP2.index(b"\xff\x4f\xff\x51")


def gif_with(parts: bytes) -> bytes:
    return GIF[:GIF_IMAGE] + parts + GIF[GIF_IMAGE:]


@pytest.mark.parametrize(
    ("limit", "words", "make"),
    [
        ("MAX_PARTS", "20 segments", lambda n: with_segments(JPEG, *[b"\xff\xe5\0\2"] * (n - 8))),
        ("MAX_FILLER_BYTES", "20 bytes between its segments", lambda n: with_segments(JPEG, b"\xff" * n)),
        (
            "MAX_FILLER_BYTES",
            "20 bytes between its segments",
            lambda n: with_segments(JPEG, b"\xff\xe5\0\2" + bytes(n)),
        ),
        ("MAX_PARTS", "20 Photoshop notes", lambda n: with_segments(JPEG, photoshop(n))),
        ("MAX_PARTS", "20 chunks", lambda n: with_chunks(*[chunk(b"prVt", b"")] * (n - 2))),
        ("MAX_PARTS", "20 chunks", lambda n: with_chunks(*[chunk(b"IDAT", b"")] * (n - 2))),
        ("MAX_PACKED_TEXTS", "20 compressed texts", lambda n: with_chunks(*[chunk(b"zTXt", b"k\0\0")] * n)),
        ("MAX_PACKED_TEXTS", "20 compressed texts", lambda n: with_chunks(*[chunk(b"iTXt", b"k\0\0\0\0\0")] * n)),
        ("MAX_SUB_BLOCKS", "20 sub-blocks", lambda n: gif_with(b"!\xfe" + b"\1a" * (n - 3) + b"\0")),
        ("MAX_SUB_BLOCKS", "20 sub-blocks", lambda n: gif_with(b"!\xfe\0" * (n - 2))),
        ("MAX_SUB_BLOCKS", "20 sub-blocks", lambda n: gif_with(b"!\1\0" + b"\1a" * (n - 3) + b"\0")),
        ("MAX_SUB_BLOCKS", "20 sub-blocks", lambda n: gif_with(b"?" * (n - 2))),
        ("MAX_SUB_BLOCKS", "20 sub-blocks", lambda n: GIF[:-1] + b"!\xfe" + b"\1a" * (n - 3) + b"\0;"),
        ("MAX_PARTS", "20 boxes", lambda n: JP2[:32] + b"\0\0\0\x08free" * (n - 3) + JP2[32:]),
        (
            "MAX_PARTS",
            "20 segments",
            lambda n: JP2[CODESTREAM:][:51] + b"\xff\x64\0\2" * (n - 4) + JP2[CODESTREAM:][51:],
        ),
    ],
)
def test_more_parts_than_any_picture_has_are_refused(tmp_path, monkeypatch, limit, words, make):
    fewer(monkeypatch, **{limit: 20})
    enough = written(tmp_path, "a", make(20))
    assert "unlike any" not in str(outcome_of(enough))
    too_many = written(tmp_path, "b", make(21))
    assert error_of(too_many) == f"has more than {words}, unlike any real picture"
    monkeypatch.undo()
    assert isinstance(outcome_of(too_many), Picture)


def test_tables_and_headers_of_absurd_size_are_refused(tmp_path, monkeypatch):
    jpeg, jp2 = written(tmp_path, "a.jpg", JPEG), written(tmp_path, "a.jp2", JP2)
    fewer(monkeypatch, MAX_TABLE_BYTES=2 * 67, MAX_HEADER_BYTES=45)
    assert isinstance(outcome_of(jpeg), Picture)
    assert isinstance(outcome_of(jp2), Picture)
    fewer(monkeypatch, MAX_TABLE_BYTES=2 * 67 - 1, MAX_HEADER_BYTES=44)
    assert error_of(jpeg) == "has more than 133 bytes of tables, unlike any real picture"
    assert error_of(jp2) == "has more than 44 bytes of header, unlike any real picture"


def test_a_jpeg_has_one_header(tmp_path):
    start = JPEG.index(b"\xff\xc0")
    header = JPEG[start : start + 19]
    words = "has more than 1 header, unlike any real picture"
    assert error_of(written(tmp_path, "a.jpg", with_segments(JPEG, header))) == words


def test_scans_are_counted_for_a_jpeg_that_is_kept_whole(tmp_path, monkeypatch):
    data = encoded(Image.new("L", (8, 8)), "JPEG", progressive=True)
    own = data.count(b"\xff\xda")
    path = written(tmp_path, "a.jpg", data)
    fewer(monkeypatch, MAX_SCANS=own)
    assert isinstance(outcome_of(path), Picture)
    fewer(monkeypatch, MAX_SCANS=own - 1)
    assert error_of(path) == f"has more than {own - 1} scans, unlike any real picture"
    # A second JPEG behind the first is no scan of it where the first is done in one.
    assert isinstance(outcome_of(written(tmp_path, "b.jpg", JPEG + data * 3)), Picture)


def test_fewer_scans_are_allowed_the_bigger_the_picture(tmp_path):
    data = encoded(Image.new("L", (32, 32)), "JPEG", progressive=True)  # 6 scans
    path = written(tmp_path, "a.jpg", data + data.replace(data[:2], b"", 1) * 50)
    assert isinstance(outcome_of(path), Picture)
    assert error_of(path, limits=Limits(max_pixels=1024)) == "has more than 50 scans, unlike any real picture"
    assert isinstance(outcome_of(path, limits=Limits(max_pixels=7 * 1024)), Picture)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_more_exif_than_any_jpeg_has_is_refused(tmp_path, monkeypatch):
    part = b"\xff\xe1\0\x0cExif\0\0MM\0*"
    path = written(tmp_path, "a.jpg", with_segments(JPEG, part, part, part))
    assert isinstance(outcome_of(path), Picture)
    fewer(monkeypatch, MAX_EXIF_BYTES=30)
    assert error_of(path) == "has more than 30 bytes of EXIF, unlike any real picture"
    assert isinstance(outcome_of(written(tmp_path, "b.jpg", with_segments(JPEG, part, part))), Picture)


def test_exif_of_absurd_size_costs_the_orientation(tmp_path, monkeypatch):
    path = saved(tmp_path, "b.png", corners(), exif=exif(3))
    upright, as_stored = pixels(open_image(corners().rotate(180))), pixels(open_image(corners()))
    assert pixels(open_image(path)) == upright
    monkeypatch.setattr("visiontool.images.MAX_EXIF_BYTES", 10)
    assert pixels(open_image(path)) == as_stored


def tags_of(*entries: tuple[int, int, int, int], below: bytes = b"") -> bytes:
    """A gray TIFF of one pixel with other entries (tag, type, values, value or place) too, and `below` at its end."""
    own = [
        (256, 4, 1, 1),
        (257, 4, 1, 1),
        (258, 4, 1, 8),
        (259, 4, 1, 1),
        (262, 4, 1, 1),
        (273, 4, 1, 8),
        (279, 4, 1, 1),
    ]
    packed = b"".join(struct.pack("<HHII", *entry) for entry in (*own, *entries))
    return b"II*\0" + struct.pack("<IH", 8, len(own) + len(entries)) + packed + bytes(4) + below


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_values_in_the_tags_of_a_tiff_are_counted(tmp_path, monkeypatch):
    fewer(monkeypatch, MAX_VALUES=40)
    words = "has more than 40 values in its tags, unlike any real picture"
    numbers = bytes(8 * 40)
    at = len(tags_of((282, 5, 1, 0)))
    assert isinstance(outcome_of(written(tmp_path, "a.tif", tags_of((282, 5, 33, at), below=numbers))), Picture)
    assert error_of(written(tmp_path, "b.tif", tags_of((282, 5, 34, at), below=numbers))) == words
    # Those that lie outside of the file are left out by Pillow; bytes and texts stay what they are.
    for kind, values in ((5, 10**9), (4, 81), (2, 300), (7, 300), (99, 300)):
        path = written(tmp_path, "c.tif", tags_of((50000, kind, values, at), below=numbers))
        assert isinstance(outcome_of(path), Picture), kind


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_values_below_the_tags_of_a_tiff_are_counted(tmp_path, monkeypatch):
    numbers = bytes(8 * 40)
    for pointer in (34665, 34853):
        exif_at = len(tags_of((pointer, 4, 1, 0)))
        directory = struct.pack("<HHHII", 1, 33434, 5, 34, exif_at + 18) + bytes(4) + numbers
        path = written(tmp_path, "a.tif", tags_of((pointer, 4, 1, exif_at), below=directory))
        assert isinstance(outcome_of(path), Picture)
        with monkeypatch.context() as patched:
            patched.setattr(tiff_header, "MAX_VALUES", 40)
            assert "40 values" in error_of(path)
    nested = struct.pack("<HHHII", 1, 33434, 5, 34, exif_at + 36) + bytes(4) + numbers
    below = struct.pack("<HHHII", 1, 40965, 4, 1, exif_at + 18) + bytes(4) + nested
    path = written(tmp_path, "b.tif", tags_of((34665, 4, 1, exif_at), below=below))
    assert isinstance(outcome_of(path), Picture)
    fewer(monkeypatch, MAX_VALUES=40)
    assert "40 values" in error_of(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bomb_header.png", "2147483647x2147483647 is "),
        ("bomb_screen.gif", "65535x65535 is 4,294,836,225 pixels, the limit is 100,000,000 (--max-pixels)"),
        ("bomb_frame.gif", "65535x65535 is "),
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
        ("bomb_tags.tif", "has more than 65,535 tags, unlike any real picture"),
        ("bomb_size.bmp", "2147483647x2147483647 is "),
        ("bomb_negative.bmp", "4294967291x2147483648 is "),
        ("bomb_header.ppm", "999999999x999999999 is "),
        ("bomb_endless_header.ppm", "truncated or damaged: Reached EOF while reading header"),
    ],
)
def test_each_bomb_is_refused_in_its_own_words(tmp_path, name, words):
    assert error_of(written(tmp_path, name, broken_pictures()[name])).startswith(words)


def test_what_python_decodes_is_limited_by_its_bytes_too(tmp_path, monkeypatch):
    fewer(monkeypatch, MAX_SLOW_SAMPLES=2000)
    good = bmp(bitmap(2, 1, 8, 1, bytes(1024) + b"\2\0\0\1"), colors=256)
    assert isinstance(outcome_of(written(tmp_path, "a.bmp", good)), Picture)
    assert "too big for a BMP with run lengths" in error_of(written(tmp_path, "b.bmp", good + bytes(1000)))
    text = b"P3 20 33 255\n" + b"1 " * 1980
    assert isinstance(outcome_of(written(tmp_path, "a.ppm", text)), Picture)
    assert "too big for a plain-text PPM" in error_of(written(tmp_path, "b.ppm", text.replace(b"33", b"34")))
    monkeypatch.setattr(bombs, "MAX_SLOW_SAMPLES", 0)
    assert isinstance(outcome_of(written(tmp_path, "c.ppm", b"P6 1 1 254\n\0\0\0")), Picture)
