"""Recall and precision of the checks of files and pictures, by faults planted in copies of data sets.

    python benchmarks/check_files.py ants=FOLDER tiny:20=FOLDER [--each 5] [--time FOLDER]

A copy of each data set, as `visiontool finetune` takes it, gets each kind of fault in `--each` pictures that are drawn;
NAME:20=FOLDER copies 20 of the classes. Found are those of the fault's check; "others" are pictures that it names and
nothing was planted in, nor found in the data set before. --time embeds 10,000 pictures of FOLDER, nothing cached, and
times each check beside that.
"""

import argparse
import io
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from visiontool.checking import check
from visiontool.checking.files import check_files
from visiontool.checking.finding import Finding, Looked
from visiontool.data.dataset import read
from visiontool.data.loader import load
from visiontool.data.prepare import Recipe
from visiontool.data.samples import Dataset, without
from visiontool.images.decode import DEFAULT_LIMITS
from visiontool.inference.classifier import Classifier
from visiontool.model.spec import ModelSpec

Fault = Callable[[Image.Image], bytes]
PARTS = ("embedding", "files", "classes", "copies", "series", "labels", "outliers", "drift")


def saved(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def blurred(percent: float) -> Fault:
    """By a Gaussian of this standard deviation in percent of the short side."""
    return lambda image: saved(image.filter(ImageFilter.GaussianBlur(min(image.size) * percent / 100)), quality=90)


def levels(low: float, high: float) -> Fault:
    """All levels between two."""
    return lambda image: saved(image.point(lambda level: low + level / 255 * (high - low)), quality=90)


def turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(image.rotate(90, expand=True), exif=exif)


def deep(image: Image.Image) -> bytes:
    return saved(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "PNG")


def animated(image: Image.Image) -> bytes:
    return saved(image, "GIF", save_all=True, append_images=[image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])


FAULTS: dict[str, tuple[str, str, Fault]] = {  # the check, the extension, the file
    "0 bytes": ("empty", ".jpg", lambda image: b""),
    "JPEG cut at a half": ("truncated", ".jpg", lambda image: (data := saved(image))[: len(data) // 2]),
    "PNG cut at a half": ("truncated", ".png", lambda image: (data := saved(image, "PNG"))[: len(data) // 2]),
    "200 random bytes in the JPEG's tables": (
        "truncated",
        ".jpg",
        lambda image: (data := saved(image))[:30] + np.random.default_rng(0).bytes(200) + data[230:],
    ),
    "a web page": ("unreadable", ".jpg", lambda image: b"<!DOCTYPE html><html>404</html>"),
    "PNG named .jpg": ("extension", ".jpg", lambda image: saved(image, "PNG")),
    "JPEG named .png": ("extension", ".png", saved),
    **{f"blurred by {percent} %": ("blurred", ".jpg", blurred(percent)) for percent in (0.5, 1, 1.5, 2, 3, 5)},
    "darkened to 0-12": ("dark", ".jpg", levels(0, 12)),
    "darkened to 0-25": ("dark", ".jpg", levels(0, 25)),
    "darkened to 0-50": ("dark", ".jpg", levels(0, 50)),
    "brightened to 205-255": ("bright", ".jpg", levels(205, 255)),
    "brightened to 230-255": ("bright", ".jpg", levels(230, 255)),
    "brightened to 243-255": ("bright", ".jpg", levels(243, 255)),
    "one color": ("constant", ".jpg", lambda image: saved(Image.new("RGB", image.size, (90, 120, 30)))),
    "24 pixels": ("tiny", ".jpg", lambda image: saved(image.resize((24, 24)))),
    "4 times as wide": ("elongated", ".jpg", lambda image: saved(image.resize((4 * min(image.size), min(image.size))))),
    "36 megapixels": ("huge", ".jpg", lambda image: saved(image.resize((6000, 6000)))),
    "turned by EXIF": ("rotated", ".jpg", turned),
    "gray": ("gray", ".jpg", lambda image: saved(image.convert("L"))),
    "alpha": ("alpha", ".png", lambda image: saved(image.convert("RGBA"), "PNG")),
    "CMYK": ("cmyk", ".jpg", lambda image: saved(image.convert("CMYK"))),
    "16 bits": ("deep", ".png", deep),
    "animated": ("animated", ".gif", animated),
}


def looked_at(data: Dataset, spec: ModelSpec) -> Looked:
    """The pictures opened, and not embedded, which these checks need not."""
    recipe = Recipe.of(spec, DEFAULT_LIMITS)._replace(fingerprint=True)
    opened = [*load([sample.path for sample in data.samples], recipe)]
    errors = {one.name: picture.error for one, picture in zip(data.samples, opened, strict=True) if picture.error}
    prints = tuple(picture.fingerprint for picture in opened if picture.fingerprint is not None)
    return Looked(without(data, errors), prints, np.zeros((len(prints), 1), np.float32), errors)


def named_by(findings: list[Finding]) -> dict[str, set[str]]:
    return {finding.check: {Path(suspect.name).stem for suspect in finding.suspects} for finding in findings}


def copied(folder: Path, classes: int | None, target: Path) -> list[Path]:
    """Copies the data under file names that are not repeated, and gives the paths of the copies."""
    data, paths = read(folder), []
    for number, sample in enumerate(data.samples):
        if sample.split != "test" and (classes is None or sample.class_id < classes):
            path = target / data.labels[sample.class_id] / f"{number}{Path(sample.path).suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(Path(sample.path).read_bytes())
            paths.append(path)
    return paths


def measure(name: str, folder: Path, classes: int | None, each: int, spec: ModelSpec) -> None:
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch)
        paths = copied(folder, classes, target)
        before = named_by([*check_files(looked_at(read(target), spec), spec)])
        found_before = {check: len(names) for check, names in before.items()}
        print(f"\n{name}: {len(paths):,} pictures; found before: {found_before or 'nothing'}")
        drawn = iter(random.permutation(len(paths)).tolist())
        planted: dict[str, set[str]] = {}
        for fault, (_, extension, make) in FAULTS.items():
            for _ in range(each if fault != "36 megapixels" else 2):
                path = paths[next(drawn)]
                image = Image.open(path).convert("RGB")
                path.unlink()
                path.with_suffix(extension).write_bytes(make(image))
                planted.setdefault(fault, set()).add(path.stem)
        after = named_by([*check_files(looked_at(read(target), spec), spec)])
        print(f"{'fault':40} {'check':10} recall")
        for fault, (check, *_) in FAULTS.items():
            found = len(planted[fault] & after.get(check, set()))
            print(f"{fault:40} {check:10} {found / len(planted[fault]):6.2f}  ({found} of {len(planted[fault])})")
        print(f"{'check':10} found others precision")
        for check in dict.fromkeys(check for check, *_ in FAULTS.values()):
            right = set().union(*(planted[fault] for fault, (its, *_) in FAULTS.items() if its == check))
            names = after.get(check, set())
            others = names - right - before.get(check, set())
            if check == "gray":
                others -= planted["16 bits"]  # which are gray too
            print(
                f"{check:10} {len(names):5} {len(others):6} {1 - len(others) / max(1, len(names)):9.2f}",
                sorted(others)[:5],
            )


def measure_shortcuts(name: str, folder: Path, classes: int | None, spec: ModelSpec) -> None:
    """One class made gray, or PNG, or half as large, or dark, in a part of its pictures."""
    kinds: dict[str, tuple[str, Fault]] = {
        "gray": (".jpg", lambda image: saved(image.convert("L"))),
        "gray in RGB": (".jpg", lambda image: saved(image.convert("L").convert("RGB"), quality=90)),
        "another format": (".png", lambda image: saved(image, "PNG")),
        "one size": (".jpg", lambda image: saved(image.resize((100, 100)))),
        "darkened to 0-25": (".jpg", levels(0, 25)),
    }
    for kind, (extension, make) in kinds.items():
        for share in (0.3, 0.6, 0.9):
            with tempfile.TemporaryDirectory() as scratch:
                paths = copied(folder, classes, Path(scratch))
                chosen = [path for path in paths if path.parent == paths[0].parent]
                for path in chosen[: round(share * len(chosen))]:
                    image = Image.open(path).convert("RGB")
                    path.unlink()
                    path.with_suffix(extension).write_bytes(make(image))
                findings = check_files(looked_at(read(Path(scratch)), spec), spec)
                titles = [finding.title for finding in findings if finding.check == "shortcut"]
                print(f"{name}: {share:.0%} of one class {kind}: {titles or 'nothing'}")


def measure_time(folder: Path, count: int, classifier: Classifier) -> None:
    data = read(folder)
    indices = np.random.default_rng(0).permutation(len(data.samples))[:count]
    data = replace(data, samples=tuple(data.samples[index] for index in np.sort(indices).tolist()))
    marks: list[tuple[float, float]] = []

    def mark(stage: str = "check", done: int = 0, total: int = 0) -> None:
        if stage == "check" or not marks:
            marks.append((time.perf_counter(), sum(os.times()[:4])))

    with tempfile.TemporaryDirectory() as cache:
        os.environ["VISIONTOOL_CACHE"] = cache
        check(data, classifier, progress=mark)
    mark()
    spent = np.diff(np.array(marks), axis=0)
    print("| part | seconds | of the embedding | seconds of a processor | of the embedding |\n|---|---|---|---|---|")
    for part, (wall, cpu) in zip((*PARTS, "all checks"), (*spent, spent[1:].sum(axis=0)), strict=True):
        print(f"| {part} | {wall:.1f} | {wall / spent[0, 0]:.1%} | {cpu:.1f} | {cpu / spent[0, 1]:.1%} |")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{len(data.samples):,} pictures, at most {memory:.2f} GiB of memory")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", metavar="NAME[:CLASSES]=FOLDER")
    parser.add_argument("--each", type=int, default=5, help="pictures with each fault")
    parser.add_argument("--time", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    network = Classifier.load("efficientnet_lite0", device="cpu", threads=1)
    for argument in arguments.data:
        title, _, given = argument.partition("=")
        title, _, number = title.partition(":")
        measure(title, Path(given), int(number) if number else None, arguments.each, network.spec)
        measure_shortcuts(title, Path(given), int(number) if number else None, network.spec)
    if arguments.time:
        measure_time(arguments.time, 10_000, network)
    sys.exit()
