"""Views of pictures: what predict sees and its mirror bit for bit, and random ones that can be drawn again."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from conftest import BLUE, GREEN, RED
from PIL import Image

from visiontool import UsageError
from visiontool.images import transforms
from visiontool.images.augment import LEVELS, Augment, View, _Box, _colored, _moved, render, render_all, sheet, views

FILL = (7, 77, 177)
EACH = {"mirror": True, "crop": 0.5, "rotate": 20.0, "shift": 0.2, "zoom": 0.3, "brightness": 0.4, "contrast": 0.4,
        "color": 0.4}  # fmt: skip
ALL = Augment(**EACH)
RANDOM_ONLY = replace(ALL, mirror=False)


def fit_options(crop_mode="center", crop_pct=1.0, size=(64, 64), fill=FILL):
    return {"size": size, "crop_mode": crop_mode, "crop_pct": crop_pct, "interpolation": "bicubic", "fill": fill}


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def drawn(augment, count=60, image=None, **options):
    """Many random views of one picture, (V, H, W, 3), as whole numbers that can be subtracted."""
    image = image or noise(90, 60)
    fit = fit_options(**options)
    return np.stack([render(image, View(number, augment, 0), "a", fit) for number in range(2, count + 2)]).astype(int)


# The plain view and its mirror


@pytest.mark.parametrize("crop_mode", transforms.CROP_MODES)
@pytest.mark.parametrize(("picture", "size", "crop_pct"), [((90, 60), (64, 64), 0.875), ((31, 200), (48, 33), 1.0)])
def test_view_0_is_what_predict_sees_and_view_1_its_mirror_bit_for_bit(crop_mode, picture, size, crop_pct):
    image, options = noise(*picture), fit_options(crop_mode, crop_pct, size)
    plain = transforms.fit(image, **options)
    for augment in (ALL, LEVELS["light"]):
        first, second = (render(image, view, "a", options) for view in views(2, augment, 5))
        np.testing.assert_array_equal(first, plain)
        np.testing.assert_array_equal(second, plain[:, ::-1])


def test_views_together_are_the_views_one_by_one():
    image, options = noise(90, 60), fit_options()
    before = image.tobytes()
    plain, mirror, third, fourth = views(4, ALL, 5)
    for some in ((plain, mirror, third, fourth), (fourth, mirror)):
        together = render_all(image, some, "a", options)
        assert together.shape == (len(some), 64, 64, 3)
        for pixels, view in zip(together, some, strict=True):
            np.testing.assert_array_equal(pixels, render(image, view, "a", options))
    assert image.tobytes() == before


# Random views can be drawn again, and differ


@pytest.mark.parametrize("name", EACH)
def test_each_value_alone_changes_views_and_each_view_in_another_way(name):
    pixels = drawn(Augment(**{name: EACH[name]}), 12)
    assert len({view.tobytes() for view in pixels}) == (2 if name == "mirror" else 12)
    assert len({view.tobytes() for view in drawn(Augment(), 3)}) == 1


def test_a_key_is_all_that_a_view_depends_on():
    assert [view.key() for view in views(2, ALL, 5)] == ["plain", "mirror"]
    assert View(0, Augment(), 9).key() == "plain"
    assert View(1, LEVELS["light"], 9).key() == "mirror"
    expected = "random-1 number=2 seed=7 mirror=1.0 crop=0.5 rotate=10.0 shift=0.0 zoom=0.0"
    expected += " brightness=0.0 contrast=0.0 color=0.0"
    assert View(2, Augment(mirror=True, crop=0.5, rotate=10), 7).key() == expected
    assert View(2, Augment(mirror=True, crop=0.5, rotate=10.0), 7).key() == expected
    assert set(EACH) == {field.name for field in fields(Augment)}
    augments = [ALL, RANDOM_ONLY, *(replace(RANDOM_ONLY, **{name: 0.123}) for name in EACH if name != "mirror")]
    keys = {View(number, augment, seed).key() for augment in augments for number in (2, 3) for seed in (0, 1)}
    assert len(keys) == 4 * len(augments)


# What is drawn: values as torchvision's transforms take them


def ramps(width, height):
    """Red goes from 0 on the left to 255 on the right, green from the top to the bottom."""
    pixels = np.zeros((height, width, 3))
    pixels[..., 0] = np.linspace(0, 255, width)
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels.round().astype(np.uint8))


def shown_shares(view):
    """Which shares of the width and height of `ramps` a view shows."""
    shown = view[(view != FILL).any(axis=-1)]
    return [(shown[:, channel].max() - shown[:, channel].min() + 4) / 255 for channel in (0, 1)]


@pytest.mark.parametrize("crop_mode", transforms.CROP_MODES)
def test_a_crop_keeps_the_share_of_the_area_and_nearly_the_proportions(crop_mode):
    seen = drawn(Augment(crop=0.3), 120, ramps(200, 125), crop_mode=crop_mode, crop_pct=0.8)
    shares, proportions = [], []
    for view in seen:
        wide, high = shown_shares(view)
        shares.append(wide * high)
        proportions.append(wide / high * (400 / 250 if crop_mode == "center" else 1))
    assert 0.28 < min(shares) < 0.4
    assert max(shares) > 0.75
    if crop_mode != "center":  # the biggest box of 4 to 3 that the picture has room for is 83 % of it
        assert max(shares) > 0.95
        assert np.mean(shares) == pytest.approx(0.59, abs=0.04)  # 0.3 to 1, but many a big box does not fit
    assert 0.72 < min(proportions) < 0.8
    assert 1.25 < max(proportions) < 1.38
    is_filled = (seen == FILL).all(axis=-1)
    assert is_filled.any() == (crop_mode == "border")


def square(left, top, side=12):
    """White, of `side` pixels, on a black picture of 120 x 120, which is then seen at 60 x 60."""
    pixels = np.zeros((120, 120, 3), np.uint8)
    pixels[top : top + side, left : left + side] = 255
    return Image.fromarray(pixels)


def squares_seen(augment, image):
    """Center (x, y) from the middle and area of the white square in each view, in pixels of the picture."""
    red = drawn(augment, 100, image, size=(60, 60), crop_mode="squash", fill=(0, 0, 0))[..., 0]
    weights = red / red.sum(axis=(1, 2), keepdims=True)
    places = (np.arange(60) + 0.5) * 2 - 60
    xs, ys = (weights * places).sum(axis=(1, 2)), (weights * places[:, None]).sum(axis=(1, 2))
    return np.stack([xs, ys], axis=1), red.sum(axis=(1, 2)) / 255 * 4


def test_rotation_shift_and_zoom_go_to_either_side():
    centers, areas = squares_seen(Augment(rotate=30.0), square(84, 54))  # 30 pixels right of the middle
    angles = np.degrees(np.arctan2(centers[:, 1], centers[:, 0]))
    assert -31 < angles.min() < -24 < 24 < angles.max() < 31
    np.testing.assert_allclose(np.hypot(*centers.T), 30, atol=0.5)
    np.testing.assert_allclose(areas, 144, rtol=0.05)
    centers, areas = squares_seen(Augment(shift=0.25), square(54, 54))
    for places in centers.T:
        assert -30.5 < places.min() < -25 < 25 < places.max() < 30.5
    assert abs(np.corrcoef(*centers.T)[0, 1]) < 0.4
    np.testing.assert_allclose(areas, 144, rtol=0.05)
    centers, areas = squares_seen(Augment(zoom=0.4), square(54, 54))
    sides = np.sqrt(areas) / 12
    assert 0.57 < sides.min() < 0.66 < 1.34 < sides.max() < 1.43
    np.testing.assert_allclose(centers, 0, atol=0.5)


def test_colors_go_to_either_side():
    gray = Image.new("RGB", (9, 9), (120, 120, 120))
    levels = drawn(Augment(brightness=0.25), 100, gray)
    assert 90 <= levels.min() <= 93 < 147 <= levels.max() <= 150
    assert (drawn(Augment(contrast=0.25, color=0.25), 20, gray) == 120).all()  # one gray has neither
    halves = np.zeros((8, 8, 3), np.uint8)
    halves[:4], halves[4:] = 100, 200  # their mean is 150
    seen = drawn(Augment(contrast=0.5), 100, Image.fromarray(halves), size=(8, 8))
    assert 125 - 1 <= seen.max(axis=(1, 2, 3)).min() - 50 <= 132  # 150 + 50 * 0.5, and a little more
    assert 220 <= seen.max() <= 225  # 150 + 50 * 1.5
    np.testing.assert_allclose(seen.max(axis=(1, 2, 3)) + seen.min(axis=(1, 2, 3)), 300, atol=1)
    reds = drawn(Augment(color=0.5), 100, Image.new("RGB", (8, 8), (150, 100, 100)), size=(8, 8))
    spread = reds[:, 0, 0, 0] - reds[:, 0, 0, 1]
    assert 25 <= spread.min() <= 28  # 50 levels apart, times 0.5 to 1.5
    assert 72 <= spread.max() <= 75


class Drawn:
    """Draws what it is told to, as shares of each range."""

    def __init__(self, *shares):
        self._shares = list(shares)

    def uniform(self, low, high):
        return low + (high - low) * self._shares.pop(0)


@pytest.mark.slow  # torchvision
def test_with_the_same_numbers_torchvision_gives_the_same_bytes():
    from torchvision.transforms.v2 import InterpolationMode, functional

    image = noise(120, 80)
    augment, draw = Augment(rotate=30.0, shift=0.1, zoom=0.2), Drawn(0.8, 0.75, 0.75, 0.25)
    ours = _moved(image, _Box(0, 0, 120, 80), 1, augment, draw, Image.Resampling.BILINEAR, FILL)
    options = {"shear": [0.0, 0.0], "interpolation": InterpolationMode.BILINEAR, "fill": list(FILL)}
    theirs = functional.affine(image, angle=18.0, scale=1.1, translate=[6, -4], **options)
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    colored = _colored(np.asarray(image), Augment(brightness=0.4, contrast=0.2, color=0.1), Drawn(0.75, 0.0, 1.0))
    brighter = functional.adjust_contrast(functional.adjust_brightness(image, 1.2), 0.8)
    np.testing.assert_array_equal(colored, np.asarray(functional.adjust_saturation(brighter, 1.1)))


# The parts of a picture, and its size


@pytest.mark.parametrize("crop_mode", transforms.CROP_MODES)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 5000), (5000, 1), (1600, 1200)])
def test_pictures_of_any_size_have_views(crop_mode, size):
    image = Image.new("RGB", size, RED)
    options = fit_options(crop_mode, 0.875, (64, 48))
    heavy = replace(LEVELS["heavy"], shift=0.1, zoom=0.2)
    for augment in (LEVELS["medium"], replace(heavy, crop=1.0), replace(heavy, crop=0.01)):
        for view in views(4, augment, 0)[2:]:
            pixels = render(image, view, "a", options)
            assert (pixels.shape, pixels.dtype) == ((64, 48, 3), np.uint8)
    pixels = render(image, View(1, Augment(crop=0.5), 0), "a", options)
    assert (pixels == RED).all(axis=-1).any()


# What may be asked for


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: views(0, ALL, 0), "0 views.*at least 1"),
        (lambda: views(2, Augment(), 0), "2 views.*would all be the same.*choose an augmentation"),
        (lambda: views(3, LEVELS["light"], 0), "(?s)3 views.*there are 2.*another augmentation"),
        (lambda: Augment(crop=0.0), "^crop 0 is out of range: it goes from 0.01 to 1$"),
        (lambda: Augment(rotate=181.0), "^rotate 181 is out of range: it goes from 0 to 180$"),
        (lambda: Augment(shift=-0.1), "^shift -0.1 is out of range: it goes from 0 to 1$"),
        (lambda: Augment(zoom=1.0), "^zoom 1 is out of range: it goes from 0 to 0.9$"),
        (lambda: Augment(color=math.nan), "^color nan is out of range: it goes from 0 to 1$"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()


# The sheet


def one_color(color, size=(64, 64)):
    return np.full((*size, 3), color, np.uint8)


def test_a_sheet_has_a_row_for_each_picture_and_a_column_for_each_view():
    rows = [("a.jpg", [one_color(RED), one_color(GREEN)]), ("b.jpg", [one_color(BLUE, (500, 500)), one_color(RED)])]
    pixels = np.asarray(sheet(rows, ["plain", "mirror"]))
    assert pixels.shape == (8 + 20 + 2 * (20 + 160 + 8), 2 * (160 + 8) + 8, 3)
    for row, top in enumerate((48, 236)):
        for column, left in enumerate((8, 176)):
            assert (pixels[top : top + 160, left : left + 160] == rows[row][1][column][0, 0]).all()
        assert (pixels[top - 20 : top] < 128).any()  # its caption, in black
    assert (pixels[8:28, 8:168] < 200).any()
    assert (pixels[8:28, 176:] < 200).any()
