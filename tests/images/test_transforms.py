import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from visiontool.errors import PictureError, UsageError
from visiontool.images.transforms import CROP_MODES, INTERPOLATIONS, fit, fit_to_spec, resize_to, to_tensor
from visiontool.model.spec import InputSpec, ModelSpec

MEAN, FILL = (0.485, 0.456, 0.406), (124, 116, 104)  # 255 * MEAN = 123.7, 116.3, 103.5


def columns(*values: int, height: int) -> Image.Image:
    """A picture whose columns have these gray values."""
    row = np.array(values, np.uint8)
    return Image.fromarray(np.broadcast_to(row[None, :, None], (height, len(values), 3)).copy())


def red_of(pixels: np.ndarray) -> list[list[int]]:
    return pixels[..., 0].tolist()


def test_a_picture_of_the_right_size_is_not_changed():
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(noise)
    for crop_mode in CROP_MODES:
        pixels = fit(image, (6, 8), crop_mode=crop_mode)
        assert (pixels.dtype, pixels.shape) == (np.uint8, (6, 8, 3))
        assert (pixels == noise).all()
    pixels[...] = 0
    assert (np.asarray(image) == noise).all()


def test_center_cuts_off_what_sticks_out():
    assert red_of(fit(columns(0, 10, 20, 30, 40, 50, height=2), (2, 2))) == [[20, 30], [20, 30]]
    # One pixel too many: half a pixel is rounded to the even side, so that the last column goes, then the first.
    assert red_of(fit(columns(0, 10, 20, height=2), (2, 2))) == [[0, 10]] * 2
    assert red_of(fit(columns(0, 10, 20, 30, 40, height=2), (2, 2))) == [[20, 30]] * 2


def test_border_fills_what_the_picture_leaves_free():
    pixels = fit(columns(7, 7, 7, 7, height=1), (4, 4), crop_mode="border", fill=(1, 2, 3))
    assert pixels[1].tolist() == [[7, 7, 7]] * 4
    assert (pixels[[0, 2, 3]] == (1, 2, 3)).all()


@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("size", [(1, 500), (500, 1), (1, 1), (2, 3)])
def test_odd_pictures_get_the_size_too(size, crop_mode):
    pixels = fit(Image.new("RGB", size, (9, 9, 9)), (32, 48), crop_mode=crop_mode, fill=(1, 1, 1))
    assert pixels.shape == (32, 48, 3)
    assert (pixels[16, 24] == 9).all() or crop_mode == "border"
    assert (pixels == 9).any()


def test_a_picture_too_elongated_for_a_center_crop_is_refused():
    image = Image.new("RGB", (1, 100_000))
    with pytest.raises(PictureError) as caught:
        fit(image, (224, 224))
    assert str(caught.value) == (
        "1x100000 pixels is too elongated for the crop mode 'center': it would have to be resized to 224x22400000."
        " Use 'border' or 'squash'."
    )
    assert fit(image, (224, 224), crop_mode="squash").shape == (224, 224, 3)


def test_unknown_words_are_named():
    image = Image.new("RGB", (4, 4))
    with pytest.raises(UsageError, match=r"^crop mode 'middle' is unknown: it is one of center, border, squash$"):
        fit(image, (2, 2), crop_mode="middle")
    known = "nearest, bilinear, bicubic, lanczos, box, hamming"
    with pytest.raises(UsageError, match=f"^interpolation 'random' is unknown: it is one of {known}$"):
        fit(image, (2, 2), interpolation="random")


def test_resize_to_is_the_short_side_before_the_crop():
    assert resize_to((224, 224), 0.875, "center") == 256
    assert resize_to((224, 224), 0.95, "squash") == 235
    assert resize_to((224, 192), 1.0, "center") == 224
    assert resize_to((224, 192), 1.0, "squash") == 224
    assert resize_to((224, 192), 1.0, "border") == 192


