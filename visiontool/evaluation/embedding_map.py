"""A map of pictures with similar ones together."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from visiontool.data.loader import LoadOptions, load
from visiontool.data.prepare import Recipe
from visiontool.evaluation.figures import DPI, legible, page
from visiontool.text import plural

SIZE = (2000, 1500)  # width and height of the PNG, in pixels
MOST = 2000  # pictures: of more, thumbnails would be too small to be told apart
_FEW = 10  # pictures up to which there is no t-SNE
_TITLE, _LEGEND = 50, 90  # pixels above and below the thumbnails
_CELLS = 1.6  # for each picture, so that there are gaps between groups
_LARGEST = 160  # pixels of a cell


def draw(file: Path, paths: Sequence[str], embeddings: NDArray[np.float32], model: str, options: LoadOptions) -> None:
    """Writes the map of the embeddings (N, D) as a PNG; of more than `MOST` pictures, as many are taken evenly.

    Each picture has a cell of a grid to itself, near its place. Frames have the colors of the ten largest folders.
    """
    from matplotlib import color_sequences
    from matplotlib.colors import to_hex
    from matplotlib.patches import Patch
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    shown = np.arange(count := min(len(paths), MOST)) * len(paths) // count
    height = SIZE[1] - _TITLE - _LEGEND
    side = min(_LARGEST, math.isqrt(int(SIZE[0] * height / (_CELLS * count))))
    cells = np.argwhere(np.ones((SIZE[0] // side, height // side)))
    distances = cdist(positions(embeddings[shown]) * cells[-1], cells, "sqeuclidean")
    corners = cells[linear_sum_assignment(distances)[1]] * side + (0, _TITLE)

    chosen = [paths[index] for index in shown.tolist()]
    folders = [os.path.basename(os.path.dirname(os.path.abspath(path))) for path in chosen]
    largest = Counter(folders).most_common(10)
    palette = map(to_hex, color_sequences["petroff10"])
    colors = dict(zip(dict(largest), palette, strict=False)) if len(largest) > 1 else {}
    inner = side - 2 * (edge := max(2, side // 20)) - 1
    sheet = Image.new("RGB", SIZE, "white")
    items = load(chosen, Recipe({"size": (inner, inner)}, inner, options.limits), options)
    for (left, top), folder, item in zip(corners.tolist(), folders, items, strict=True):
        frame = ImageColor.getrgb(colors.get(folder, "white"))
        sheet.paste(frame, (left, top, left + side - 1, top + side - 1))
        if item.pixels is not None:
            sheet.paste(Image.fromarray(item.pixels), (left + edge, top + edge))
    part, how = "" if count == len(paths) else f"{count:,} of ", "t-SNE" if count > _FEW else "PCA"
    with page(file, (SIZE[0] / DPI, SIZE[1] / DPI), layout=None) as figure:
        title = f"{part}{plural(len(paths), 'picture')} as {legible(model, 60)} sees them ({how})"
        figure.text(0.5, 1 - 12 / SIZE[1], title, ha="center", va="top", fontsize=16)
        texts = [f"{pictures:,} {legible(folder, 24)}" for folder, pictures in largest]
        handles = [Patch(color=color, label=text) for color, text in zip(colors.values(), texts, strict=False)]
        figure.legend(handles=handles, loc="lower center", ncols=5, frameon=False, fontsize=14)
        figure.figimage(np.asarray(sheet))


def positions(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, 2), each from 0 to 1: t-SNE by cosine, of 50 principal components; of up to ten pictures, two of these.

    Source: van der Maaten and Hinton 2008, "Visualizing Data using t-SNE".
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import normalize
    from threadpoolctl import threadpool_limits

    points = normalize(embeddings)
    if np.ptp(points, axis=0).max() < 1e-6:  # one picture, or copies of one
        return np.full((len(points), 2), 0.5)
    with threadpool_limits(1):  # threads of t-SNE wait busily for each other, ten times as long where cores are shared
        points = PCA(min(50, *points.shape), random_state=0).fit_transform(points)
        if len(points) > _FEW:
            points = TSNE(perplexity=min(30, len(points) // 3 - 1), init="pca", random_state=0).fit_transform(points)
    points = np.pad(points, ((0, 0), (0, 1)))[:, :2].astype(np.float64)  # there may be one component only
    points -= points.min(axis=0)
    points /= np.maximum(points.max(axis=0), 1e-12)
    return points
