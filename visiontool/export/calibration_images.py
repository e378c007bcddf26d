"""The pictures that int8 takes its ranges from."""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visiontool.data.loader import fitted
from visiontool.data.prepare import Recipe
from visiontool.errors import UsageError
from visiontool.export.source import Source
from visiontool.images.decode import DEFAULT_LIMITS
from visiontool.training.pictures import of_run, pictures_for

_log = logging.getLogger(__name__)

_MOST = 256  # more change the ranges hardly
_FEW = 32
_BATCH = 8


def batches(source: Source, data: Path | None) -> list[NDArray[np.uint8]]:
    """Batches (n, H, W, 3) of up to 256 pictures, taken evenly from all there are.

    Args:
        data: a folder of pictures; None for those that the run of `source` was trained on.

    Raises:
        DataError: none can be read, or those of the run are not there any more.
        UsageError: there is no run, and no folder is named.
    """
    if data is not None:
        pictures = pictures_for(source.spec, on=data)
    elif source.run is not None:
        pictures = of_run(source.spec, source.run, "train")
    else:
        raise UsageError(
            "--precision int8 takes the ranges of its numbers from pictures of the kind that it will see.\n"
            "Name a folder of some hundred: --calibration FOLDER"
        )
    pixels = fitted(pictures.paths, Recipe.of(source.spec, DEFAULT_LIMITS), _MOST)
    if len(pixels) < _FEW:
        _log.info(f"Calibrated on {len(pixels)} pictures only; some hundred of the kind it will see are better.")
    return [pixels[start : start + _BATCH] for start in range(0, len(pixels), _BATCH)]
