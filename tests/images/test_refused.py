"""What `open_image` cannot read: it is refused in words, whatever is done to the bytes, or filled up where asked to."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oddities import DOS_EPS, ERROR, SVG, broken_pictures, good_pictures, gray_tiff, make_oddities, plain_pictures
from pictures import corners, encoded, error_of, exif, outcome_of, saved, written
from PIL import Image

from visiontool.images.decode import Limits, Picture, open_image

NO_PICTURE = "not a picture that can be read (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, ICO, AVIF, JPEG 2000, HEIC)"
PROGRAM = "is {}, which is a program and not only a picture: convert it to PNG first"
OTHER = "is {}, which is not read: convert it to JPEG or PNG first"
PAGE = "is a web page (HTML), not a picture"
PICTURES = {**good_pictures(), **broken_pictures(), **plain_pictures()}

# What is no picture


@pytest.mark.parametrize(
    ("data", "words"),
    [
        *((data, NO_PICTURE) for data in (b"hello, world", b"<note>an <svgish/> word</note>", b"PK\x03\x04")),
        (b"\x00\x00\x00\x18ftypmp42\0\0\0\0mp42isom" + bytes(50), NO_PICTURE),
        (b"<" * 10**7 + b"<svg/>", NO_PICTURE),  # only the beginning is searched
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", PROGRAM.format("PostScript (EPS)")),
        (DOS_EPS, PROGRAM.format("PostScript (EPS)")),
        (b"%PDF-1.7\n", PROGRAM.format("PDF")),
        (SVG, PROGRAM.format("SVG")),
        (SVG.decode().encode("utf-16"), PROGRAM.format("SVG")),
        (b"<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN' 'x'>\n<svg:svg xmlns:svg='x'/>", PROGRAM.format("SVG")),
        (b"\1\0\0\0" + bytes(36) + b" EMF\0\0\1\0", PROGRAM.format("EMF")),
        (b"8BPS\0\1", OTHER.format("a Photoshop file (PSD)")),
        (b"SIMPLE  =                    T", OTHER.format("FITS")),
        (b"\xff\x0a\x00", OTHER.format("JPEG XL")),
        (b"\0\0\0\x0cJXL \r\n\x87\n", OTHER.format("JPEG XL")),
        (b"FUJIFILMCCD-RAW 0201", OTHER.format("a camera's raw file (RAF)")),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", OTHER.format("a camera's raw file (CR3)")),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(20), OTHER.format("a camera's raw file")),
        (gray_tiff(1, 1, 8, 1, b"\0", t254=1, t330=8), OTHER.format("a camera's raw file")),
        (b"<!DOCTYPE html><html><svg/></html>", PAGE),
        (b"\n<HTML lang=en><svg/>", PAGE),
        (b"version https://git-lfs.github.com/spec/v1\n", "is only a pointer of Git LFS to a picture"),
    ],
)
def test_what_is_refused_is_named(tmp_path, data, words):
    assert error_of(written(tmp_path, "a.jpg", data)).startswith(words)


# What is no file


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("none.png", "no such file"),
        ("", "no such file"),
        (".", "is a folder, not a picture"),
        ("empty", "file is empty (0 bytes)"),
        ("a" * 300, "cannot be opened: File name too long"),
        ("a\0b", "cannot be opened: "),
        ("empty/b.png", "cannot be opened: Not a directory"),
        *(
            pytest.param(path, words, marks=pytest.mark.skipif(sys.platform == "win32", reason="needs links and pipes"))
            for path, words in (
                ("dangling", "is a link to a file that is not there: 'none.png'"),
                ("loop", "cannot be opened: Too many levels of symbolic links"),
                ("pipe", "is not a file but a pipe, a socket or a device"),
                ("/dev/zero", "is not a file but a pipe, a socket or a device"),
                ("/proc/self/environ", "file is empty (0 bytes)"),  # some files there wait when they are read
            )
        ),
    ],
)
def test_what_is_no_file_is_named_so(tmp_path, monkeypatch, path, words):
    monkeypatch.chdir(tmp_path)
    Path("empty").touch()
    if sys.platform != "win32":
        os.symlink("none.png", "dangling")
        os.symlink("loop", "loop")
        os.mkfifo("pipe")
    assert error_of(path).startswith(words)


def test_a_file_without_permission_is_named_so(tmp_path, monkeypatch):
    def denied(path: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "stat", denied)
    assert error_of("a.png") == "no permission to read it"


# What is broken


@pytest.mark.parametrize("end", ["jpg", "png", "webp", "gif", "bmp", "tif", "ppm", "avif", "jp2", "ico"])
def test_a_truncated_file_is_named_so(end):
    assert error_of(PICTURES[f"truncated.{end}"]).startswith("truncated or damaged: ")


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


@pytest.mark.parametrize(
    ("mode", "options"), [("L", {}), ("RGB", {"quality": 95}), ("CMYK", {"restart_marker_blocks": 2})]
)
def test_a_jpeg_that_lacks_pixels_is_not_taken_for_whole(mode, options):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    data = encoded(noise.convert(mode), "JPEG", **options)
    assert [isinstance(outcome_of(data[:-lost]), Picture) for lost in range(1, 40)] == [True] * 2 + [False] * 37


def test_of_a_jpeg_without_pixels_nothing_is_filled():
    jpeg = encoded(corners(16), "JPEG")
    for end in (jpeg.index(b"\xff\xda"), jpeg.index(b"\xff\xda") + 14):
        assert "--on-truncated" not in error_of(jpeg[:end], limits=Limits(on_truncated="fill"))


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (MemoryError(), "not enough memory to decode it"),
        (RuntimeError("something odd"), "truncated or damaged: something odd"),
        (KeyError(320), "truncated or damaged: KeyError(320)"),
        (OSError("two\n lines\n"), "truncated or damaged: two lines"),
        (OSError("a\x1b[31m b"), "truncated or damaged: a?[31m b"),
        (OSError("x" * 1000), f"truncated or damaged: OSError('{'x' * 191}..."),
        (Image.DecompressionBombError("big"), "more pixels than the limit of 100,000,000 (--max-pixels)"),
    ],
)
def test_whatever_a_decoder_raises_becomes_a_picture_error(tmp_path, monkeypatch, raised, message):
    path = saved(tmp_path, "a.png", corners())

    def failing(image: Image.Image) -> None:
        raise raised

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", failing)
    assert error_of(path) == message


# Damaged bytes

SMALL = sorted(name for name, data in PICTURES.items() if 0 < len(data) < 20_000)
# The same folder for all examples of a test is meant: each overwrites the file of the one before.
FUZZ = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(folder: Path, data: bytes) -> None:
    """What any bytes give: a picture within the limits, or words that can be shown."""
    for resize_to in (None, 4):
        outcome = outcome_of(written(folder, "damaged", data), resize_to=resize_to, limits=Limits(max_pixels=10_000))
        if isinstance(outcome, Picture):
            assert outcome.image.mode == "RGB"
            assert 0 < outcome.image.width * outcome.image.height <= 10_000
            assert len(outcome.image.tobytes()) == 3 * outcome.image.width * outcome.image.height
        else:
            assert outcome.isprintable()
            assert 0 < len(outcome) < 400


@st.composite
def damages(draw: st.DrawFn) -> bytes:
    """The bytes of a small picture with some of them changed, put in, taken out, moved, or cut off."""
    data = bytearray(PICTURES[draw(st.sampled_from(SMALL))])
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(data)))
        end = min(len(data), place + draw(st.integers(0, 8)))
        match draw(st.sampled_from(["change", "insert", "delete", "number", "repeat", "truncate"])):
            case "change":
                data[place:end] = draw(st.binary(min_size=end - place, max_size=end - place))
            case "insert":
                data[place:place] = draw(st.binary(max_size=8))
            case "delete":
                del data[place:end]
            case "number":
                number = draw(st.sampled_from([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]))
                data[place : place + 4] = number.to_bytes(4, draw(st.sampled_from(["big", "little"])))
            case "repeat":
                data[place:place] = data[place:end] * draw(st.integers(1, 200))
            case "truncate":
                del data[place:]
    return bytes(data)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@FUZZ
@given(data=damages())
def test_a_damaged_picture_is_read_or_refused(data: bytes, tmp_path: Path) -> None:
    check(tmp_path, data)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_everything_odd_is_read_or_refused_in_words(tmp_path):
    for name, status in make_oddities(tmp_path).items():
        outcome = outcome_of(os.path.join(tmp_path, name))
        words = outcome if isinstance(outcome, str) else " ".join(outcome.notes)
        assert (isinstance(outcome, str), words.isprintable()) == (status == ERROR, True), name
        assert len(words) < 300
