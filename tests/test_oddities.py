"""A folder of everything odd: each thing in it is read or refused, soon, in words, and in silence."""

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from oddities import ERROR, OK, broken_pictures, good_pictures, make_oddities, plain_pictures
from pictures import BLUE, GREEN, RED, WHITE, outcome_of, pixels, written
from PIL import Image, features

from visiontool.images import Picture, open_image

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


def test_everything_odd_at_once_is_the_same(odd):
    folder, expected = odd
    paths = [os.path.join(folder, name) for name in expected]
    one_by_one = [content(outcome_of(path)) for path in paths]
    with ThreadPoolExecutor(4) as pool:
        assert [content(outcome) for outcome in pool.map(outcome_of, paths)] == one_by_one
    assert [ERROR if isinstance(outcome, str) else OK for outcome in one_by_one] == list(expected.values())


def content(outcome: Picture | str) -> tuple[bytes, tuple[str, ...]] | str:
    return outcome if isinstance(outcome, str) else (outcome.image.tobytes(), outcome.notes)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may become somebody else")
def test_what_may_not_be_read_is_named_so_for_a_normal_user():
    program = """
import os, sys
from PIL import PngImagePlugin  # while all may be read
from visiontool.errors import PictureError
from visiontool.images import open_image
os.setgid(65534); os.setuid(65534)
for path in sys.argv[1:]:
    try:
        print(open_image(path).image.size)
    except PictureError as error:
        print(error)
"""
    with tempfile.TemporaryDirectory() as folder:  # Those above pytest's own are closed to others.
        os.chmod(folder, 0o755)
        make_oddities(Path(folder))
        paths = [f"{folder}/{name}" for name in ("no_permission.png", "closed", "closed/inside.png", "a.png")]
        ran = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True)
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [
        "no permission to read it",
        "is a folder that cannot be read",
        "no permission to read it",
        "(16, 16)",
    ]


def test_good_oddities_are_read_as_what_they_show(tmp_path):
    good = good_pictures()
    for name in ("png_called.jpg", "avif_called.jpg", "junk_behind_its_end.jpg", "broken_exif.webp", "bare.j2k"):
        picture = open_image(written(tmp_path, name, good[name]))
        colors = np.asarray(picture.image, int)[4::8, 4::8]
        assert np.abs(colors - [[RED, GREEN], [BLUE, WHITE]]).max() <= 30, name
    upside_down = open_image(written(tmp_path, "a.jpg", good["upside_down.jpg"]))
    assert min(upside_down.image.getpixel((4, 4))) > 230


def test_pictures_are_the_same_each_time():
    for make in (plain_pictures, good_pictures, broken_pictures):
        first, second = make(), make()
        names = {name for name in first if not name.endswith((".heic", ".avif"))}
        assert {name: first[name] for name in names} == {name: second[name] for name in names}
    assert sum(map(len, broken_pictures().values())) < 500_000


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


def test_what_this_test_relies_on_is_built_in():
    assert all(features.check(name) for name in ("jpg", "zlib", "webp", "avif", "libtiff", "jpg_2000", "littlecms2"))
    assert pixels(Picture(Image.new("RGB", (1, 1)))) == [[(0, 0, 0)]]
