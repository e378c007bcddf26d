"""The only code that opens picture files: any picture that can be trusted becomes upright 8-bit RGB.

Every byte of a file is taken for hostile: what a file is, is told by its first bytes and not by its name
(`kinds`); only formats that are listed are ever handed to a decoder; size, pixels and the number of parts are
limited before anything is decoded (`bombs`); and whatever a decoder raises becomes a `PictureError` in words. All of it
may be called from many threads at once.
"""

import errno
import math
import os
import stat
import threading
from importlib import import_module
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visiontool.errors import PictureError, UsageError, missing_extra
from visiontool.images.bombs import MAX_EXIF_BYTES, check_decoder, check_parts, check_pixels
from visiontool.images.kinds import plugin_for
from visiontool.images.pixels import SCALED, to_8_bits, to_rgb
from visiontool.json_fields import shown


class Limits(NamedTuple):
    """What one picture may cost."""

    max_pixels: int = 100_000_000
    max_bytes: int = 64 * 2**20


class Picture(NamedTuple):
    """A picture that was read."""

    image: Image.Image
    """Mode "RGB", 8 bit, upright, fully decoded."""
    notes: tuple[str, ...] = ()
    """What was done to it that the user should know, such as "16-bit: scaled to 8 bits"."""


ImageSource = str | os.PathLike[str] | Image.Image | NDArray[Any]
DEFAULT_LIMITS = Limits()

# Some of them exist only on Windows, some only elsewhere.
_OPEN_FLAGS = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY", "O_NOINHERIT"))
_MAX_PPM_HEADER_BYTES = 2**16  # Pillow reads it byte by byte.
_MAX_REASON_CHARS = 200
_EMPTY = "file is empty (0 bytes)"
_TIFF_UNSUPPORTED = ("unknown pixel mode", "Invalid value for samples per pixel")

# EXIF's Orientation, and the turn that makes such a picture upright. 1 is upright already; other values mean nothing.
_ORIENTATION = 0x0112
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
_pillow_limit_lock = threading.Lock()


def open_image(source: ImageSource, *, resize_to: int | None = None, limits: Limits = DEFAULT_LIMITS) -> Picture:
    """A picture as upright 8-bit RGB, transparent parts over white, with notes about what else was done to it.

    Args:
        source: A path; or a Pillow picture, which is not changed; or an array of uint8 or uint16 of shape (H, W),
            (H, W, 1), (H, W, 3) or (H, W, 4), RGB or RGBA.
        resize_to: The pixels that the short side will be resized to next. A JPEG file may then be decoded at a half,
            a quarter or an eighth of its size, never to less than twice `resize_to`.
        limits: Bytes and pixels above which nothing is decoded. A JPEG that is decoded at a part of its size counts by
            that part, unless it is progressive.

    Raises:
        PictureError: It cannot be read or is above the limits. The message does not name the path.
        UsageError: `source` is none of the above.
    """
    if not isinstance(source, str | os.PathLike | Image.Image | np.ndarray):
        raise UsageError(f"a picture is a path, a Pillow picture or an array, not {type(source).__name__}")
    _raise_pillow_limit(limits.max_pixels)
    try:
        if isinstance(source, np.ndarray):
            return _from_array(source, limits)
        if isinstance(source, Image.Image):
            picture = _upright_rgb(source, limits)
            return Picture(source.copy(), picture.notes) if picture.image is source else picture
        return _from_file(read(source, limits), resize_to, limits)
    except PictureError:
        raise
    except MemoryError as error:
        raise PictureError("not enough memory to decode it") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"more pixels than the limit of {limits.max_pixels:,} (--max-pixels)") from error
    except Exception as error:  # Damaged and hostile bytes make Pillow raise nearly anything.
        raise PictureError(f"truncated or damaged: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    """The words of a decoder's error, which may quote the file and end in a line break."""
    words = " ".join(str(error).split())
    if " " not in words:
        words = repr(error)  # str(KeyError(320)) is "320", and tells nothing.
    if len(words) > _MAX_REASON_CHARS:
        words = words[:_MAX_REASON_CHARS] + "..."
    return "".join(char if char.isprintable() else "?" for char in words)


def _raise_pillow_limit(max_pixels: int) -> None:
    # Pillow has a limit of its own, checked deep inside some decoders, and it warns or raises above it, also for
    # pictures that `Limits` allows. That cannot be silenced per call: warning filters belong to the whole process and
    # its other threads. So its limit is raised to ours where it is lower. It is never lowered and never switched off:
    # a program that uses Pillow beside us stays protected.
    with _pillow_limit_lock:
        if Image.MAX_IMAGE_PIXELS is not None:
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)


