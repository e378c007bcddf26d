"""Copies are found however they were made, told by what they spoil; different pictures are not called copies."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from visiontool.checking.copies import check_copies
from visiontool.checking.finding import Looked
from visiontool.data.samples import Dataset, Sample
from visiontool.images.fingerprint import fingerprint_of


def photo(seed: int) -> Image.Image:
    """Something with structure of several sizes, as a photograph has."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(rng.normal(0, 1, (n, n, 3)).astype(np.float32)[..., c]).resize((160, 120), 3))
        for c in range(3)
        for n in (4, 12, 40)
    ]
    levels = np.stack([sum(layers[3 * c : 3 * c + 3]) for c in range(3)], axis=-1)
    return Image.fromarray(np.clip(128 + 40 * levels, 0, 255).astype(np.uint8))


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def crop(image: Image.Image, area: float) -> Image.Image:
    width, height = (round(side * area**0.5) for side in image.size)
    return image.crop((9, 11, 9 + width, 11 + height))


def looked_at(folder: Path, pictures: list[tuple[Image.Image, int, str | None, int]]) -> Looked:
    """Of pictures with class, split, and a number: the embeddings of those with the same one are near."""
    samples, rng = [], np.random.default_rng(0)
    for index, (image, class_id, split, _) in enumerate(pictures):
        image.save(folder / f"{index}.png")
        samples.append(Sample(str(folder / f"{index}.png"), f"{index}.png", class_id, split, None))
    centers = rng.normal(size=(max(number for *_, number in pictures) + 1, 8))
    embeddings = np.array([centers[number] + rng.normal(scale=0.1, size=8) for *_, number in pictures], np.float32)
    data = Dataset(folder, ("a", "b"), None, tuple(samples), {}, (), ())
    return Looked(data, tuple(fingerprint_of(image) for image, *_ in pictures), embeddings, {})


CHANGES = {
    "re-encoded": lambda image: as_jpeg(image, 40),
    "smaller and mirrored": lambda image: as_jpeg(ImageOps.mirror(image.resize((80, 60))), 70),
    "cropped": lambda image: as_jpeg(crop(image, 0.7), 80),
    "cropped to half": lambda image: as_jpeg(crop(image, 0.5), 80),
    "cropped and mirrored": lambda image: as_jpeg(ImageOps.mirror(crop(image, 0.7)), 60),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_copies_in_another_split_are_a_leak(tmp_path, change):
    images = [photo(seed) for seed in range(12)]
    pictures = [(image, number % 2, "train", number) for number, image in enumerate(images)]
    pictures += [(change(image), number % 2, "val", number) for number, image in enumerate(images[:10])]
    (finding,) = check_copies(looked_at(tmp_path, pictures))
    assert (finding.check, finding.severity) == ("leak", "serious")
    assert finding.title == "10 pictures of val have copies in train"
    clusters: dict[int | None, set[str]] = {}
    for suspect in finding.suspects:
        clusters.setdefault(suspect.cluster, set()).add(suspect.name)
    assert sorted(map(sorted, clusters.values())) == sorted(sorted([f"{n}.png", f"{n + 12}.png"]) for n in range(10))
    assert all(0.8 < suspect.score <= 1 for suspect in finding.suspects)


def test_copies_with_other_labels_are_serious_and_others_are_noted(tmp_path):
    one, other = photo(1), photo(2)
    pictures = [(one, 0, None, 1), (crop(one, 0.7), 1, None, 1), (other, 0, None, 2), (other, 0, None, 2)]
    conflict, copies = check_copies(looked_at(tmp_path, pictures))
    assert (conflict.check, conflict.severity) == ("conflict", "serious")
    assert [(suspect.name, suspect.reason) for suspect in conflict.suspects] == [
        ("0.png", "the largest of 2 copies"),
        ("1.png", "cropped copy of 0.png"),
    ]
    assert copies.title == "1 picture is a copy of another"
    assert copies.suspects[1].reason == "same pixels as 2.png"


def test_few_copies_are_a_note(tmp_path):
    pictures = [(photo(0).resize((20, 15)), 0, None, 0)] * 2
    pictures += [(photo(seed).resize((20, 15)), 0, None, seed) for seed in range(1, 130)]
    assert [finding.severity for finding in check_copies(looked_at(tmp_path, pictures))] == ["note"]


def test_different_pictures_are_no_copies_however_near_their_embeddings(tmp_path):
    pictures = [(photo(seed), seed % 2, ("train", "val", "test")[seed % 3], 0) for seed in range(20)]
    assert check_copies(looked_at(tmp_path, pictures)) == []
    assert check_copies(looked_at(tmp_path, pictures[:1])) == []
