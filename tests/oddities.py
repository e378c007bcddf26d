"""One folder of everything odd that a folder of pictures may hold, and the bytes of good and broken pictures."""

import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from pictures import BLUE, GREEN, RED, corners, encoded
from PIL import Image

OK, ERROR = "ok", "error"

EXIF_UPSIDE_DOWN = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHIHH", 1, 0x0112, 3, 1, 3, 0) + bytes(4)
BROKEN_EXIF = b"Exif\0\0MM\0*\xff\xff\xff\xff"
SVG = b"<?xml version='1.0' encoding='UTF-8'?>\n<!-- a <program> -->\n<svg xmlns='http://www.w3.org/2000/svg'/>"
DOS_EPS = b"\xc5\xd0\xd3\xc6" + struct.pack("<6IH", 32, 20, 0, 0, 0, 0, 0xFFFF) + b"\0\0%!PS-Adobe-3.0 EPSF-3.0\n"


# Files made by hand, the way Pillow cannot write them


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, *chunks: bytes, bits: int = 8, color: int = 2) -> bytes:
    """A PNG of `rows`, each with its filter byte in front, with `chunks` before its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    body = b"".join(chunks) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def tiff(tags: dict[int, int], data: bytes = b"") -> bytes:
    """A TIFF of whole-number tags; the place of `data` behind them is put where a tag is -1."""
    place = 8 + 2 + 12 * len(tags) + 4
    entries = [struct.pack("<HHII", tag, 4, 1, place if value < 0 else value) for tag, value in sorted(tags.items())]
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4) + data


def gray_tiff(width: int, height: int, bits: int, sample_format: int, data: bytes, **other: int) -> bytes:
    """An uncompressed gray TIFF; `other` are tags such as t262=0."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: -1, 277: 1, 278: height, 279: len(data)}
    return tiff({**tags, 339: sample_format, **{int(name[1:]): value for name, value in other.items()}}, data)