def read(path: str | os.PathLike[str], limits: Limits) -> bytes:
    """The bytes of a picture file, which may be anything: a pipe, a device, too large.

    Raises:
        PictureError: it cannot be read or is not allowed.
    """
    try:
        _check_status(path, os.stat(path), limits)  # Before opening: to open some devices is to use them.
        # In between it may have become a pipe, and to open a pipe that nobody writes to would wait for ever.
        number = os.open(path, os.O_RDONLY | _OPEN_FLAGS)
        try:
            status = os.fstat(number)
            _check_status(path, status, limits)
            with open(number, "rb", closefd=False) as file:
                data = file.read(status.st_size)
        finally:
            os.close(number)
    except FileNotFoundError as error:
        raise PictureError(_not_there(path)) from error
    except PermissionError as error:
        raise PictureError("no permission to read it") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        if getattr(error, "errno", None) == errno.ELOOP:
            raise PictureError("is a link that leads back to itself") from error
        raise PictureError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    if not data:  # None where it would have to be waited for
        raise PictureError(_EMPTY)
    return data


def _check_status(path: str | os.PathLike[str], status: os.stat_result, limits: Limits) -> None:
    if stat.S_ISDIR(status.st_mode):
        readable = os.access(path, os.R_OK | os.X_OK)
        raise PictureError("is a folder, not a picture" if readable else "is a folder that cannot be read")
    if not stat.S_ISREG(status.st_mode):
        raise PictureError("is not a file but a pipe, a socket or a device")
    # Files of /proc say so too, and some of them wait when they are read.
    if status.st_size == 0:
        raise PictureError(_EMPTY)
    if status.st_size > limits.max_bytes:
        raise PictureError(f"file is {status.st_size:,} bytes, the limit is {limits.max_bytes:,} (--max-bytes)")


def _not_there(path: str | os.PathLike[str]) -> str:
    try:
        return f"is a link to a file that is not there: {shown(os.readlink(path))}"
    except (OSError, ValueError, AttributeError):  # no link
        return "no such file"


def _from_file(data: bytes, resize_to: int | None, limits: Limits) -> Picture:
    plugin = plugin_for(data)
    check_parts(plugin, data, limits.max_pixels)
    image = _opened(plugin, data, limits)
    # Only for JPEG: the draft of a HEIC file is another picture, the preview that somebody stored in it.
    if resize_to is not None and plugin == "Jpeg":
        image.draft(None, (2 * resize_to, 2 * resize_to))
    check_pixels(image.size, limits.max_pixels)
    check_decoder(image, data)
    notes: tuple[str, ...] = ()
    if plugin == "Png":
        notes = _deep_png(image, data)
    elif plugin == "Ppm":
        image, notes = _deep_ppm(image, data)
    picture = _upright_rgb(image, limits)
    return Picture(picture.image, notes + picture.notes + _more_frames(plugin, image))


def _opened(plugin: str, data: bytes, limits: Limits) -> Image.Image:
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
    if plugin == "Ico":
        return _biggest_icon(module.IcoFile(file), file, limits)
    if plugin == "Ppm":
        module.PpmImageFile(BytesIO(data[:_MAX_PPM_HEADER_BYTES]))
    try:
        image: Image.Image = getattr(module, f"{plugin}ImageFile")(file)
    except SyntaxError as error:
        if plugin == "Tiff":
            _refuse_tiff(data, str(error))
        raise
    return image


def _refuse_tiff(data: bytes, reason: str) -> None:
    """Says what kind of TIFF it is, where `reason` is that Pillow does not know it."""
    from visiontool.images.tiff_header import TiffHeader

    header = TiffHeader(data)
    if reason in (*_TIFF_UNSUPPORTED, str(header.compression)):
        raise PictureError(f"TIFF of a kind that is not read ({header}): convert it to PNG first")


