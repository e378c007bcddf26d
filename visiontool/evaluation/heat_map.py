"""Explanations and the maps of a layer as pictures."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visiontool.evaluation.figures import COLORS, legible, page
from visiontool.inference.explain import Explanation, Features

_FOR, _AGAINST = (np.array([*bytes.fromhex(COLORS[number][1:])], np.float32) for number in (1, 0))
_WHITE = np.full((1, 1), 255, np.float32)
_LETTERS = 40  # of a title
_MOST_MAPS = 64
_SIDE = 3.2  # inches


def overlay(image: NDArray[np.uint8], map_: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A picture (H, W, 3) in gray, colored by a map (h, w) over it: orange where it is above 0, blue below.

    The place farthest from 0 has the full color; the map is scaled bilinearly.
    """
    gray = Image.fromarray(image).convert("L")
    scaled = Image.fromarray(map_).resize(gray.size, Image.Resampling.BILINEAR)
    return _colored(np.asarray(scaled), np.asarray(gray, np.float32), 0.75)


def _colored(values: NDArray[np.float32], base: NDArray[np.float32] = _WHITE, most: float = 1) -> NDArray[np.uint8]:
    """`base` (h, w) with color for `values` (h, w), at most the share `most` of it."""
    share = values[..., None] * np.float32(most / max(np.abs(values).max(), 1e-12))
    color = np.where(share > 0, _FOR, _AGAINST)
    return np.asarray((1 - np.abs(share)) * base[..., None] + np.abs(share) * color).round().astype(np.uint8)


def draw(file: Path, name: str, found: Explanation) -> None:
    """Writes a PNG: the picture, under its name, and the map over it."""
    note = f"{found.method}: {found.map.min():+.3g} to {found.map.max():+.3g}; logit {found.logit:.1f}"
    with page(file, (2 * _SIDE, 1.15 * _SIDE)) as figure:
        left, right = figure.subplots(1, 2)
        _show(left, found.image, name)
        title = f"{legible(found.label, _LETTERS - 7)} {found.probability:.1%}"
        _show(right, overlay(found.image, found.map), title, note)


def draw_features(file: Path, name: str, found: Features) -> None:
    """Writes a PNG: the picture, with what a unit sees; the filters, of the first convolution; and the maps."""
    from matplotlib.patches import Rectangle

    layer, total = found.layer, len(found.maps)
    grids = {"maps": list(map(_colored, found.maps[:_MOST_MAPS]))}
    if layer.filters is not None:
        largest = np.abs(layer.filters).max(axis=(1, 2, 3), keepdims=True)
        shares = layer.filters / np.maximum(largest, 1e-3 * largest.max())  # a filter of next to nothing shows as that
        grids = {"filters": list(map(_filter, shares[:_MOST_MAPS])), **grids}
    top, left, bottom, right = layer.box or (0, 0, len(found.image) - 1, found.image.shape[1] - 1)
    size = right - left + 1, bottom - top + 1
    with page(file, ((1 + len(grids)) * _SIDE, 1.15 * _SIDE)) as figure:
        first, *others = figure.subplots(1, 1 + len(grids))
        _show(first, found.image, name, f"the center unit sees {size[0]} x {size[1]} pixels")
        first.add_patch(Rectangle((left - 0.5, top - 0.5), *size, fill=False, color=COLORS[1], linewidth=2))
        for axes, (what, tiles) in zip(others, grids.items(), strict=True):
            title = f"{legible(layer.layer.name, 24)}: {len(tiles)} of {total} {what}"
            _show(axes, _grid(tiles), title, f"each {tiles[0].shape[1]} x {tiles[0].shape[0]}")


def _show(axes: Any, pixels: NDArray[np.uint8], title: str, note: str = "") -> None:
    axes.imshow(pixels)
    axes.set_title(legible(title, _LETTERS), fontsize=10)
    axes.set_xlabel(note, fontsize=8)
    axes.set(xticks=[], yticks=[], autoscale_on=False)  # a box that reaches beyond the picture changes nothing


def _filter(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A filter (k, k, 3), of numbers from -1 to 1, as the colors that it looks for; one of a single channel in gray."""
    return np.asarray(127.5 * (1 + np.broadcast_to(values, (*values.shape[:2], 3)))).round().astype(np.uint8)


def _grid(tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Tiles of one size side by side, with a gray line between."""
    columns, line = math.ceil(math.sqrt(len(tiles))), max(1, len(tiles[0]) // 12)
    blanks = [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    padded = np.pad([*tiles, *blanks], ((0, 0), (0, line), (0, line), (0, 0)), constant_values=200)
    return np.concatenate([np.concatenate([*row], axis=1) for row in padded.reshape(-1, columns, *padded.shape[1:])])
