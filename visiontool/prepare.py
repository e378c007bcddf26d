"""A picture's way to the network: opened, then fitted. The same code in this process and in a worker process."""

import os
import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool import preprocess
from visiontool.errors import PictureError
from visiontool.images import ImageSource, Limits, open_image
from visiontool.spec import ModelSpec


class Recipe(NamedTuple):
    """How every picture is made ready for one model."""

    fit_options: dict[str, Any]
    """What `preprocess.fit` takes beside the picture."""
    resize_to: int
    limits: Limits

    @classmethod
    def of(cls, spec: ModelSpec, limits: Limits) -> "Recipe":
        """The recipe of a model."""
        to = preprocess.resize_to(spec.input.size, spec.crop_pct, spec.crop_mode)
        return cls(preprocess.fit_options(spec), to, limits)


class Prepared(NamedTuple):
    """A picture on its way to the network: pixels (H, W, 3) uint8, or an error."""

    path: str | None
    pixels: NDArray[np.uint8] | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    decode_s: float = 0.0
    fit_s: float = 0.0


def prepare(source: ImageSource, recipe: Recipe) -> Prepared:
    """Opens a picture and fits it. A picture that cannot be read is no exception but has an `error`.

    Raises:
        UsageError: `source` is no picture at all (`images.open_image`).
    """
    path = os.fspath(source) if isinstance(source, str | os.PathLike) else None
    start = time.perf_counter()
    try:
        picture = open_image(source, resize_to=recipe.resize_to, limits=recipe.limits)
        opened = time.perf_counter()
        pixels = preprocess.fit(picture.image, **recipe.fit_options)
    except PictureError as error:
        return Prepared(path, error=str(error), decode_s=time.perf_counter() - start)
    except MemoryError:
        return Prepared(path, error="not enough memory to resize it", decode_s=time.perf_counter() - start)
    return Prepared(path, pixels, None, picture.notes, opened - start, time.perf_counter() - opened)
