"""Small pictures for tests, and what `open_image` makes of them."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visiontool.errors import PictureError
from visiontool.images.decode import Picture, open_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners(block: int = 1) -> Image.Image:
    """Red and green above blue and white, each `block` pixels."""
    pixels = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8)
    return Image.fromarray(pixels.repeat(block, 0).repeat(block, 1))


def palette_picture() -> Image.Image:
    """Red beside blue, from a palette."""
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    return image


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    """A file that Pillow writes."""
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def saved(folder: Path, name: str, image: Image.Image, **options: object) -> str:
    path = folder / name
    image.save(path, **options)
    return str(path)


def written(folder: Path, name: str, data: bytes) -> str:
    (folder / name).write_bytes(data)
    return str(folder / name)


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


def outcome_of(path: object, **options: object) -> Picture | str:
    """The picture, or the words of its PictureError."""
    try:
        return open_image(path, **options)
    except PictureError as error:
        return str(error)


def error_of(source: object, **options: object) -> str:
    """The words of the PictureError that it must be."""
    with pytest.raises(PictureError) as caught:
        open_image(source, **options)
    return str(caught.value)
