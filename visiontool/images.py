"""The only code that opens picture files: any picture that can be trusted becomes upright 8-bit RGB.

Every byte of a file is taken for hostile: what a file is, is told by its first bytes and not by its name; only the
formats listed here are ever handed to a decoder; size and pixels are limited before anything is decoded; and whatever
a decoder raises becomes a `PictureError` in words. All of it may be called from many threads at once.
"""

import os
import stat
import threading
from functools import cache
from importlib import import_module
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visiontool.errors import PictureError, UsageError, missing_extra


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

# How a file begins, and the Pillow plugin that reads it. EPS, PDF, SVG, FITS and the like are left out on purpose: they
# start interpreters or have no business here.
_SIGNATURES = {
    "Jpeg": (b"\xff\xd8\xff",),
    "Png": (b"\x89PNG\r\n\x1a\n",),
    "Gif": (b"GIF87a", b"GIF89a"),
    "Bmp": (b"BM",),
    "Tiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "Ppm": tuple(b"P%d%c" % (kind, space) for kind in range(1, 7) for space in b" \t\n\r\v\f"),
    "Ico": (b"\0\0\1\0",),
    "Jpeg2K": (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
}
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"))
_READABLE = "JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, ICO, AVIF, JPEG 2000, HEIC"

# EXIF's Orientation, and the turn that makes such a picture upright. 1 is upright already; other values mean nothing.
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WHITE = (255, 255, 255)
_SCALED = "{bits}-bit: scaled to 8 bits"

_pillow_limit_lock = threading.Lock()


def open_image(source: ImageSource, *, resize_to: int | None = None, limits: Limits = DEFAULT_LIMITS) -> Picture:
    """A picture as upright 8-bit RGB, transparent parts over white, with notes about what else was done to it.

    Args:
        source: A path; or a Pillow picture, which is not changed; or an array of uint8 or uint16 of shape (H, W),
            (H, W, 1), (H, W, 3) or (H, W, 4), RGB or RGBA.
        resize_to: The pixels that the short side will be resized to next. A JPEG file may then be decoded at a half,
            a quarter or an eighth of its size, never to less than twice `resize_to`.
        limits: Bytes and pixels above which nothing is decoded.

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
        return _from_file(_read(source, limits), resize_to, limits)
    except PictureError:
        raise
    except MemoryError as error:
        raise PictureError("not enough memory to decode it") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"more pixels than the limit of {limits.max_pixels:,}") from error
    except Exception as error:  # Damaged and hostile bytes make Pillow raise nearly anything.
        reason = str(error) if " " in str(error) else repr(error)  # str(KeyError(320)) is "320", and tells nothing.
        raise PictureError(f"truncated or damaged: {reason}") from error


def _raise_pillow_limit(max_pixels: int) -> None:
    # Pillow has a limit of its own, checked deep inside some decoders, and it warns or raises above it, also for
    # pictures that `Limits` allows. That cannot be silenced per call: warning filters belong to the whole process and
    # its other threads. So its limit is raised to ours where it is lower. It is never lowered and never switched off:
    # a program that uses Pillow beside us stays protected.
    with _pillow_limit_lock:
        if Image.MAX_IMAGE_PIXELS is not None:
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)


def _read(path: str | os.PathLike[str], limits: Limits) -> bytes:
    try:
        # Before opening: to open a pipe nobody writes to would wait for ever.
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            readable = os.access(path, os.R_OK | os.X_OK)
            raise PictureError("is a folder, not a picture" if readable else "is a folder that cannot be read")
        if not stat.S_ISREG(status.st_mode):
            raise PictureError("is not a file but a pipe, a socket or a device")
        if status.st_size > limits.max_bytes:
            raise PictureError(f"file is {status.st_size:,} bytes, the limit is {limits.max_bytes:,}")
        with open(path, "rb") as file:
            data = file.read(limits.max_bytes)
    except FileNotFoundError as error:
        raise PictureError("no such file") from error
    except PermissionError as error:
        raise PictureError("no permission to read it") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise PictureError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    if not data:
        raise PictureError("file is empty (0 bytes)")
    return data


def _from_file(data: bytes, resize_to: int | None, limits: Limits) -> Picture:
    plugin = _plugin(data)
    if plugin is None:
        raise PictureError(f"not a picture that can be read ({_READABLE})")
    image = _opened(plugin, data)
    _check_pixels(image.size, limits)
    # Only for JPEG: the draft of a HEIC file is another picture, the preview that somebody stored in it.
    if resize_to is not None and plugin == "Jpeg":
        image.draft(None, (2 * resize_to, 2 * resize_to))
    picture = _upright_rgb(image, limits)
    return Picture(picture.image, picture.notes + _more_frames(plugin, image))


def _plugin(data: bytes) -> str | None:
    if data[4:8] == b"ftyp":
        box = data[8 : int.from_bytes(data[:4])]
        brands = {box[place : place + 4] for place in range(0, min(len(box), 256), 4)}
        if brands & {b"avif", b"avis"}:
            return "Avif"
        return "Heif" if brands & _HEIF_BRANDS else None
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    return next((plugin for plugin, signatures in _SIGNATURES.items() if data.startswith(signatures)), None)


def _opened(plugin: str, data: bytes) -> Image.Image:
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
    # IcoImageFile would decode while it opens. Frame 0 is the biggest one.
    image: Image.Image = (
        module.IcoFile(file).frame(0) if plugin == "Ico" else getattr(module, f"{plugin}ImageFile")(file)
    )
    return image


def _check_pixels(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise PictureError(f"has no pixels ({width}x{height})")
    if width * height > limits.max_pixels:
        raise PictureError(f"{width}x{height} is {width * height:,} pixels, the limit is {limits.max_pixels:,}")


def _upright_rgb(source: Image.Image, limits: Limits) -> Picture:
    """`source` decoded and converted; `source` itself where it was upright RGB already."""
    _check_pixels(source.size, limits)
    source.load()
    image, notes = _rgb(source)
    # After load: Pillow turns TIFF pictures upright itself there, and takes their orientation away.
    turn = _turn(source)
    if turn is not None:
        image = image.transpose(turn)
    if image is not source:
        image.info.clear()  # What was applied must not be applied again by whoever gets this picture.
    return Picture(image, notes)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        orientation: Any = image.getexif().get(_ORIENTATION)
        return _TURNS.get(orientation)
    except Exception:  # Broken EXIF costs the orientation, not the picture.
        return None


def _rgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """The picture in mode "RGB" and what to note about it; `image` itself where it is RGB already."""
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format == "PPM"):
        # Image.convert would clip nearly everything to white. Pillow scales PPM files to 16 bits, and calls that "I".
        bits = 12 if _is_12_bit_tiff(image) else 16
        gray = _to_8_bits(np.asarray(image), bits)
        return Image.fromarray(gray).convert("RGB"), (_SCALED.format(bits=bits),)
    if mode in ("I", "F"):
        kind = "integer" if mode == "I" else "floating point"
        raise PictureError(f"32-bit {kind} pixels have no fixed white: convert it to 8 or 16 bits first")
    if mode == "CMYK":
        return _cmyk_to_rgb(image)
    if image.has_transparency_data:
        return _over_white(image), ()
    return (image if mode == "RGB" else image.convert("RGB")), ()


def _is_12_bit_tiff(image: Image.Image) -> bool:
    return getattr(image, "tag_v2", {}).get(258) == (12,)  # BitsPerSample


def _to_8_bits(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    scaled: NDArray[np.uint8] = _eight_bit_table(bits)[values]
    return scaled


@cache
def _eight_bit_table(bits: int) -> NDArray[np.uint8]:
    """For each value of 16 bits its value of 8 bits, where full white has `bits` bits."""
    white = 2**bits - 1
    values = np.arange(2**16).clip(max=white)
    table: NDArray[np.uint8] = ((values * 255 + white // 2) // white).astype(np.uint8)
    return table


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode == "P":
        image = image.copy()  # convert() writes into the palette of the picture it converts.
    if image.mode == "La":
        image = image.convert("LA")  # Pillow knows no direct way from here.
    rgba = image.convert("RGBA")
    white = Image.new("RGB", image.size, _WHITE)
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _cmyk_to_rgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    profile = image.info.get("icc_profile")
    if not profile:
        return image.convert("RGB"), ("CMYK without a color profile: colors are approximate",)
    try:
        from PIL import ImageCms

        embedded = ImageCms.ImageCmsProfile(BytesIO(profile))
        to_srgb = ImageCms.buildTransform(embedded, ImageCms.createProfile("sRGB"), "CMYK", "RGB")
        return to_srgb.apply(image), ()
    except Exception:  # The profile comes from the file, and fails in as many ways.
        return image.convert("RGB"), ("CMYK with a color profile that does not work: colors are approximate",)


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
    _check_pixels((shape[1], shape[0]), limits)
    pixels = _to_8_bits(array, bits=16) if wide else array
    image, _ = _rgb(Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))
    return Picture(image, (_SCALED.format(bits=16),) if wide else ())
