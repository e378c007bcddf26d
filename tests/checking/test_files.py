"""Faults that are planted among photographs are found, each by its check, and clean pictures give no finding."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from visiontool.checking.files import check_files
from visiontool.checking.finding import Finding, Looked
from visiontool.data.dataset import read
from visiontool.data.samples import without
from visiontool.errors import PictureError
from visiontool.images.decode import open_image
from visiontool.images.fingerprint import fingerprint_of
from visiontool.model.spec import InputSpec, ModelSpec

SPEC = ModelSpec(name="m", labels=("a",), input=InputSpec(size=(96, 96), mean=(0.5,), std=(0.5,)), crop_pct=0.875)


def photo(seed: int, size: tuple[int, int] = (128, 96)) -> Image.Image:
    """Sharp rectangles of many colors."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", size, tuple(random.integers(60, 200, 3).tolist()))
    for _ in range(40):
        left, top = random.integers(0, 100, 2).tolist()
        image.paste(tuple(random.integers(0, 256, 3).tolist()), (left, top, left + 20, top + 14))
    return image


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def found(root: Path, change: Callable[[str, int], tuple[str, bytes]] | None = None, spec: ModelSpec = SPEC):
    """The findings about 12 photographs each of ants and bees, of which `change` gives the names and files."""
    for seed in range(24):
        label = "ants" if seed < 12 else "bees"
        name, data = f"{seed}.png", saved(photo(seed))
        if change is not None:
            name, data = change(label, seed) or (name, data)
        (root / label).mkdir(exist_ok=True)
        (root / label / name).write_bytes(data)
    return findings_of(root, spec)


def findings_of(root: Path, spec: ModelSpec = SPEC) -> dict[str, Finding]:
    data, prints, errors = read(root), [], {}
    for sample in data.samples:
        try:
            prints.append(fingerprint_of(open_image(sample.path).image))
        except PictureError as error:
            errors[sample.name] = str(error)
    looked = Looked(without(data, errors), tuple(prints), np.zeros((len(prints), 1), np.float32), errors)
    return {finding.check: finding for finding in check_files(looked, spec)}


def test_clean_pictures_give_nothing(tmp_path):
    assert found(tmp_path) == {}


EXIF = Image.Exif()
EXIF[0x0112] = 6


@pytest.mark.parametrize(
    ("check", "severity", "name", "data", "reason"),
    [
        ("empty", "serious", "x.png", b"", "file is empty (0 bytes)"),
        ("truncated", "serious", "x.png", saved(photo(3))[:500], "truncated or damaged"),
        ("unreadable", "serious", "x.png", b"<!DOCTYPE html><html>", "is a web page (HTML)"),
        ("extension", "note", "x.jpg", saved(photo(3)), "Png"),
        ("rotated", "note", "x.jpg", saved(photo(3), "JPEG", quality=95, exif=EXIF), "rotated"),
        ("rotated", "note", "x.png", saved(photo(3), exif=EXIF), "rotated"),
        ("gray", "note", "x.png", saved(photo(3).convert("L")), "gray"),
        ("alpha", "note", "x.png", saved(photo(3).convert("RGBA")), "alpha"),
        ("cmyk", "note", "x.jpg", saved(photo(3).convert("CMYK"), "JPEG"), "cmyk"),
        ("deep", "note", "x.png", saved(Image.fromarray(np.asarray(photo(3).convert("L")) * np.uint16(257))), "deep"),
        ("animated", "note", "x.gif", saved(photo(3), "GIF", save_all=True, append_images=[photo(4)]), "animated"),
        ("constant", "warning", "x.png", saved(Image.new("RGB", (128, 96), (90, 90, 90))), "all 90 of 255"),
        ("dark", "warning", "x.png", saved(photo(3).point(lambda level: level // 10)), "hardly above "),
        ("bright", "warning", "x.png", saved(photo(3).point(lambda level: 240 + level // 17)), "hardly below 24"),
        ("blurred", "warning", "x.png", saved(photo(3).filter(ImageFilter.GaussianBlur(4))), "sharpness 0."),
        ("tiny", "warning", "x.png", saved(photo(3).resize((30, 20))), "30x20"),
        ("elongated", "warning", "x.png", saved(photo(3).resize((480, 96))), "480x96, of which 16% is seen"),
        ("huge", "note", "x.png", saved(Image.new("1", (5200, 5200))), "5200x5200"),
    ],
)
def test_a_planted_fault_is_found(tmp_path, check, severity, name, data, reason):
    findings = found(tmp_path, lambda label, seed: (name, data) if seed == 3 else None)
    finding = findings.pop(check)
    (suspect,) = finding.suspects
    assert (finding.severity, suspect.name, finding.title.split()[0]) == (severity, f"ants/{name}", "1")
    assert suspect.reason.startswith(reason)
    assert 0 < suspect.score <= 1
    assert findings.keys() <= {"gray"} if check == "deep" else findings.keys() <= {"gray", "constant"}


def test_what_the_dataset_is_like_is_no_outlier(tmp_path):
    def dark_or_soft(label, seed):
        image = photo(seed).filter(ImageFilter.GaussianBlur(4)) if label == "bees" else photo(seed)
        return f"{seed}.png", saved(image.resize((24, 20)).convert("L").point(lambda level: level // 8))

    assert [*found(tmp_path, dark_or_soft)] == ["gray"]


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("Being gray or not", lambda seed: ("png", saved(photo(seed).convert("L").convert("RGB")))),
        ("The file format", lambda seed: ("bmp", saved(photo(seed), "BMP"))),
        ("The size in pixels", lambda seed: ("png", saved(photo(seed, (120, 100))))),
        ("Brightness", lambda seed: ("png", saved(photo(seed).point(lambda level: level // 8)))),
    ],
)
def test_what_tells_a_class_without_a_look_at_the_thing_is_a_shortcut(tmp_path, what, change):
    def of_bees(label, seed):
        extension, data = change(seed)
        return (f"{seed}.{extension}", data) if label == "bees" and seed != 20 else None

    finding = found(tmp_path, of_bees)["shortcut"]
    assert (finding.severity, finding.suspects) == ("warning", ())
    assert finding.title.startswith(f"{what} alone tells ")
    assert "bees" in finding.title


def test_a_crop_that_takes_much_away_is_told_once_and_not_for_each_picture(tmp_path):
    findings = found(tmp_path, lambda label, seed: (f"{seed}.png", saved(photo(seed, (192, 96)))))
    assert [*findings] == ["cropped"]
    assert "50% of their area" in findings["cropped"].title
