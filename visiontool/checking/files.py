"""What is odd about files and pictures: broken ones, outliers, shortcuts, and kinds that other tools trip over."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visiontool.checking.finding import Finding, Looked, Suspect
from visiontool.data.samples import Sample
from visiontool.images.decode import Header
from visiontool.images.formats import PLUGIN_OF
from visiontool.images.transforms import share_kept
from visiontool.model.spec import ModelSpec
from visiontool.text import plural, some
from visiontool.training.embed_dataset import CUT_MUCH

_MIN_OF_CLASS = 10  # pictures, for a class to be compared with the others
_MOST_VALUES = 64  # of a property; rarer ones are left out
# Youden's J: the share of a class that has a property less that of the others. At most 0.2 for any class of ants and
# bees, clothing, MNIST and Tiny ImageNet; of brightness, which may belong to the thing shown, 0.7 (the digit 1).
_TELLS, _BRIGHTNESS_TELLS = 0.5, 0.85
# Low values are bad: those below the bound, and that many times below what is usual. No picture of ants and bees or of
# clothing has a sharpness below 0.9, or brightness only below 90 or above 222.
_OUTLIERS = (
    ("constant", "of one color", 1, 0, "all {dark} of 255"),
    ("dark", "nearly black", 40, 3, "hardly above {dark} of 255"),
    ("bright", "nearly white", 30, 3, "hardly below {bright} of 255"),
    ("blurred", "blurred", 0.75, 3, "sharpness {sharp:.2f}"),
    ("tiny", "tiny beside the network's input", 0.25, 2, "{width}x{height}"),
    ("elongated", "very wide or high", 1 / 3, 2, "{width}x{height}, of which {seen:.0%} is seen"),
    ("huge", "huge, so that smaller copies would do", 1 / 25_000_000, 4, "{width}x{height}"),
)
_FACTS = {
    "extension": "of another format than the name says",
    "rotated": "turned upright by EXIF",
    "gray": "of one channel, gray",
    "alpha": "with transparency, put on white",
    "cmyk": "in CMYK, made RGB",
    "deep": "of 16 bits a color, scaled to 8",
    "animated": "of several frames, of which the first is used",
}
_LOOK = "Look at them, and replace or leave out what a person could not tell either."
_BROKEN = {"0 bytes": ("empty", "empty (0 bytes)"), "truncated": ("truncated", "truncated or damaged")}


def check_files(looked: Looked, spec: ModelSpec) -> Iterator[Finding]:
    """What is odd about the pictures, for a network of `spec`. Their headers are read, and nothing is decoded."""
    yield from _broken(looked.errors)
    if samples := looked.data.samples:
        headers = looked.headers
        known = zip(headers, looked.fingerprints, strict=True)
        sizes = np.array([header.size or (one.width, one.height) for header, one in known])  # (N, 2): width, height
        yield from _shortcuts(looked, headers, sizes)
        yield from _outliers(looked, spec, sizes)
        yield from _facts(samples, headers)


def _broken(errors: Mapping[str, str]) -> Iterator[Finding]:
    kinds = defaultdict[tuple[str, str], list[Suspect]](list)
    for name, reason in errors.items():
        known = (kind for words, kind in _BROKEN.items() if words in reason)
        kinds[next(known, ("unreadable", "not readable"))].append(Suspect(name, 1.0, reason, exclude=True))
    for (check, words), suspects in kinds.items():
        title = f"{plural(len(suspects), 'file is', 'files are')} {words}"
        yield Finding(
            check, "serious", title, "Replace or delete them, or leave them out: finetune --on-bad skip", (*suspects,)
        )


def _shortcuts(looked: Looked, headers: Sequence[Header], sizes: NDArray[np.int64]) -> Iterator[Finding]:
    """Classes that are told from the others by what a file is, and not by what it shows."""
    colors = np.array([[*one.color] for one in looked.fingerprints])
    is_gray = np.array(["gray" in header.facts for header in headers]) | (np.ptp(colors, axis=1) == 0)
    pairs = [(at, each) for at, sample in enumerate(looked.data.samples) for each in sample.class_ids if each >= 0]
    pictures, class_ids = np.array(pairs, np.int64).reshape(-1, 2).T
    totals = np.bincount(class_ids, minlength=len(looked.data.labels))
    properties: tuple[tuple[str, Sequence[Any], float], ...] = (
        ("Being gray or not", is_gray.tolist(), _TELLS),
        ("The file format", [header.plugin for header in headers], _TELLS),
        ("The size in pixels", [*map(tuple, sizes.tolist())], _TELLS),
        ("The number of pixels", np.log2(sizes.prod(axis=1)).astype(int).tolist(), _TELLS),
        ("Brightness", (colors.mean(axis=1) // 32).tolist(), _BRIGHTNESS_TELLS),
    )
    for name, values, least in properties:
        known = {value: code for code, (value, _) in enumerate(Counter(values).most_common(_MOST_VALUES))}
        codes = np.array([known.get(value, len(known)) for value in values])
        counts = np.zeros((len(totals), len(known) + 1))
        np.add.at(counts, (class_ids, codes[pictures]), 1)
        rest = np.bincount(codes, minlength=len(known) + 1) - counts
        gains = counts / np.maximum(totals, 1)[:, None] - rest / np.maximum(len(values) - totals, 1)[:, None]
        best = gains[:, : len(known)].max(axis=1) * (np.minimum(totals, len(values) - totals) >= _MIN_OF_CLASS)
        if labels := [looked.data.labels[at] for at in np.argsort(-best, kind="stable") if best[at] >= least]:
            title = f"{name} alone tells {plural(len(labels), 'class')} from the others: {some(labels)}"
            advice = "A network may learn that instead of the thing: get pictures of all classes in the same way."
            yield Finding("shortcut", "warning", title, advice)


def _outliers(looked: Looked, spec: ModelSpec, sizes: NDArray[np.int64]) -> Iterator[Finding]:
    (width, height), side = sizes.T, min(spec.input.size)
    levels = np.frombuffer(b"".join(one.thumbnail for one in looked.fingerprints), np.uint8).reshape(len(sizes), -1)
    low, bright, dark, high = np.sort(levels, axis=1)[:, (0, 2, -3, -1)].T.astype(int)  # 1 % of 256 are beyond
    sharp = np.array([one.sharpness for one in looked.fingerprints])
    is_flat, short = (high - low < 3) & (sharp == 0), np.minimum(width, height)
    seen = np.array([share_kept((high, wide), spec) for wide, high in sizes.tolist()])
    shown = {"dark": dark, "bright": bright, "sharp": sharp, "width": width, "height": height, "seen": seen}
    pixels = (short / side, short / np.maximum(width, height), 1 / (width * height))
    light = (dark, 255 - bright, np.where(pixels[0] < 0.25, 1e9, sharp))  # what is tiny is soft, too
    values = (1 - is_flat, *(np.where(is_flat, 1e9, each) for each in light), *pixels)
    for (check, words, bound, times, reason), value in zip(_OUTLIERS, values, strict=True):
        scores = _scores(value, looked.class_ids, bound, times)
        if worst := [at for at in np.argsort(-scores, kind="stable").tolist() if scores[at] > 0]:
            reasons = [reason.format(**{name: column[at] for name, column in shown.items()}) for at in worst]
            names = [looked.data.samples[at].name for at in worst]
            suspects = tuple(map(Suspect, names, scores[worst].tolist(), reasons))
            title = f"{plural(len(worst), 'picture is', 'pictures are')} {words}"
            yield Finding(check, "note" if check == "huge" else "warning", title, _LOOK, suspects)
    cut = 1 - float(np.median(seen)) / share_kept(spec.input.size, spec)  # that is cut off any picture
    if spec.crop_mode == "center" and cut > CUT_MUCH:
        title = f"Half of the pictures are so wide or high that {cut:.0%} of their area or more is not seen"
        yield Finding("cropped", "warning", title, "--crop-mode border shows them whole.")


@np.errstate(divide="ignore", invalid="ignore")  # where 0 is usual
def _scores(values: NDArray[Any], class_ids: NDArray[np.int64], bound: float, times: float) -> NDArray[np.float64]:
    """(N,) above 0 for outliers of all and of their class: how far below the bound, and below what is usual there."""
    order = np.argsort(class_ids, kind="stable")
    classes = np.split(order, np.flatnonzero(np.diff(class_ids[order])) + 1)
    bounds = np.full(len(values), float(bound))
    for its in (order, *(each for each in classes if len(each) >= _MIN_OF_CLASS)) if times else ():
        quartile, median = np.quantile(values[its], (0.25, 0.5))
        # In logarithms four times as far below the quartile as that is below the median.
        bounds[its] = np.minimum(bounds[its], min(median / times, quartile * (quartile / median) ** 4))
    return np.asarray(1 - values / bounds)


def _facts(samples: Sequence[Sample], headers: Sequence[Header]) -> Iterator[Finding]:
    suspects = defaultdict[str, list[Suspect]](list)
    for sample, header in zip(samples, headers, strict=True):
        expected = PLUGIN_OF.get(os.path.splitext(sample.path)[1].lower(), header.plugin)
        for fact in (*header.facts, *(("extension",) if header.plugin not in ("", expected) else ())):
            suspects[fact].append(Suspect(sample.name, 1.0, header.plugin if fact == "extension" else fact))
    for check, words in _FACTS.items():
        if its := suspects[check]:
            title = f"{plural(len(its), 'picture is', 'pictures are')} {words}"
            named = () if 2 * len(its) > len(samples) else (*its,)  # what most are is not to be looked through
            yield Finding(check, "note", title, "Nothing to do here; other tools may read them otherwise.", named)
