"""Fingerprints of pictures, to find duplicates: the same pixels, or another file of the same view, mirrored or not."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 16
_SHARP_SIDE = 128  # of the gray picture whose edges are looked at, whatever its resolution
# The root of the mean squared difference of two standard thumbnails. Of 30,000 photographs no two that differ are
# nearer than 0.15, and of 70,000 digits none than 0.069; JPEG of quality 60 moves half of them by 0.02.
_TOLERANCE = 0.065
# Gray levels. What varies less is flat, or so nearly that rounding to whole levels is most of what would be compared.
_MIN_CONTRAST = 3.0
# Levels between red and green, and blue and green, of the mean colors: a red shirt is no copy of a blue one. JPEG of
# quality 30 moves them by 3 at most.
_MAX_TINT = 12
# More are no copies of one, but what thumbnails cannot tell apart: pictures of a camera that never moves.
_MAX_COPIES = 50
_NEIGHBORS = 8
_COEFFICIENTS = 16
_CHUNK = 16384


class Fingerprint(NamedTuple):
    """A picture in some 300 bytes.

    Attributes:
        width, height: Of the upright picture as it was opened; a JPEG may have been opened smaller than it is.
        pixels: Hexadecimal digest of the size and of all RGB values.
        thumbnail: 16 x 16 gray levels, row by row.
        color: Mean red, green and blue, 0 to 255.
        sharpness: Of the strongest edges, beside the contrast: about 3 for photographs; nan in runs of older versions.
    """

    width: int
    height: int
    pixels: str
    thumbnail: bytes
    color: bytes
    sharpness: float = math.nan


def fingerprint_of(image: Image.Image) -> Fingerprint:
    """The fingerprint of an upright RGB picture."""
    digest = hashlib.blake2b(b"%d x %d\n" % image.size, digest_size=16)
    digest.update(image.tobytes())
    # Pillow's BOX takes whole pixels only, and would give the mirrored picture another thumbnail.
    gray = image.convert("L")
    thumbnail = gray.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    color = image.resize((1, 1), Image.Resampling.BOX)
    return Fingerprint(*image.size, digest.hexdigest(), thumbnail.tobytes(), color.tobytes(), _sharpness(gray))


def _sharpness(gray: Image.Image) -> float:
    """The 99th percentile of the Laplacian's absolute value over the standard deviation, in single precision."""
    # Not the Laplacian's variance: of a sharp thing before a soft ground that is as small as of a blurred picture.
    reduced = gray.reduce((max(1, gray.width // _SHARP_SIDE), max(1, gray.height // _SHARP_SIDE)))
    resample = Image.Resampling.NEAREST if min(gray.size) >= _SHARP_SIDE else Image.Resampling.BILINEAR  # cheaper first
    levels = np.asarray(reduced.resize((_SHARP_SIDE, _SHARP_SIDE), resample)).astype(np.int16)
    around = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:]
    edges = np.bincount(np.abs(4 * levels[1:-1, 1:-1] - around).ravel()).cumsum()
    strength = np.searchsorted(edges, 0.99 * edges[-1]) * max(1.0, _SHARP_SIDE / min(gray.size)) ** 2  # if enlarged
    return float(np.float32(strength / max(1.0, levels.std())))


def same(fingerprints: Sequence[Fingerprint]) -> list[int]:
    """The number of each picture's group of same pictures: the smallest index in the group.

    Pictures are the same where their pixels are, or where their thumbnails agree up to brightness, contrast and
    mirroring, and their tints: re-encoded, resized and squashed copies do. Pixels alone count for nearly flat
    pictures, and for those that would make a group of more than 50 whose pixels differ.
    """
    first: dict[str, int] = {}
    groups = [first.setdefault(one.pixels, index) for index, one in enumerate(fingerprints)]
    different = np.fromiter(first.values(), np.intp, len(first))
    thumbnails = np.frombuffer(b"".join(fingerprints[index].thumbnail for index in different), np.uint8)
    colors = np.frombuffer(b"".join(fingerprints[index].color for index in different), np.uint8).reshape(-1, 3)
    tints = colors[:, ::2].astype(np.int16) - colors[:, 1:2]  # red and blue, both less green
    leaders = different[_leaders(thumbnails.reshape(-1, _SIDE, _SIDE), tints)]
    number = dict(zip(different.tolist(), leaders.tolist(), strict=True))
    return [number[group] for group in groups]


def joined(links: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """The number of each one's group (N,), of `count` of which links (M, 2) hold two together each."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(links), np.bool_), tuple(links.T)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.intp)


def _leaders(thumbnails: NDArray[np.uint8], tints: NDArray[np.int16]) -> NDArray[np.intp]:
    """The smallest index in each one's group of thumbnails that agree, and tints (N, 2) too."""
    leaders = np.arange(len(thumbnails))
    varied = leaders[np.concatenate([part.std(axis=(1, 2)) for part in _chunks(thumbnails)]) >= _MIN_CONTRAST]
    if len(varied) < 2:
        return leaders
    # Equal ones are taken together at once: in a tree, very many equal points take time without end.
    ways = _one_way_round(thumbnails[varied])
    rows = np.concatenate([ways.reshape(len(ways), -1), tints[varied]], axis=1)
    _, first, kind = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    pairs = _alike(ways[first])
    near = np.abs(tints[varied][first][pairs[:, 0]] - tints[varied][first][pairs[:, 1]]).max(axis=1, initial=0)
    groups = joined(pairs[near <= _MAX_TINT], len(first))[kind.ravel()]
    few = np.bincount(groups)[groups] <= _MAX_COPIES
    _, leader, group = np.unique(groups[few], return_index=True, return_inverse=True)
    leaders[varied[few]] = varied[few][leader][group]
    return leaders


def _one_way_round(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Each thumbnail or its mirror, the same one for both."""
    mirrored = thumbnails[:, :, ::-1]
    difference = (thumbnails.astype(np.int16) - mirrored).reshape(len(thumbnails), -1)
    decides = (difference != 0).argmax(axis=1)
    turn = np.take_along_axis(difference, decides[:, None], axis=1) > 0
    return np.where(turn[:, :, None], mirrored, thumbnails)


def _alike(thumbnails: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Pairs (M, 2) of thumbnails that agree; a few for each, not all, where very many do."""
    # A mirrored picture has the cosine transform of the picture but for the signs of the odd columns, and some of the
    # coefficients are never further apart than all of them. The nearest points of each are then compared as a whole.
    from scipy.spatial import KDTree

    points = np.concatenate([_low_frequencies(part) for part in _chunks(thumbnails)])
    _, near = KDTree(points).query(points, k=_NEIGHBORS + 1, distance_upper_bound=_TOLERANCE, workers=-1)
    one = np.repeat(np.arange(len(points)), _NEIGHBORS + 1)
    other = near.ravel()  # the number of points where there are fewer neighbors
    pairs = np.stack([one, other], axis=1)[(one != other) & (other < len(points))]
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    agree = [_distances(thumbnails[part[:, 0]], thumbnails[part[:, 1]]) <= _TOLERANCE for part in _chunks(pairs)]
    return pairs[np.concatenate(agree)]


def _low_frequencies(thumbnails: NDArray[np.uint8]) -> Any:
    """The lowest coefficients (N, 16) of the cosine transform, where a mirrored thumbnail has the same."""
    from scipy.fft import dctn

    spectrum = dctn(_standard(thumbnails), axes=(1, 2), norm="ortho") / _SIDE
    spectrum[:, :, 1::2] = np.abs(spectrum[:, :, 1::2])
    rows, columns = np.indices((_SIDE, _SIDE))
    lowest = np.argsort((rows**2 + columns**2).ravel(), kind="stable")[1 : _COEFFICIENTS + 1]  # 0 is the mean
    return spectrum.reshape(len(spectrum), -1)[:, lowest]


def _distances(ones: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[Any]:
    """The root of the mean squared difference of each two standard thumbnails, one of them mirrored if that is less."""
    one, other = _standard(ones), _standard(others)
    squares = [((one - way) ** 2).mean(axis=(1, 2)) for way in (other, other[:, :, ::-1])]
    nearer: NDArray[Any] = np.sqrt(np.minimum(*squares))
    return nearer


def _standard(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Of mean 0 and standard deviation 1 each; none is flat."""
    gray = thumbnails.astype(np.float32)
    gray -= gray.mean(axis=(1, 2), keepdims=True)
    gray /= gray.std(axis=(1, 2), keepdims=True)
    return gray


def _chunks(rows: NDArray[Any]) -> list[NDArray[Any]]:
    """`rows` in parts that bound what computing with them takes; one empty part where there are none."""
    return [rows[start : start + _CHUNK] for start in range(0, max(1, len(rows)), _CHUNK)]
