"""Draws two sets of pictures that look like nothing in ImageNet, for benchmarks of classifiers on frozen features.

    python benchmarks/drawn.py glyphs FOLDER [--seed 0]    # 26 classes: the upper-case letters, 96x96
    python benchmarks/drawn.py textures FOLDER [--seed 0]  # 12 classes: stripes, bricks, wood and so on, 128x128

FOLDER gets train/CLASS/0000.png and so on, 100 pictures a class, and test/CLASS/0000.png, 40 a class. The same seed
gives the same pictures. The fonts are those of matplotlib, and those of test are others than those of train, so that
test tells whether a classifier knows a letter in a font that is new to it. Colours, light, noise and blur are drawn
alike for all classes, so that they tell nothing.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from string import ascii_uppercase

import matplotlib
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import KDTree

Field = NDArray[np.float64]  # of a number a pixel

SPLITS = {"train": range(100), "test": range(100, 140)}
GLYPH_SIZE, TEXTURE_SIZE = 96, 128
LUMA = np.array([0.299, 0.587, 0.114])
LEAST_CONTRAST = 70  # between the brightness of ink and ground, of 255
FONTS = {
    "train": (
        *("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
        *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-BoldOblique"),
        *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-BoldItalic"),
        *("STIXGeneral", "STIXGeneralItalic", "STIXGeneralBolIta"),
        *("cmr10", "cmb10", "cmss10", "cmti10", "cmmi10"),
    ),
    "test": ("DejaVuSans-Bold", "DejaVuSansMono-Oblique", "DejaVuSerif-Italic", "STIXGeneralBol", "cmtt10"),
}
TEXTURES = (
    *("stripes", "checks", "dots", "rings", "clouds", "marble"),
    *("wood", "bricks", "cells", "scratches", "weave", "camouflage"),
)


def glyphs(folder: Path, seed: int = 0) -> None:
    """Draws the set of letters."""
    write(folder, seed, ascii_uppercase, glyph)


def textures(folder: Path, seed: int = 0) -> None:
    """Draws the set of textures."""
    write(folder, seed, TEXTURES, texture)


def write(folder: Path, seed: int, classes: Sequence[str], draw: Callable[[Generator, str, str], Field]) -> None:
    """Writes a set; `draw` says, for a class and a split, where in a picture there is ink, from 0 to 1."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise SystemExit(f"{folder} exists and is not an empty folder")
    for index, name in enumerate(classes):
        for split, numbers in SPLITS.items():
            target = folder / split / name
            target.mkdir(parents=True)
            for place, number in enumerate(numbers):
                rng = np.random.default_rng([seed, index, number])
                coloured(rng, draw(rng, name, split)).save(target / f"{place:04}.png")


def coloured(rng: Generator, ink: Field) -> Image.Image:
    """The picture of that ink, in two random colours, with random light, blur and noise."""
    colours = rng.uniform(0, 255, (2, 3))
    while abs(LUMA @ (colours[0] - colours[1])) < LEAST_CONTRAST:
        colours = rng.uniform(0, 255, (2, 3))
    pixels = colours[0] + ink[..., None] * (colours[1] - colours[0])
    if rng.random() < 0.5:
        across, _ = turned_grid(rng, len(ink))
        pixels += across[..., None] / len(ink) * rng.normal(0, 40, 3)
    blur = max(0, rng.uniform(-1, 1.3))  # none in many pictures, nor noise
    pixels = gaussian_filter(pixels, (blur, blur, 0))
    pixels += rng.normal(0, 1, pixels.shape) * max(0, rng.uniform(-20, 25))
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def turned_grid(rng: Generator, size: int) -> tuple[Field, Field]:
    """The coordinates of the pixels of a square from its centre, turned by a random angle."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


@cache
def font_named(name: str) -> ImageFont.FreeTypeFont:
    """One of matplotlib's fonts, about as large as the letters are drawn."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")
    return ImageFont.truetype(path, 128, layout_engine=ImageFont.Layout.BASIC)


