"""Pictures as a graph takes them, for what is done with some of them at once."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from visiontool.errors import DataError
from visiontool.images import DEFAULT_LIMITS
from visiontool.prepare import Recipe, prepare
from visiontool.spec import ModelSpec


def fitted(paths: Sequence[str], spec: ModelSpec, most: int) -> NDArray[np.uint8]:
    """(n, H, W, 3) of at most `most` of the pictures, taken evenly; those that cannot be read are left out.

    Raises:
        DataError: none can be read.
    """
    places = np.linspace(0, len(paths) - 1, min(most, len(paths)), dtype=np.intp)
    recipe = Recipe.of(spec, DEFAULT_LIMITS)
    opened = (prepare(paths[place], recipe) for place in places.tolist())
    pixels = [item.pixels for item in opened if item.pixels is not None]
    if not pixels:
        raise DataError(f"of {len(pixels)} pictures none can be read, e.g. {paths[0] if paths else 'none'}")
    return np.stack(pixels)
