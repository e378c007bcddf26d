"""A folder of everything odd: each thing in it is read or refused, soon, in words, and in silence."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from oddities import ERROR, OK, good_pictures, make_oddities
from pictures import BLUE, GREEN, RED, WHITE, outcome_of, written
from PIL import Image

from visiontool.images.decode import open_image

# Pillow warns of odd metadata; the command line silences it the same way.
pytestmark = pytest.mark.filterwarnings(r"ignore::UserWarning:PIL")

# libtiff writes to the process's stderr itself, and Pillow does not stop it.
NOISY = {"no_strips.tif"}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("odd")
    expected = make_oddities(folder)
    yield folder, expected
    for name in ("closed", "no_permission.png"):  # so that the folder can be taken away
        if (folder / name).exists():
            os.chmod(folder / name, 0o700)


def test_everything_odd_is_read_or_refused_soon_in_words_and_in_silence(odd, capfd):
    folder, expected = odd
    wrong = {}
    for name, status in expected.items():
        start = time.perf_counter()
        outcome = outcome_of(os.path.join(folder, name))
        seconds, noise = time.perf_counter() - start, capfd.readouterr()
        said = outcome if isinstance(outcome, str) else " ".join(outcome.notes)
        if (
            isinstance(outcome, str) != (status == ERROR)
            or seconds > 10
            or (noise != ("", "") and name not in NOISY)
            or not said.isprintable()
            or len(said) > 300
        ):
            wrong[name] = (status, seconds, noise, said)
    assert wrong == {}
    assert {OK, ERROR} == set(expected.values())
    assert len(expected) > 120


def test_good_oddities_are_read_as_what_they_show(tmp_path):
    good = good_pictures()
    for name in ("png_called.jpg", "avif_called.jpg", "junk_behind_its_end.jpg", "broken_exif.webp", "bare.j2k"):
        picture = open_image(written(tmp_path, name, good[name]))
        colors = np.asarray(picture.image, int)[4::8, 4::8]
        assert np.abs(colors - [[RED, GREEN], [BLUE, WHITE]]).max() <= 30, name
    upside_down = open_image(written(tmp_path, "a.jpg", good["upside_down.jpg"]))
    assert min(upside_down.image.getpixel((4, 4))) > 230


# Every mode in every format that can hold it

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")
MODES = ("1", "L", "P", "RGB", "RGBA", "RGBX", "RGBa", "LA", "La", "PA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16")
COMPRESSIONS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group3", "group4", "lzma", "zstd")


def test_every_mode_in_every_format_is_read(tmp_path, capfd):
    gray = Image.linear_gradient("L").resize((32, 32))
    between = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}
    read = 0
    for mode in MODES:
        image = gray.convert(between.get(mode, "L")).convert(mode)
        for format in FORMATS:
            for option in [{"compression": kind} for kind in COMPRESSIONS] if format == "TIFF" else [{}]:
                path = tmp_path / f"{mode}.{format}"
                try:
                    image.save(path, format, **option)
                except (OSError, KeyError, ValueError, AttributeError, RuntimeError):
                    continue
                picture = open_image(path)
                assert (picture.image.mode, picture.image.size) == ("RGB", (32, 32)), (mode, format, option)
                read += 1
                if mode not in ("1", "I", "F", "I;16"):  # these are not gray from 0 to 255
                    seen = np.asarray(picture.image, int)
                    assert np.abs(seen - np.asarray(gray, int)[..., None]).max() <= 40, (mode, format, option)
    assert read > 100