def glyph(rng: Generator, letter: str, split: str) -> Field:
    """A letter in one of the split's fonts: turned, sheared, and of a random size at a random place."""
    font = font_named(FONTS[split][rng.integers(len(FONTS[split]))])
    left, top, right, bottom = font.getbbox(letter)
    width, height = int(right - left), int(bottom - top)
    upright = Image.new("L", (width, height))
    ImageDraw.Draw(upright).text((-left, -top), letter, 255, font)

    side = 2 * GLYPH_SIZE  # drawn twice as large, for smooth edges
    angle = np.radians(rng.uniform(-25, 25))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ [[1, rng.uniform(-0.3, 0.3)], [0, rng.uniform(0.8, 1.25)]]
    corners = matrix @ [[0, width, 0, width], [0, 0, height, height]]
    scale = rng.uniform(0.35, 0.9) * side / np.ptp(corners, axis=1).max()
    place = rng.uniform(4 - scale * corners.min(axis=1), side - 4 - scale * corners.max(axis=1))
    back = np.linalg.inv(scale * matrix)
    coefficients = np.column_stack([back, -back @ place]).ravel().tolist()
    drawn = upright.transform((side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    return np.asarray(drawn.reduce(2)) / 255


def texture(rng: Generator, name: str, _: str) -> Field:
    """A texture through which another, weaker one shows."""
    strength = max(0, rng.uniform(-0.2, 0.7))
    other = TEXTURES[rng.integers(len(TEXTURES))]
    both = layer(rng, name) + strength * layer(rng, other)
    return 0.5 + 0.5 * both / (1 + strength)


def layer(rng: Generator, name: str) -> Field:
    """A texture from -1 to 1: at a random scale, turned, bent a little, and with soft or hard edges."""
    period = np.exp(rng.uniform(np.log(8), np.log(28)))
    u, v = turned_grid(rng, TEXTURE_SIZE) / period + rng.uniform(0, 50, (2, 1, 1))
    bend = rng.uniform(0, 0.8)
    u, v = u + bend * noise(rng, u / 3, v / 3), v + bend * noise(rng, u / 3, v / 3)
    return np.tanh(rng.uniform(1, 4) * pattern(rng, name, u, v))


def pattern(rng: Generator, name: str, u: Field, v: Field) -> Field:
    """A texture with details of about one unit, roughly from -1 to 1."""
    row, column = np.floor(v).astype(int), np.floor(u).astype(int)
    shades, area = rng.random((97, 97)), np.ptp(u) * np.ptp(v)
    match name:
        case "stripes":
            return np.sin(2 * np.pi * u) + rng.uniform(-0.5, 0.5)
        case "checks":
            return 2 * np.sin(np.pi * u) * np.sin(np.pi * v)
        case "dots":
            aside = 0.3 * shades[row % 97, column % 97] - 0.15
            away: Field = np.hypot(u - column - 0.5 + aside, v - row - 0.5 - aside)
            return 5 * (rng.uniform(0.2, 0.35) - away)
        case "rings":
            y, x = rng.integers(TEXTURE_SIZE, size=2)
            away = np.hypot(u - u[y, x], v - v[y, x])
            return np.sin(2 * np.pi * away)
        case "clouds":
            return clouds(rng, u, v)
        case "marble":
            return 1 - 3 * np.abs(np.sin(np.pi * (u / 4 + rng.uniform(0.4, 0.9) * clouds(rng, u / 2, v / 2))))
        case "wood":
            bands = np.sin(2 * np.pi * (u / 2 + rng.uniform(0.5, 1) * noise(rng, u / 3, v / 12)))
            return 0.6 * bands + 1.2 * noise(rng, u * 4, v / 3)
        case "bricks":
            along = u / 2 + row % 2 / 2
            column = np.floor(along).astype(int)
            border = np.minimum(0.5 - np.abs(v - row - 0.5), 1 - 2 * np.abs(along - column - 0.5))
            return joined(rng, shades[row % 97, column % 97], border)
        case "cells":
            points = rng.uniform((u.min(), v.min()), (u.max(), v.max()), (int(area / 1.5), 2))
            distances, nearest = KDTree(points).query(np.stack([u, v], axis=-1), k=2)
            return joined(rng, rng.random(len(points))[nearest[..., 0]], (distances[..., 1] - distances[..., 0]) / 2)
        case "scratches":
            away, spread = np.full(u.shape, np.inf), rng.uniform(0.1, 0.7)
            for _ in range(int(area / 3)):
                x, y = u - rng.uniform(u.min(), u.max()), v - rng.uniform(v.min(), v.max())
                angle, length = rng.normal(0, spread), rng.uniform(0.5, 2.5)
                along = np.abs(x * np.cos(angle) + y * np.sin(angle)) - length
                away = np.minimum(away, np.hypot(y * np.cos(angle) - x * np.sin(angle), np.maximum(along, 0)))
            return (1 - away / rng.uniform(0.05, 0.12)).clip(-1)
        case "weave":
            warp, weft = np.abs(np.sin(np.pi * u)), np.abs(np.sin(np.pi * v))
            over = (row + column) % 2 == 0
            return np.where(over, 1.6 * weft + 0.6 * warp - 0.9, 1.6 * warp + 0.6 * weft - 1.5)
        case _:  # camouflage, in three shades
            return np.sign(noise(rng, u / 2, v / 2) - 0.1) / 2 + np.sign(noise(rng, u / 2, v / 2) - 0.1) / 2


def noise(rng: Generator, u: Field, v: Field) -> Field:
    """Smooth noise from about -1 to 1, with bumps of about one unit."""
    values: Field = map_coordinates(rng.uniform(-1, 1, (64, 64)), (u, v), order=3, mode="grid-wrap")
    return values


def clouds(rng: Generator, u: Field, v: Field) -> Field:
    """Noise at four scales."""
    total = np.zeros(u.shape)
    for octave in range(4):
        total += noise(rng, u / 3 * 2**octave, v / 3 * 2**octave) / 1.7**octave
    return total


def joined(rng: Generator, shades: Field, border: Field) -> Field:
    """Pieces of random shades with joints where `border`, the distance to the next piece, is small."""
    return np.minimum(1 - rng.uniform(0, 1.2) * shades, 15 * (border - rng.uniform(0.06, 0.15))).clip(-1)


def main() -> None:
    """Draws one of the sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("glyphs", "textures"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    {"glyphs": glyphs, "textures": textures}[arguments.name](arguments.folder, arguments.seed)


if __name__ == "__main__":
    main()
