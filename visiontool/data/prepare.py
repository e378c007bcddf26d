"""A picture's way to the network: opened, then fitted. The same code in this process and in a worker process."""

import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from visiontool.errors import PictureError, UsageError
from visiontool.images import transforms
from visiontool.images.decode import ImageSource, Limits, NotPlainError, OnTruncated, open_image
from visiontool.model.spec import ModelSpec

if TYPE_CHECKING:
    from visiontool.images.augment import View
    from visiontool.images.fingerprint import Fingerprint


class Recipe(NamedTuple):
    """How every picture is made ready for one model."""

    fit_options: dict[str, Any]  # what `transforms.fit` takes beside the picture
    resize_to: int
    limits: Limits
    views: "tuple[View, ...]" = ()  # for finetuning; without any, the plain one
    tta: transforms.Tta | None = None  # for views to average over
    fingerprint: bool = False  # whether it is wanted; with `views` it is there anyway
    whole: bool = False  # whether the graph resizes pictures itself, and takes all of their pixels

    @classmethod
    def of(cls, spec: ModelSpec, limits: Limits, views: "tuple[View, ...]" = ()) -> "Recipe":
        """The recipe of a model; a UsageError for an unknown `on_truncated`."""
        if limits.on_truncated not in get_args(OnTruncated):
            raise UsageError(f"on_truncated {limits.on_truncated!r} is none of {', '.join(get_args(OnTruncated))}")
        to = transforms.resize_to(spec.input.size, spec.crop_pct, spec.crop_mode)
        return cls(transforms.fit_options(spec), to, limits, views, whole=spec.resize == "graph")


class Prepared(NamedTuple):
    """A picture on its way to the network: pixels (H, W, 3) uint8, or (V, H, W, 3) of its views, or an error.

    H and W are the graph's, or the picture's own where the graph resizes it itself.
    """

    path: str | None
    pixels: NDArray[np.uint8] | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    decode_s: float = 0.0
    fit_s: float = 0.0
    fingerprint: "Fingerprint | None" = None  # of a picture that was read, where the recipe asks for it


def prepare(source: ImageSource, recipe: Recipe, *, plain_only: bool = False) -> Prepared:
    """Opens a picture and fits it. One that cannot be read has an `error`; `open_image` names the other exceptions."""
    path = os.fspath(source) if isinstance(source, str | os.PathLike) else None
    fingerprint = None
    start = time.perf_counter()
    try:
        picture = open_image(source, resize_to=recipe.resize_to, limits=recipe.limits, plain_only=plain_only)
        opened = time.perf_counter()
        if recipe.views or recipe.fingerprint:  # imported here, since predict needs neither
            from visiontool.images.fingerprint import fingerprint_of

            fingerprint = fingerprint_of(picture.image)
        if recipe.views:
            from visiontool.images.augment import render_all

            assert fingerprint is not None
            pixels = render_all(picture.image, recipe.views, fingerprint.pixels, recipe.fit_options)
        elif recipe.tta is not None:
            pixels = transforms.tta_views(picture.image, recipe.tta, **recipe.fit_options)
        elif recipe.whole:
            pixels = transforms.whole(picture.image, recipe.fit_options)
        else:
            pixels = transforms.fit(picture.image, **recipe.fit_options)
    except NotPlainError:
        raise
    except PictureError as error:
        return Prepared(path, error=str(error), decode_s=time.perf_counter() - start)
    except MemoryError:
        return Prepared(path, error="not enough memory to resize it", decode_s=time.perf_counter() - start)
    return Prepared(path, pixels, None, picture.notes, opened - start, time.perf_counter() - opened, fingerprint)
