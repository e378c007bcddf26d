"""Same pictures are found again however they were saved, and different ones are kept apart."""

import io

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageFilter, ImageOps

from visiontool.data.discover import find_images
from visiontool.images.decode import open_image
from visiontool.images.fingerprint import fingerprint_of, same


def photo(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """Something with as few sharp edges as a photograph has, and a little noise."""
    rng = np.random.default_rng(seed)
    soft = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = rng.integers(-8, 9, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(soft, np.int16) + noise, 0, 255).astype(np.uint8))


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def test_a_fingerprint_has_size_pixels_and_gray_levels():
    image = Image.new("RGB", (32, 48), (100, 100, 100))
    image.paste((200, 200, 200), (16, 0, 32, 48))
    one = fingerprint_of(image)
    assert (one.width, one.height) == (32, 48)
    assert len(one.pixels) == 32
    rows = np.frombuffer(one.thumbnail, np.uint8).reshape(16, 16)
    assert rows[:, 0].tolist() == [100] * 16
    assert rows[:, 15].tolist() == [200] * 16
    assert one == fingerprint_of(image.copy())
    assert fingerprint_of(Image.new("RGB", (9, 9), (10, 20, 30))).color == bytes((10, 20, 30))


def test_the_same_thing_in_another_color_is_another_picture():
    image = photo(1)
    gray = image.convert("L").point(lambda value: value // 2)
    tints = [Image.new("RGB", image.size, tint) for tint in ((100, 0, 0), (0, 0, 100), (0, 100, 0))]
    dyed = [ImageChops.add(Image.merge("RGB", (gray, gray, gray)), tint) for tint in tints]
    pictures = [*dyed, as_jpeg(ImageOps.mirror(dyed[0]), 60)]
    assert same([fingerprint_of(picture) for picture in pictures]) == [0, 1, 2, 0]


def test_sharpness_is_of_what_is_shown_and_not_of_its_resolution_or_contrast():
    image = Image.new("RGB", (512, 512), (90, 60, 30))
    image.paste((200, 180, 160), (100, 100, 300, 400))
    blurred = image.filter(ImageFilter.GaussianBlur(10))
    pale = image.point(lambda level: 100 + level // 4)
    sharp, *others = (fingerprint_of(one).sharpness for one in (image, image.resize((256, 256)), pale))
    assert others == pytest.approx([sharp, sharp], rel=0.25)
    assert fingerprint_of(blurred).sharpness < sharp / 3
    assert fingerprint_of(Image.new("RGB", (9, 9), (10, 20, 30))).sharpness == 0


@pytest.mark.parametrize(
    "copy",
    [
        pytest.param(lambda image: as_jpeg(image, 60), id="re-encoded"),
        pytest.param(ImageOps.mirror, id="mirrored"),
        pytest.param(lambda image: image.resize((64, 64)), id="squashed"),
        pytest.param(lambda image: as_jpeg(ImageOps.mirror(image.resize((108, 81))), 60), id="all of it"),
        pytest.param(lambda image: image.point(lambda level: level * 0.8), id="darker"),
    ],
)
def test_a_copy_is_found_among_other_pictures(copy):
    images = [photo(seed) for seed in range(30)]
    groups = same([fingerprint_of(image) for image in [*images, *map(copy, images)]])
    assert groups == [*range(30), *range(30)]


def test_more_than_fifty_that_all_look_the_same_are_told_by_their_pixels():
    """As with a camera that never moves, where whole classes would be one group."""
    scene = np.asarray(photo(1), np.int16)
    rng = np.random.default_rng(0)
    frames = [
        fingerprint_of(Image.fromarray(np.clip(scene + rng.integers(-3, 4, scene.shape), 0, 255).astype(np.uint8)))
        for _ in range(51)
    ]
    assert same(frames) == list(range(51))
    assert same([*frames, frames[7]])[-1] == 7
    assert set(same(frames[:50])) == {0}


@pytest.mark.real
def test_real_photographs_are_all_different_and_their_copies_are_found(shared):
    images = [open_image(file).image for file in find_images([str(shared / "data" / "photos")])]
    fingerprints = [fingerprint_of(image) for image in images]
    copies = [fingerprint_of(as_jpeg(ImageOps.mirror(image), 60)) for image in images]
    assert len(images) >= 100
    assert same([*fingerprints, *copies]) == [*range(len(images)), *range(len(images))]
