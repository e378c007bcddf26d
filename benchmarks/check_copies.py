"""Copies planted in public data: the recall of `visiontool check` by kind of copy, its precision, and what it takes.

    python benchmarks/check_copies.py NAME=FOLDER ... [--most 10000] [--planted 100]

Each copy is of another picture, and is put into val, its original in train. What is found in the data without the
copies is taken for true there, so look at it: --found FILE.png draws it.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from visiontool.checking.finding import Looked
from visiontool.data.dataset import read
from visiontool.data.samples import Dataset, Sample
from visiontool.images.augment import Augment, views
from visiontool.images.decode import open_image
from visiontool.inference.classifier import Classifier
from visiontool.inference.embeddings import embed_views

Rng = np.random.Generator


def scaled(image: Image.Image, share: float) -> Image.Image:
    """Both sides by `share`."""
    return image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.LANCZOS)


def cropped(image: Image.Image, area: float, rng: Rng) -> Image.Image:
    """A part of that share of the area and nearly the same shape, anywhere."""
    stretch = float(np.exp(rng.uniform(-0.05, 0.05)))
    width, height = (
        min(side, round(side * area**0.5 * by)) for side, by in ((image.width, stretch), (image.height, 1 / stretch))
    )
    left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
    return image.crop((left, top, left + width, top + height))


def jittered(image: Image.Image, rng: Rng) -> Image.Image:
    """Brightness and contrast up to 20 % up or down."""
    brighter = ImageEnhance.Brightness(image).enhance(rng.uniform(0.8, 1.2))
    return ImageEnhance.Contrast(brighter).enhance(rng.uniform(0.8, 1.2))


Change = Callable[[Image.Image, Rng], Image.Image]
KINDS: dict[str, tuple[Change, int | None]] = {  # the change, and the quality of the JPEG; None for a PNG
    "the same pixels": (lambda image, _: image, None),
    "JPEG 90": (lambda image, _: image, 90),
    "JPEG 60": (lambda image, _: image, 60),
    "JPEG 30": (lambda image, _: image, 30),
    "half the size": (lambda image, _: scaled(image, 0.5), 90),
    "mirrored": (lambda image, _: ImageOps.mirror(image), 90),
    "mirrored, 3/4 the size, JPEG 60": (lambda image, _: ImageOps.mirror(scaled(image, 0.75)), 60),
    "brightness, contrast": (jittered, 90),
    "cropped to 90 %": (lambda image, rng: cropped(image, 0.9, rng), 90),
    "cropped to 70 %": (lambda image, rng: cropped(image, 0.7, rng), 90),
    "cropped to 50 %": (lambda image, rng: cropped(image, 0.5, rng), 90),
    "cropped to 70 %, mirrored, JPEG 60": (lambda image, rng: ImageOps.mirror(cropped(image, 0.7, rng)), 60),
    "cropped to 70 %, brightness, contrast": (lambda image, rng: jittered(cropped(image, 0.7, rng), rng), 90),
}


def drawn(folder: Path, most: int) -> Dataset:
    """The data, or `most` pictures of it, all said to be of train."""
    data = read(folder)
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(len(data.samples))[:most])
    return replace(data, samples=tuple(data.samples[index]._replace(split="train") for index in chosen))


def planted(data: Dataset, folder: Path, each: int) -> tuple[Dataset, dict[str, tuple[str, str]]]:
    """The data with copies in val, and the original and the kind of each."""
    rng = np.random.default_rng(1)
    each = min(each, len(data.samples) // (2 * len(KINDS)))
    order = iter(rng.permutation(len(data.samples)).tolist())
    copies, origins = [], {}
    for kind, (change, quality) in KINDS.items():
        for number in range(each):
            original = data.samples[next(order)]
            path = folder / f"{kind} {number}.{'jpg' if quality else 'png'}".replace("/", "")
            image = change(open_image(original.path).image, rng)
            image.save(path, **({"quality": quality} if quality else {}))
            copies.append(Sample(str(path), path.name, original.class_id, "val", None))
            origins[path.name] = (original.name, kind)
    return replace(data, samples=(*data.samples, *copies)), origins


def looked_at(data: Dataset, model: str = "efficientnet_lite0") -> tuple[Looked, float]:
    """The data opened and embedded, and the seconds for it."""
    from visiontool.hub.resolve import resolve

    start = time.perf_counter()
    classifier = Classifier.load(resolve(model), threads=1)
    result = embed_views(classifier, [sample.path for sample in data.samples], views(1, Augment(), 0), use_cache=False)
    kept = [index for index in range(len(data.samples)) if index not in result.errors]
    errors = {data.samples[index].name: error for index, error in result.errors.items()}
    samples = tuple(data.samples[index] for index in kept)
    prints = tuple(result.fingerprints[index] for index in kept)
    looked = Looked(replace(data, samples=samples), prints, result.vectors[kept, 0], errors)
    return looked, time.perf_counter() - start


def series(data: Dataset, folder: Path, count: int) -> Dataset:
    """Six views of each of `count` pictures, turned, cropped and of another brightness, as of one object."""
    rng = np.random.default_rng(2)
    samples = []
    for number, index in enumerate(rng.permutation(len(data.samples))[:count].tolist()):
        original = data.samples[index]
        image = open_image(original.path).image
        for view in range(1, 7):
            turned = image.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC, fillcolor=(127, 127, 127))
            name = f"{data.labels[original.class_id]}/obj{number:04d}_{view}.jpg"
            path = folder / name.replace("/", " ")
            jittered(cropped(turned, rng.uniform(0.4, 0.8), rng), rng).save(path)
            samples.append(Sample(str(path), name, original.class_id, None, None))
    return replace(data, samples=tuple(samples))


def renamed(data: Dataset, how: str) -> Dataset:
    """Other names: "random", or "running" numbers as a camera gives them."""
    order = np.random.default_rng(3).permutation(len(data.samples)).tolist() if how == "random" else range(10**9)
    numbers = dict(zip(range(len(data.samples)), order, strict=False))
    samples = [
        sample._replace(name=f"{data.labels[sample.class_id]}/IMG_{numbers[index]:05d}.jpg")
        for index, sample in enumerate(data.samples)
    ]
    return replace(data, samples=tuple(samples))