def test_fit_gives_the_pixels_of_timm():
    factory = pytest.importorskip("timm.data.transforms_factory")
    randomly, noise = random.Random(0), np.random.default_rng(0)
    compared = 0
    while compared < 100:
        width, height = randomly.choice([(randomly.randint(1, 300), randomly.randint(1, 300)), (3, 500), (200, 200)])
        side = randomly.randint(1, 128)
        size = randomly.choice([(side, side), (side, randomly.randint(1, 128))])
        crop_mode, interpolation = randomly.choice(CROP_MODES), randomly.choice(INTERPOLATIONS)
        crop_pct = randomly.choice([1.0, 0.965, 0.95, 0.9, 0.875, 0.8, 0.5])
        image = Image.fromarray(noise.integers(0, 256, (height, width, 3), np.uint8))
        transform = factory.transforms_imagenet_eval(
            size, crop_pct=crop_pct, crop_mode=crop_mode, interpolation=interpolation, mean=MEAN, normalize=False
        )
        try:
            expected = transform(image).permute(1, 2, 0).numpy()
        except ValueError:  # An edge of 0 pixels, which timm cannot resize to.
            continue
        pixels = fit(image, size, crop_mode=crop_mode, crop_pct=crop_pct, interpolation=interpolation, fill=FILL)
        case = f"{width}x{height} {size} {crop_mode} {crop_pct} {interpolation}"
        np.testing.assert_array_equal(pixels, expected, case)
        compared += 1


def test_fit_to_spec_takes_everything_from_the_spec():
    options = {"crop_mode": "border", "crop_pct": 0.5, "interpolation": "box"}
    given = InputSpec(size=(6, 8), mean=(0.2, 0.4, 0.6), std=(1.0, 1.0, 1.0))
    spec = ModelSpec(name="m", labels=("a",), input=given, **options)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 40, 3), np.uint8))
    pixels = fit_to_spec(picture, spec)
    assert (pixels == fit(picture, (6, 8), **options, fill=(51, 102, 153))).all()
    for change in ({"crop_mode": "squash"}, {"crop_pct": 1.0}, {"interpolation": "lanczos"}):
        assert (pixels != fit_to_spec(picture, replace(spec, **change))).any(), change
    gray = replace(spec, crop_pct=1.0, input=replace(spec.input, mean=(0.2,), std=(1.0,)))
    assert fit_to_spec(picture, gray)[0, 0].tolist() == [51, 51, 51]


PIXELS = np.array([[[[255, 51, 0], [0, 102, 255]]]], np.uint8)  # (1, 1, 2, 3)


def input_spec(**changes):
    return replace(InputSpec(size=(1, 2), mean=(0.0,), std=(1.0,)), **changes)


def test_the_tensor_of_our_own_graphs_is_the_pixels():
    assert to_tensor(PIXELS, input_spec()).tolist() == PIXELS.tolist()


def test_a_float_graph_of_another_tool_gets_scaled_and_normalized_planes():
    tensor = to_tensor(PIXELS, input_spec(dtype="float32", layout="NCHW", mean=(0.5, 0.2, 0.0), std=(0.5, 0.1, 1.0)))
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    np.testing.assert_allclose(tensor, [[[[1.0, -1.0]], [[0.0, 2.0]], [[0.0, 1.0]]]], atol=1e-6)
    assert to_tensor(PIXELS, input_spec(dtype="float16", layout="NCHW")).dtype == np.float16


def test_gray_is_the_luma_of_the_colors():
    # 0.299 * 255 + 0.587 * 51 = 106.2; 0.587 * 102 + 0.114 * 255 = 88.9
    assert to_tensor(PIXELS, input_spec(color="L")).tolist() == [[[[106], [89]]]]
    scaled = to_tensor(PIXELS, input_spec(color="L", dtype="float32", layout="NCHW"))
    np.testing.assert_allclose(scaled, [[[[106.182 / 255, 88.944 / 255]]]], atol=1e-5)