def _biggest_icon(icon: Any, file: BytesIO, limits: Limits) -> Image.Image:
    """The first picture of a Pillow IcoFile, which would decode it before its size could be asked."""
    from PIL import BmpImagePlugin, PngImagePlugin

    file.seek(icon.entry[0].offset)
    data = file.read()
    if data.startswith(b"\x89PNG"):
        check_parts("Png", data, limits.max_pixels)
        check_pixels(PngImagePlugin.PngImageFile(BytesIO(data)).size, limits.max_pixels)
    else:
        inside = BmpImagePlugin.DibImageFile(BytesIO(data))
        width, height = inside.size
        check_pixels((width, height // 2), limits.max_pixels)  # Below the picture stands a mask.
        check_decoder(inside, data)
    image: Image.Image = icon.frame(0)
    return image


def _deep_png(image: Image.Image, data: bytes) -> tuple[str, ...]:
    """Puts right the transparent color of a PNG that Pillow reads as 8-bit, and notes what it loses."""
    bits = data[24] if data[12:16] == b"IHDR" else 8
    transparent = image.info.get("transparency")
    if bits in (2, 4) and image.mode == "L" and isinstance(transparent, int):
        image.info["transparency"] = transparent * 255 // (2**bits - 1)
    if bits != 16 or image.mode == "I;16":
        return ()
    if isinstance(transparent, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    return (SCALED.format(bits=16),)


def _deep_ppm(image: Any, data: bytes) -> tuple[Image.Image, tuple[str, ...]]:
    """Decodes a PPM whose white is not 255; Pillow would do it in Python, at a microsecond a number."""
    codec, _, start, arguments = image.tile[0]
    if codec != "ppm":
        return image, ()
    white = arguments[1]
    shape = (image.height, image.width) + ((3,) if image.mode == "RGB" else ())
    values = np.frombuffer(data, ">u2" if white > 255 else "u1", math.prod(shape), start)
    pixels = to_8_bits(values, white).reshape(shape)
    return Image.fromarray(pixels), (SCALED.format(bits=white.bit_length()),) if white > 255 else ()


def _upright_rgb(source: Image.Image, limits: Limits) -> Picture:
    """`source` decoded and converted; `source` itself where it was upright RGB already."""
    check_pixels(source.size, limits.max_pixels)
    source.load()
    image, notes = to_rgb(source)
    # After load: Pillow turns TIFF pictures upright itself there, and takes their orientation away.
    turn = _turn(source)
    if turn is not None:
        image = image.transpose(turn)
    if image is not source:
        image.info.clear()  # What was applied must not be applied again by whoever gets this picture.
    return Picture(image, notes)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        if max(len(image.info.get(key) or ()) for key in _EXIF_KEYS) > MAX_EXIF_BYTES:
            return None
        orientation: Any = image.getexif().get(_ORIENTATION)
        return _TURNS.get(orientation)
    except Exception:  # Broken EXIF costs the orientation, not the picture.
        return None


def _more_frames(plugin: str, image: Image.Image) -> tuple[str, ...]:
    # Whether there are more, and not how many: to count the frames of a GIF or TIFF is to walk through all of the file.
    try:
        if not getattr(image, "is_animated", False):
            return ()
    except Exception:  # The first frame is fine, what follows is damaged.
        return ()
    if plugin in ("Tiff", "Heif"):
        return ("several pictures in one file: only the main one is used",)
    return ("animated: only the first frame is used",)


def _from_array(array: NDArray[Any], limits: Limits) -> Picture:
    shape, wide = array.shape, array.dtype.itemsize == 2
    if array.dtype.kind != "u" or array.dtype.itemsize > 2 or array.ndim < 2 or shape[2:] not in ((), (1,), (3,), (4,)):
        raise PictureError(
            f"array of {array.dtype} with shape {shape}:"
            " expected uint8 or uint16 with shape (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA"
        )
    check_pixels((shape[1], shape[0]), limits.max_pixels)
    pixels = to_8_bits(array) if wide else array
    image, _ = to_rgb(Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))
    return Picture(image, (SCALED.format(bits=16),) if wide else ())
