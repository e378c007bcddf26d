"""What a file is, is told by its bytes: what is read, and what is refused by name."""

import pytest
from oddities import DOS_EPS, SVG, gray_tiff
from pictures import error_of, written

NO_PICTURE = "not a picture that can be read (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, ICO, AVIF, JPEG 2000, HEIC)"
PROGRAM = "is {}, which is a program and not only a picture: convert it to PNG first"
OTHER = "is {}, which is not read: convert it to JPEG or PNG first"
PAGE = "is a web page (HTML), not a picture"


@pytest.mark.parametrize(
    "data",
    [
        b"hello, world",
        b"\x00",
        bytes(1000),
        b"\xef\xbb\xbf",
        b"<?xml version='1.0'?><feed/>",
        b"<note>an <svgish/> word</note>",
        b'{"a": "<svg/>"}',
        b"<p>no svg > here</p>",
        b"<" + b"a" * 5000,
        b"P7\nWIDTH 1\n",
        b"RIFF\x04\0\0\0WAVE",
        b"\x1f\x8b\x08\0",
        b"PK\x03\x04",
        b"\x00\x00\x00\x18ftypmp42\0\0\0\0mp42isom" + bytes(50),
        b"\x00\x00\x00\x00ftyp",
    ],
)
def test_what_is_no_picture_is_named_so(tmp_path, data):
    assert error_of(written(tmp_path, "a.png", data)) == NO_PICTURE


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", PROGRAM.format("PostScript (EPS)")),
        (b"\x04%!PS\n", PROGRAM.format("PostScript (EPS)")),
        (DOS_EPS, PROGRAM.format("PostScript (EPS)")),
        (b"%PDF-1.7\n", PROGRAM.format("PDF")),
        (b"\r\n%PDF-1.7\n", PROGRAM.format("PDF")),
        (b"<svg/>", PROGRAM.format("SVG")),
        (b"<svg\nwidth='1'>", PROGRAM.format("SVG")),
        (SVG, PROGRAM.format("SVG")),
        (b"\xef\xbb\xbf \n\t" + SVG, PROGRAM.format("SVG")),
        (SVG.decode().encode("utf-16"), PROGRAM.format("SVG")),
        (SVG.decode().encode("utf-16-be"), PROGRAM.format("SVG")),
        (b"<!-- made by hand -->\n" + SVG, PROGRAM.format("SVG")),
        (b"<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN' 'x'>\n<svg:svg xmlns:svg='x'/>", PROGRAM.format("SVG")),
        (b"\xd7\xcd\xc6\x9a" + bytes(18), PROGRAM.format("WMF")),
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


def test_only_the_beginning_is_searched_and_quickly(tmp_path):
    assert error_of(written(tmp_path, "a.jpg", b"<" * 10**7 + b"<svg/>")) == NO_PICTURE
    assert error_of(written(tmp_path, "a.jpg", b" " * 10**7 + b"<svg/>")) == PROGRAM.format("SVG")


@pytest.mark.parametrize("other", [{"t254": 1}, {"t330": 8}, {"t254": 0, "t330": 8}])
def test_a_tiff_whose_first_picture_is_the_main_one_is_read(tmp_path, other):
    from visiontool.images.decode import open_image

    assert (
        open_image(written(tmp_path, "a.tif", gray_tiff(1, 1, 8, 1, b"\7", **other))).image.getpixel((0, 0)) == (7,) * 3
    )
