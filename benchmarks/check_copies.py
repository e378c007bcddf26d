"""Copies planted in public data: the recall of `visiontool check` by kind of copy, its precision, and what it takes.

    python benchmarks/check_copies.py NAME=FOLDER ... [--most 10000] [--planted 100] [--objects 250]

Each copy is of another picture, and is put into val, its original in train. What is found in the data without the
copies is taken for true there, so look at it.
"""

import argparse
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from visiontool.checking.copies import check_copies
from visiontool.checking.finding import Looked
from visiontool.checking.series import check_series
from visiontool.data.dataset import read
from visiontool.data.samples import Dataset, Sample
from visiontool.hub.resolve import resolve
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
    """Other names: "random", "running" numbers as a camera gives them, or "words" in that order, without any number."""
    order = np.random.default_rng(3).permutation(len(data.samples)).tolist() if how == "random" else range(10**9)
    numbers = dict(zip(range(len(data.samples)), order, strict=False))
    letters = str.maketrans("0123456789_", "abcdefghijk") if how == "words" else {}
    samples = [
        sample._replace(name=f"{data.labels[sample.class_id]}/IMG_{numbers[index]:05d}.jpg".translate(letters))
        for index, sample in enumerate(data.samples)
    ]
    return replace(data, samples=tuple(samples))


def clusters(looked: Looked) -> list[set[str]]:
    """The names of what `check_copies` takes for copies of each other."""
    found: dict[int | None, set[str]] = {}
    for finding in check_copies(looked):
        for suspect in finding.suspects:
            found.setdefault(suspect.cluster, set()).add(suspect.name)
    return [*found.values()]


def without(looked: Looked, names: Collection[str]) -> Looked:
    """The data without those pictures."""
    kept = [index for index, sample in enumerate(looked.data.samples) if sample.name not in names]
    data = replace(looked.data, samples=tuple(looked.data.samples[index] for index in kept))
    return Looked(data, tuple(looked.fingerprints[index] for index in kept), looked.embeddings[kept], {})


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("-m", "--model", default="efficientnet_lite0")
    parser.add_argument("--most", type=int, default=10_000, help="pictures of a set")
    parser.add_argument("--planted", type=int, default=100, help="copies of each kind")
    parser.add_argument("--objects", type=int, default=250, help="of the series")
    arguments = parser.parse_args()
    for name, folder in (each.split("=", 1) for each in arguments.sets):
        data = drawn(Path(folder), arguments.most)
        with TemporaryDirectory() as temporary:
            everything, origins = planted(data, Path(temporary), arguments.planted)
            looked, embed_s = looked_at(everything, arguments.model)
            start, cpu = time.perf_counter(), time.process_time()
            found = clusters(looked)
            check_s, check_cpu_s = time.perf_counter() - start, time.process_time() - cpu
            clean = without(looked, origins)
            known = clusters(clean)
            print(f"\n{name}: {len(looked.data.samples):,} pictures, embedded in {embed_s:.0f} s, ", end="")
            print(f"copies in {check_s:.0f} s ({check_cpu_s:.0f} s of one core)")
            of_picture = {picture: number for number, cluster in enumerate(found) for picture in cluster}
            for kind in KINDS:
                hits = [
                    copy in of_picture and of_picture[copy] == of_picture.get(origin)
                    for copy, (origin, its_kind) in origins.items()
                    if its_kind == kind
                ]
                print(f"| {kind} | {np.mean(hits):.2f} | {len(hits)} |")
            roots = [{origins.get(picture, (picture,))[0] for picture in cluster} for cluster in found]
            new = [cluster for cluster in roots if len(cluster) > 1 and not any(cluster <= other for other in known)]
            print(f"clusters: {len(found):,}, false: {len(new)} {new}; there before: {len(known)}")
            print(*(" = ".join(sorted(cluster)) for cluster in known), sep="\n")
            print("series in the data itself:", [*check_series(clean, 0)] or "none")
            views_of, _ = looked_at(series(data, Path(temporary), arguments.objects), arguments.model)
            for how in ("obj0012_3", "running", "words", "random"):
                names = views_of.data if how == "obj0012_3" else renamed(views_of.data, how)
                findings = [*check_series(replace(views_of, data=names), 0)]
                print(f"series named {how}:", *([finding.title for finding in findings] or ["none"]))


if __name__ == "__main__":
    main()