def icon(inside: bytes) -> bytes:
    """An ICO that holds one file."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(inside), 22) + inside


def bitmap(width: int, height: int, bits: int = 24, compression: int = 0, data: bytes = b"") -> bytes:
    """A BMP without its first 14 bytes, as an icon holds it."""
    return struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0) + data


def bmp(inside: bytes, colors: int = 0) -> bytes:
    """A BMP file of what `bitmap` gives, whose data begins with a palette of `colors`."""
    return b"BM" + struct.pack("<IHHI", 14 + len(inside), 0, 0, 54 + 4 * colors) + inside


def patched(data: bytes, behind: bytes, new: bytes, skip: int = 0) -> bytes:
    """`data` with `new` written over what stands `skip` bytes behind the first `behind`."""
    place = data.index(behind) + len(behind) + skip
    return data[:place] + new + data[place + len(new) :]


# Good pictures


def frames(format: str, **options: object) -> bytes:
    """Three pictures in one file: red, green, blue."""
    first, *others = [Image.new("RGB", (8, 8), color) for color in (RED, GREEN, BLUE)]
    return encoded(first, format, save_all=True, append_images=others, **options)


def plain_pictures() -> dict[str, bytes]:
    """The same small picture in every format that is read."""
    formats = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "ppm": "PPM",
               "avif": "AVIF", "jp2": "JPEG2000", "ico": "ICO"}  # fmt: skip
    return {f"a.{end}": encoded(corners(8), format) for end, format in formats.items()}


def good_pictures() -> dict[str, bytes]:
    """Odd pictures that are read nevertheless."""
    image, plain = corners(8), plain_pictures()
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    floats = np.array([[-3.2, 0, np.nan, 1041.0]], np.float32)
    megabytes, dot = zlib.compress(bytes(20 * 2**20), 9), b"\0\1\2\3"
    return {
        "big_text.png": png(1, 1, dot, chunk(b"zTXt", b"x\0\0" + megabytes)),
        "big_profile.png": png(1, 1, dot, chunk(b"iCCP", b"x\0\0" + megabytes)),
        "png_called.jpg": plain["a.png"],
        "jpeg_called.gif": plain["a.jpg"],
        "animated.png": frames("PNG"),
        "animated.gif": frames("GIF"),
        "endless.png": png(
            *(1, 1, b"\0\1\2\3"),
            chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)),
            chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 1, 1, 0, 0, 1, 1, 0, 0)),
        ),
        "pages.tif": frames("TIFF"),
        "phone.jpg": frames("MPO"),
        "damaged_behind_its_first_frame.gif": frames("GIF")[:-20],
        "float.tif": encoded(Image.fromarray(floats), "TIFF"),
        "integer_of_32_bits.tif": encoded(Image.fromarray(np.int32([[-5, 70000]])), "TIFF"),
        "deep.png": png(2, 1, b"\0" + struct.pack(">6H", 0, 300, 65535, 1, 2, 3), bits=16),
        "deep.pgm": b"P5 2 1 4095\n" + struct.pack(">2H", 0, 4095),
        "twelve_bits.tif": gray_tiff(4, 1, 12, 1, bytes.fromhex("000FFF800010")),
        "cmyk.jpg": encoded(cmyk, "JPEG"),
        "cmyk_with_broken_profile.jpg": encoded(cmyk, "JPEG", icc_profile=b"junk" * 50),
        "broken_profile.png": encoded(image, "PNG", icc_profile=b"junk" * 50),
        "broken_exif.jpg": encoded(image, "JPEG", exif=BROKEN_EXIF),
        "broken_exif.png": encoded(image, "PNG", exif=BROKEN_EXIF),
        "upside_down.jpg": encoded(image, "JPEG", exif=EXIF_UPSIDE_DOWN),
        "a_line.png": encoded(Image.new("1", (20000, 1)), "PNG"),
        "palette_with_alpha.png": encoded(image.quantize(4), "PNG", transparency=b"\x00\x80\xff\x10"),
        "junk_behind_its_end.jpg": plain["a.jpg"] + b"<script>" * 100,
        "bare.j2k": encoded(image, "JPEG2000", no_jp2=True),
        "big.tif": encoded(image, "TIFF", big_tiff=True),
        "deflate.tif": encoded(image, "TIFF", compression="tiff_adobe_deflate"),
        "run_lengths.bmp": bmp(bitmap(2, 1, 8, 1, bytes(1024) + b"\2\0\0\1"), colors=256),
        "icon_of_png.ico": icon(png(1, 1, b"\0\1\2\3")),
    }


# Broken ones


def broken_pictures() -> dict[str, bytes]:
    """The ways to be broken that are plain contents of a file: each is refused, in words, before it costs anything."""
    bombs = {f"bomb_{name}": data for name, data in _bombs().items()}
    return _damaged() | bombs | {f"not_{name}": data for name, data in _no_pictures().items()}


def _damaged() -> dict[str, bytes]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8))
    formats = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "ppm": "PPM"}
    whole = {end: encoded(noise, name) for end, name in {**formats, "avif": "AVIF", "jp2": "JPEG2000"}.items()}
    damaged = {"empty.jpg": b"", "one_byte.png": b"\x89", "signature_only.png": whole["png"][:8]}
    for end, data in whole.items():
        damaged[f"truncated.{end}"] = data[: len(data) * 2 // 3]
        damaged[f"header_only.{end}"] = data[:30]
    flat_gif = encoded(Image.new("RGB", (8, 8), RED), "GIF")
    icon_ = encoded(noise, "ICO", sizes=[(48, 48)])
    damaged["truncated.ico"] = icon_[: len(icon_) // 2]
    damaged["bad_checksum.png"] = patched(whole["png"], b"IHDR", b"\x07", 15)
    damaged["no_pixels.png"] = b"\x89PNG\r\n\x1a\n" + whole["png"][8:33] + chunk(b"IEND", b"")
    damaged["zero_wide.png"] = png(0, 5, b"")
    damaged["zero_wide.gif"] = patched(patched(flat_gif, b"GIF87a", bytes(4)), b",", bytes(8))
    damaged["no_tables.jpg"] = whole["jpg"][:2] + whole["jpg"][whole["jpg"].index(b"\xff\xc0") :]
    damaged["no_strips.tif"] = tiff({256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1})
    damaged["nan.tif"] = encoded(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF")
    return damaged


def _bombs() -> dict[str, bytes]:
    image = Image.new("RGB", (8, 8), RED)
    gray, webp = encoded(Image.new("L", (8, 8)), "JPEG"), encoded(image, "WEBP", lossless=True)
    gif, avif, jp2 = (encoded(image, format) for format in ("GIF", "AVIF", "JPEG2000"))
    huge = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    tiles = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 322: 30000, 323: 30000, 324: -1, 325: 20}
    scan = gray[gray.index(b"\xff\xda") : gray.index(b"\xff\xda") + 10]
    progressive = encoded(Image.new("L", (8, 8)), "JPEG", progressive=True)
    return {
        "header.png": png(2**31 - 1, 2**31 - 1, b""),
        "screen.gif": patched(gif, b"GIF87a", b"\xff\xff\xff\xff"),
        "frame.gif": patched(gif, b",", b"\xff\xff\xff\xff", 4),
        "png.ico": icon(png(30000, 30000, bytes(2**16), bits=1, color=0)),
        "bmp.ico": icon(bitmap(30000, 60000, 32)),
        "ico.ico": icon(icon(b"")),
        "run_lengths.ico": icon(bitmap(9000, 18000, 8, 1, bytes(1024) + b"\1\1\0\0")),
        "lossless.webp": patched(webp, b"VP8L", b"\xff\xff\xff\x0f", 5),
        "canvas.webp": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\x3f\0\xff\x3f\0",
        "header.avif": patched(avif, b"ispe", struct.pack(">II", 60000, 60000), 4),
        "header.jp2": patched(jp2, b"ihdr", huge),
        "stream.jp2": patched(jp2, b"\xff\x4f\xff\x51", huge, 4),
        "header.jpg": patched(gray, b"\xff\xc0", b"\xff\xff\xff\xff", 3),
        "scans.jpg": progressive[:-2] + scan * 1001 + b"\xff\xd9",
        "tiles.tif": tiff(tiles, zlib.compress(bytes(2**20), 9)),
        "size.tif": gray_tiff(2**32 - 1, 2**32 - 1, 8, 1, b""),
        "tags.tif": b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 2**60) + bytes(200),
        "size.bmp": bmp(bitmap(2**31 - 1, 2**31 - 1)),
        "negative.bmp": bmp(bitmap(-5, -(2**31))),
        "run_lengths.bmp": bmp(bitmap(99_999_999, 1, 8, 1, b"\1\1\0\0")),
        "header.ppm": b"P6 999999999 999999999 255\n",
        "plain_text.ppm": b"P3 5000 5000 255\n1 2 3",
    }


def _no_pictures() -> dict[str, bytes]:
    rgb_float = {256: 1, 257: 1, 258: 32, 259: 1, 262: 2, 273: -1, 277: 3, 278: 1, 279: 12, 339: 3}
    return {
        "text.jpg": b"hello, world",
        "script.png": b"#!/bin/sh\nrm -rf .\n",
        "html.jpg": b"\n<!DOCTYPE html>\n<html><body>404 <svg/></body></html>",
        "dos_eps.jpg": DOS_EPS,
        "svg.jpg": SVG,
        "film.heic": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(50),
        "jxl.jpg": b"\xff\x0a" + bytes(20),
        "cr2.tif": b"II*\0\x10\0\0\0CR\2\0" + bytes(40),
        "lfs_pointer.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
        "colored_floats.tif": tiff(rgb_float, struct.pack("<3f", 0, 0.5, 1)),
    }


# The folder


def make_oddities(folder: Path) -> dict[str, str]:
    """Fills `folder` with everything odd that the system allows; gives each path below it its status, "ok" or "error".

    Names are as `os.listdir` gives them: those that are not UTF-8 with surrogates. Folders that are not pictures are
    named too; what lies in a folder that cannot be read has the status it has for whoever runs this.
    """
    good = plain_pictures()["a.png"]
    files = {**good_pictures(), **plain_pictures(), **broken_pictures()}
    names = (b"not utf-8 \xff\xfe.png", b"new\nline.png", b"\x1b[31mred\x1b[0m.png", b"=1+1.png", b"-m.png", b" .png",
             "für 日本 😀 \u202egnp.jpg".encode(), b"quote\"'`$(id).png", b"a" * 251 + b".png")  # fmt: skip
    if sys.platform.startswith("linux"):  # not every system allows every name
        files |= {os.fsdecode(name): good for name in names}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    broken = broken_pictures()
    return {name: ERROR if name in broken else OK for name in files} | _odd_places(folder, good)


def _odd_places(folder: Path, good: bytes) -> dict[str, str]:
    (folder / "folder.jpg").mkdir()
    expected = {"folder.jpg": ERROR, "missing.png": ERROR}
    if sys.platform == "win32":
        return expected
    (folder / "sparse.jpg").touch()
    os.truncate(folder / "sparse.jpg", 10**12)
    expected["sparse.jpg"] = ERROR
    links = {
        "link_to_good.png": ("a.png", OK),
        "link_to_link.png": ("link_to_good.png", OK),
        "dangling.png": ("nowhere.png", ERROR),
        "loop.png": ("loop.png", ERROR),
        "link_to_folder.png": (".", ERROR),
    }
    for target in ("/dev/zero", "/dev/stdin", "/proc/self/environ"):
        links[f"link_to{target.replace('/', '_')}.png"] = (target, ERROR)
    for name, (target, status) in links.items():
        os.symlink(target, folder / name)
        expected[name] = status
    os.mkfifo(folder / "pipe.png")
    expected["pipe.png"] = ERROR
    (folder / "no_permission.png").write_bytes(good)
    (folder / "closed").mkdir()
    (folder / "closed" / "inside.png").write_bytes(good)
    for name in ("no_permission.png", "closed"):
        os.chmod(folder / name, 0)
    status = OK if os.access(folder / "no_permission.png", os.R_OK) else ERROR  # root may read it
    return {**expected, "no_permission.png": status, "closed/inside.png": status}
