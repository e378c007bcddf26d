"""The only code that opens picture files: any picture that can be trusted becomes upright 8-bit RGB.

Bytes are taken for hostile: only the formats that `formats` lists get to a decoder, within limits, and what it raises
becomes a `PictureError`. What it may cost beyond that is limited by the processes of `data.loader`. Thread-safe.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from io import BytesIO
from typing import Any, Literal, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops

from visiontool.errors import PictureError, UsageError, missing_extra
from visiontool.images import color, formats
from visiontool.images.color import Notes
from visiontool.images.metadata import JPEG_END, NO_END, TiffHeader, repair

OnTruncated = Literal["fail", "fill"]


class Limits(NamedTuple):
    """What one picture may cost, and whether it may be incomplete."""

    max_pixels: int = 100_000_000
    max_bytes: int = 64 * 2**20
    on_truncated: OnTruncated = "fail"  # a JPEG that is cut off: an error, or read, with gray for the rest


class NotPlainError(PictureError):
    """A picture of a format that only a process of its own may open."""


class Picture(NamedTuple):
    """A picture in mode "RGB", upright, fully decoded; with notes for the user, such as "16-bit: scaled to 8 bits"."""

    image: Image.Image
    notes: tuple[str, ...] = ()


class Header(NamedTuple):
    """What a picture file is, without its pixels."""

    plugin: str  # as `formats.plugin_for` names it
    size: tuple[int, int] | None = None  # width and height as stored; None where that takes a decoder
    facts: tuple[str, ...] = ()  # of "rotated", "gray", "alpha", "cmyk", "deep" (16 bits) and "animated"
    taken: float | None = None  # when, in seconds by the camera's clock; None where EXIF does not say


ImageSource = str | os.PathLike[str] | bytes | BytesIO | Image.Image | NDArray[Any]
DEFAULT_LIMITS = Limits()

# What nearly all pictures are, and what decoders that are most used and tested read, in the caller's process.
_PLAIN = ("Jpeg", "Png", "WebP", "Bmp")
_MAX_EXIF_BYTES = 2**20
_MAX_REASON_CHARS = 200
_IN_FRONT = b"\xef\xbb\xbf \t\r\n"  # of a picture, as a careless script on a server puts it
_BITS = bytes.fromhex("ed2d9a53c671b80e") * 6
_OTHER_BITS = _BITS + b"".join(b"\xff%c%b" % (marker, _BITS) for marker in range(0xD0, 0xD8))
_TIFF_UNSUPPORTED = ("unknown pixel mode", "Invalid value for samples per pixel")

# EXIF's Orientation, and the turn that makes such a picture upright. 1 is upright already; other values mean nothing.
_ORIENTATION = 0x0112
_EMPTY_EXIF_BYTES = 20
_EXIF_KEYS = ("exif", "Raw profile type exif")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def is_picture(images: object) -> TypeGuard[ImageSource]:
    """Whether it is one picture, and not several. An array of four axes is several."""
    kinds = (str, os.PathLike, bytes, BytesIO, Image.Image)
    return isinstance(images, kinds) or (isinstance(images, np.ndarray) and images.ndim < 4)


def listed(images: Iterable[ImageSource]) -> Iterable[ImageSource]:
    """`images`, unless it is one picture, which would be taken apart."""
    if is_picture(images):
        raise UsageError("expected a list of pictures; put the one picture into a list: [picture]")
    return images


def open_image(
    source: ImageSource, *, resize_to: int | None = None, limits: Limits = DEFAULT_LIMITS, plain_only: bool = False
) -> Picture:
    """A picture as upright 8-bit RGB, transparent parts over white, with notes about what else was done to it.

    Args:
        source: A path; or the bytes of a file, or a BytesIO that holds all of them, wherever it stands; or a Pillow
            picture; or an array of uint8 or uint16 of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), RGB or RGBA.
            None of them is changed.
        resize_to: The pixels that the short side will be resized to next. A JPEG file may then be decoded at a half,
            a quarter or an eighth of its size, never to less than twice `resize_to`.
        limits: Bytes and pixels above which nothing is decoded. A JPEG that is decoded at a part of its size counts by
            that part, unless it is progressive.
        plain_only: Whether to open no file but JPEG, PNG, WebP and BMP.

    Raises:
        NotPlainError: `plain_only`, and it is a picture of another format. No decoder has seen it.
        PictureError: It cannot be read or is above the limits. The message does not name the path.
        UsageError: `source` is none of the above.
    """
    if not isinstance(source, str | os.PathLike | bytes | BytesIO | Image.Image | np.ndarray):
        kinds = "a path, bytes, a BytesIO, a Pillow picture or an array"
        raise UsageError(f"a picture is {kinds}, not {type(source).__name__}")
    # Pillow's own limit warns or raises deep inside some decoders, and warnings cannot be silenced for one call. So it
    # is raised to ours; never lowered or switched off, so that a program that uses Pillow beside us stays protected.
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limits.max_pixels)
    try:
        if isinstance(source, np.ndarray):
            return _from_array(source, limits)
        if isinstance(source, Image.Image):
            formats.check_pixels(source.size, limits.max_pixels)
            image, notes = color.deep_colors(source)
            picture = _upright_rgb(image, notes, _declares_alpha(source))
            return Picture(source.copy(), picture.notes) if picture.image is source else picture
        if isinstance(source, bytes | BytesIO):
            data = source if isinstance(source, bytes) else source.getvalue()
            formats.check_bytes(len(data), limits.max_bytes)
        else:
            data = formats.read(source, limits.max_bytes)
        return _from_file(data, resize_to, limits, plain_only)
    except PictureError:
        raise
    except MemoryError as error:
        raise PictureError("not enough memory to decode it") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"more pixels than the limit of {limits.max_pixels:,} (--max-pixels)") from error
    except Exception as error:  # Damaged and hostile bytes make Pillow raise nearly anything.
        raise PictureError(f"truncated or damaged: {_one_line(error)}") from error


def read_header(path: str, limits: Limits = DEFAULT_LIMITS) -> Header:
    """The header of a picture file that was opened before; an empty one where it cannot be read any more."""
    plugin = ""
    try:
        data = formats.read(path, limits.max_bytes)
        plugin = formats.plugin_for(data := data.lstrip(_IN_FRONT))
        if plugin not in (*_PLAIN, "Gif", "Tiff", "Ppm"):  # whose header is read by a decoder
            return Header(plugin)
        image = _opened(plugin, data, limits)
        is_deep = image.mode.startswith(("I", "F"))
        has_exif = plugin != "Png" or any(key in image.info for key in _EXIF_KEYS)  # Pillow would decode a PNG for it
        exif = image.getexif() if has_exif else Image.Exif()
        facts = {
            "rotated": exif.get(_ORIENTATION) in _TURNS,
            "gray": is_deep or image.mode in ("1", "L", "LA"),
            "alpha": image.has_transparency_data and _declares_alpha(image, data),
            "cmyk": image.mode == "CMYK",
            "deep": is_deep or (plugin == "Png" and data[24] == 16) or 16 in color.tiff_tag(image, color.TIFF_BITS),
            "animated": plugin != "Jpeg" and bool(_more_frames(plugin, image)),
        }
        return Header(plugin, image.size, tuple(fact for fact, holds in facts.items() if holds), _taken(exif))
    except Exception:  # damaged metadata, which cost the picture nothing when it was opened
        return Header(plugin)


def _taken(exif: Image.Exif) -> float | None:
    try:
        text = exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal]
        return datetime.strptime(text[:19], "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
    except Exception:  # no such tag, no such time, or damaged
        return None


def _one_line(error: Exception) -> str:
    words = " ".join(str(error).split())
    if " " not in words:
        words = repr(error)  # str(KeyError(320)) is "320", and tells nothing.
    if len(words) > _MAX_REASON_CHARS:
        words = words[:_MAX_REASON_CHARS] + "..."
    return "".join(char if char.isprintable() else "?" for char in words)


def _from_file(data: bytes, resize_to: int | None, limits: Limits, plain_only: bool) -> Picture:
    whole = data.lstrip(_IN_FRONT)
    plugin = formats.plugin_for(whole or data)
    if plain_only and plugin not in _PLAIN:
        raise NotPlainError(f"is none of {', '.join(_PLAIN)}")
    read_as = partial(_decoded, plugin, resize_to=resize_to, limits=limits)
    notes: Notes = () if len(whole) == len(data) else ("blanks or line breaks in front of the picture: left out",)
    try:
        picture = read_as(whole)
    except (PictureError, MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise
    except Exception as error:
        is_jpeg = plugin == "Jpeg"
        picture = _cut_jpeg(whole, error, read_as, limits) if is_jpeg else _repaired(plugin, whole, error, read_as)
    return Picture(picture.image, notes + picture.notes)


def _decoded(plugin: str, data: bytes, resize_to: int | None, limits: Limits) -> Picture:
    opened = image = _opened(plugin, data, limits)
    if plugin == "Jpeg":
        formats.check_scans(image, data, limits.max_pixels)
    # Only for JPEG: the draft of a HEIC file is another picture, the preview that somebody stored in it.
    if resize_to is not None and plugin == "Jpeg":
        image.draft(None, (2 * resize_to, 2 * resize_to))
    formats.check_pixels(image.size, limits.max_pixels)
    formats.check_decoder(image, data)
    notes: Notes = ()
    if plugin == "Ppm":
        image, notes = color.deep_ppm(image, data)
    elif plugin == "Png":
        # Pillow makes 8 bits of the colors, and not of the one that is transparent.
        bits, transparent = data[24], image.info.get("transparency")
        if bits in (2, 4) and image.mode == "L" and isinstance(transparent, int):
            image.info["transparency"] = transparent * 255 // (2**bits - 1)
        elif bits == 16 and isinstance(transparent, tuple):
            image.info["transparency"] = tuple(value >> 8 for value in transparent)
    if plugin in ("Png", "Tiff"):
        image, notes = color.deep_colors(image, partial(_opened, plugin, data, limits))
    elif plugin == "Jpeg2K" and image.mode != "I;16":
        bits = (data[data.find(b"\xff\x4f\xff\x51") + 42] & 127) + 1
        image, notes = color.deep_colors(image, is_deep=bits == 16)
    if plugin == "Png" and b"IEND" not in data[-12:] and b"IEND" not in data:
        notes = (NO_END, *notes)
    picture = _upright_rgb(image, notes, _declares_alpha(opened, data))
    return Picture(picture.image, picture.notes + _more_frames(plugin, opened))


def _repaired(plugin: str, data: bytes, error: Exception, read_as: Callable[[bytes], Picture]) -> Picture:
    """The picture of a file that gave `error` for the sake of its metadata or its end; else raises that."""
    try:
        data_again, note = repair(plugin, data)
        picture = read_as(data_again)
    except PictureError:
        raise
    except Exception:
        if plugin == "Tiff":
            header = TiffHeader(data)
            if str(error) in (*_TIFF_UNSUPPORTED, str(header.compression)):
                raise PictureError(f"TIFF of a kind that is not read ({header}): convert it to PNG first") from None
        raise error from None
    return Picture(picture.image, (note, *picture.notes))


def _cut_jpeg(data: bytes, error: Exception, read_as: Callable[[bytes], Picture], limits: Limits) -> Picture:
    """The picture of a JPEG that gave `error` because it has no end."""
    # Its decoder makes gray of what is missing, without an error. So other bits are put there as well: pixels that
    # depend on them are missing.
    if "truncated" not in str(error):
        raise error
    data = data.rstrip(b"\xff")
    # Of a scan that has begun, its table or its header may be all that is there.
    last = max(table := data.rfind(b"\xff\xc4"), data.rfind(b"\xff\xda"))
    is_cut_there = last == table or len(data) < last + 2 + max(2, int.from_bytes(data[last + 2 : last + 4]))
    data = data[:last] if is_cut_there else data
    try:
        picture = read_as(data + JPEG_END)  # within the limits
        ends = [_opened("Jpeg", data + more + JPEG_END, limits) for more in (b"", _OTHER_BITS)]
        for image in ends:
            if image.width * image.height > limits.max_pixels:
                image.draft(None, (1, 1))
        unlike = ImageChops.difference(*ends)
    except PictureError:
        raise
    except Exception:
        raise error from None
    missing = unlike.getbbox()
    if missing is None and not is_cut_there:
        return Picture(picture.image, (NO_END, *picture.notes))
    there = "a coarser picture"
    if missing is not None and "progressive" not in ends[0].info:
        there = f"{missing[1] / unlike.height:.0%} of it"
        if unlike.crop((0, 0, 8, 8)).getbbox() is not None:  # not even the first block
            raise error
    if limits.on_truncated == "fail":
        how = f"{there} is there, which predict --on-truncated fill takes"
        raise PictureError(f"truncated or damaged: {_one_line(error)}; {how}")
    note = f"truncated: {there} is there, the rest is gray"
    return Picture(picture.image, (note, *picture.notes))


def _opened(plugin: str, data: bytes, limits: Limits) -> Any:
    """The picture with its header read and nothing decoded yet."""
    # The plugins are called directly: Image.open would import plugins that are not needed, and warn about big pictures.
    # A phone's MPO, two JPEGs in one file, is read as its first one.
    file = BytesIO(data)
    if plugin == "Heif":
        try:
            module = import_module("pillow_heif")
        except ImportError as error:
            raise PictureError(" ".join(missing_extra("heic", "Reading HEIC pictures").splitlines())) from error
    else:
        module = import_module(f"PIL.{plugin}ImagePlugin")
    if plugin == "WebP":
        formats.check_webp(data, limits.max_pixels)
    if plugin == "Ico":
        return _biggest_icon(module.IcoFile(file), file, limits)
    if plugin == "Tiff":
        header = TiffHeader(data)
        header.check(limits.max_pixels)
        if (turned := header.with_zero_as_black()) is not None:
            image = module.TiffImageFile(BytesIO(turned))
            image.tag_v2[color.TIFF_PHOTOMETRIC] = 0
            return image
    return getattr(module, f"{plugin}ImageFile")(file)


def _biggest_icon(icon: Any, file: BytesIO, limits: Limits) -> Any:
    """The first picture of a Pillow IcoFile, which would decode it before its size could be asked."""
    from PIL import BmpImagePlugin, PngImagePlugin

    file.seek(icon.entry[0].offset)
    data = file.read()
    if data.startswith(b"\x89PNG"):
        formats.check_pixels(PngImagePlugin.PngImageFile(BytesIO(data)).size, limits.max_pixels)
    else:
        inside = BmpImagePlugin.DibImageFile(BytesIO(data))
        width, height = inside.size
        formats.check_pixels((width, height // 2), limits.max_pixels)  # Below the picture stands a mask.
        formats.check_decoder(inside, data)
    return icon.frame(0)


def _declares_alpha(image: Image.Image, data: bytes = b"") -> bool:
    if image.format == "TIFF":
        return color.tiff_tag(image, color.TIFF_EXTRA_SAMPLES)[:1] in ((1,), (2,))
    if image.format == "BMP" and data:
        return any(data[66:70])  # the mask of alpha
    if image.format == "JPEG2000" and data:
        return data.find(b"cdef", 0, data.find(b"jp2c")) > 0
    return not (data and image.format is None)  # a bitmap out of an icon


def _upright_rgb(source: Image.Image, notes: Notes, alpha_is_declared: bool) -> Picture:
    """`source` decoded and converted; `source` itself where it was upright RGB already."""
    source.load()
    image, more = color.to_rgb(source, alpha_is_declared)
    # After load: Pillow turns TIFF pictures upright itself there, and takes their orientation away.
    size = max(len(source.info.get(key) or ()) for key in _EXIF_KEYS)
    exif: Any = {}
    turn = None
    with contextlib.suppress(Exception):  # Broken EXIF costs the orientation, not the picture.
        exif = source.getexif() if size <= _MAX_EXIF_BYTES else {}
        turn = _TURNS.get(exif.get(_ORIENTATION))
    if turn is not None:
        image = image.transpose(turn)
    if size > _EMPTY_EXIF_BYTES and not exif:
        more += ("damaged or oversized EXIF: taken for upright",)
    if image is not source:
        image.info.clear()  # What was applied must not be applied again by whoever gets this picture.
    return Picture(image, notes + more)


def _more_frames(plugin: str, image: Image.Image) -> tuple[str, ...]:
    # Not how many: to count the frames of a GIF or TIFF is to walk through all of the file.
    try:
        is_animated = getattr(image, "is_animated", False)
    except Exception:  # The first frame is fine, what follows is damaged.
        is_animated = False
    if not is_animated:
        return ()
    if plugin in ("Tiff", "Heif"):
        return (f"several pictures in one file: only the {'first' if plugin == 'Tiff' else 'main one'} is used",)
    return ("animated: only the first frame is used",)


def _from_array(array: NDArray[Any], limits: Limits) -> Picture:
    shape, wide = array.shape, array.dtype.itemsize == 2
    if array.dtype.kind != "u" or array.dtype.itemsize > 2 or array.ndim < 2 or shape[2:] not in ((), (1,), (3,), (4,)):
        raise PictureError(
            f"array of {array.dtype} with shape {shape}:"
            " expected uint8 or uint16 with shape (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA"
        )
    formats.check_pixels((shape[1], shape[0]), limits.max_pixels)
    flat = array[..., 0] if shape[2:] == (1,) else array
    pixels, notes = color.from_16_bits(flat) if wide else (flat, ())
    image, more = color.to_rgb(Image.fromarray(pixels))
    return Picture(image, notes + more)
