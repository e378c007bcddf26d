"""`visiontool embed`: the numbers, the neighbors, the map, and what is refused."""

import csv
import io
import json

import numpy as np
import pandas
import pytest
from conftest import RED, ROOT, run_on_terminal, save_picture
from PIL import Image

from visiontool import Classifier
from visiontool.evaluation import embedding_map

NAMES = [f"photos/{folder}/{number}.png" for folder in "ab" for number in range(10)]
JUNK = "photos/a/junk.png"


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """The working folder is a new one with the pictures of NAMES, each of another color, and JUNK."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    for name, color in zip(NAMES, np.random.default_rng(0).integers(20, 255, (20, 3)).tolist(), strict=True):
        save_picture(tmp_path / name, tuple(color))
    (tmp_path / JUNK).write_text("no picture")


def cosines_of(vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


@pytest.mark.parametrize("ending", ["npy", "csv", "parquet"])
def test_each_input_has_a_row_with_what_the_classifier_embeds(photos, run, color_model, ending):
    typed = ("embed", "photos", "-m", color_model, "-o", f"photos.{ending}")
    ran = run(*typed)
    assert (ran.code, ran.out) == (7, "")
    assert "21 pictures: 20 computed, 0 cached.\n1 of 21 inputs failed. The first: photos/a/junk.png: not a" in ran.err
    if ending == "npy":
        table, vectors = pandas.read_csv("photos.paths.csv", na_filter=False), np.load("photos.npy")
    elif ending == "csv":
        table = pandas.read_csv("photos.csv", keep_default_na=False, na_values={"embedding_0": ["nan"]})
        vectors = table[[f"embedding_{place}" for place in range(3)]].to_numpy(np.float32)
    else:
        table = pandas.read_parquet("photos.parquet")
        vectors = np.stack(table["embedding"])
    assert (vectors.shape, vectors.dtype) == ((21, 3), np.float32)
    assert table["path"].tolist() == [*NAMES[:10], JUNK, *NAMES[10:]]
    failed = (table["status"] == "error").to_numpy()
    assert np.flatnonzero(failed).tolist() == np.flatnonzero(table["error"]).tolist() == [10]
    assert np.isnan(vectors[failed]).all()
    assert (vectors[~failed] == Classifier(color_model).embed(NAMES)).all()

    assert f"photos.{ending} exists already. Give another name, or --force to replace it." in run(*typed).err
    ran = run(*typed, "--force")
    assert (ran.code, "0 computed, 20 cached" in ran.err) == (7, True)


def test_neighbors_are_those_that_all_cosines_give(photos, run, color_model):
    typed = ("embed", "photos", "-m", color_model, "--neighbours", 3)
    rows = [json.loads(line) for line in run(*typed).out.splitlines()]
    cosines = cosines_of(Classifier(color_model).embed(NAMES))
    np.fill_diagonal(cosines, -2)
    expected = []
    for name, row in zip(NAMES, cosines, strict=True):
        expected += [(name, NAMES[other], pytest.approx(row[other], abs=2e-6)) for other in np.argsort(-row)[:3]]
    found = [(row["path"], row["neighbor"], row["cosine"]) for row in rows if row["status"] == "ok"]
    assert found == expected
    (failed,) = (row for row in rows if row["status"] == "error")
    assert (failed["path"], rows.index(failed), "not a picture" in failed["error"]) == (JUNK, 30, True)
    assert json.loads(run(*typed, "--json").out) == rows
    table = list(csv.DictReader(io.StringIO(run(*typed, "--format", "csv").out)))
    assert [{key: value for key, value in row.items() if value} for row in table] == [
        {key: str(value) for key, value in row.items()} for row in rows
    ]
    every = run("embed", "photos", "-m", color_model, "--neighbors", 4096, "--format", "jsonl").out
    assert len(every.splitlines()) == 20 * 19 + 1


def test_copies_are_neighbors_in_the_order_given(tmp_path, color_model):
    paths = [save_picture(tmp_path / name, RED) for name in ("1.png", "2.png", "3.png")]
    code, shown = run_on_terminal("embed", *paths, "-m", color_model, "--neighbours", 2, "-q")
    lines = [line.split("  ") for line in "".join(shown.split("\r\n")).replace("1.0000", "\n1.0000").split("\n")[1:]]
    pairs = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert (code, lines) == (0, [["1.0000", str(paths[one]), str(paths[other])] for one, other in pairs])


@pytest.mark.parametrize("most", [2000, 5])
def test_the_map_shows_each_picture_in_a_frame_of_the_color_of_its_folder(photos, run, color_model, monkeypatch, most):
    monkeypatch.setattr(embedding_map, "MOST", most)
    shown = NAMES[:: 20 // min(most, 20)]
    ran = run("embed", "photos", "-m", color_model, "--plot", "map.png", "-q")
    assert (ran.code, ran.out) == (7, "")
    with Image.open("map.png") as image:
        assert (image.format, image.size) == ("PNG", embedding_map.SIZE)
        counts = {color: count for count, color in image.convert("RGB").getcolors(2**24)}
    for name in NAMES:  # each of one color
        with Image.open(name) as picture:
            assert counts.get(picture.getpixel((0, 0)), 0) == (143**2 if name in shown else 0)
    for folder, color in ("a", (0x3F, 0x90, 0xDA)), ("b", (0xFF, 0xA9, 0x0E)):
        frames = sum(name.startswith(f"photos/{folder}/") for name in shown) * (159**2 - 143**2)
        assert frames < counts[color] < frames + 5000  # and the legend


@pytest.mark.parametrize("count", [1, 2, 10, 11, 60])
def test_positions_are_the_same_each_time_and_apart(count):
    vectors = np.random.default_rng(count).normal(size=(count, 84)).astype(np.float32)
    places = embedding_map.positions(vectors)
    assert (places.shape, places.min() >= 0, places.max() <= 1) == ((count, 2), True, True)
    assert len(np.unique(places, axis=0)) == count
    assert (embedding_map.positions(vectors) == places).all()
    assert (embedding_map.positions(np.repeat(vectors[:1], count, axis=0)) == 0.5).all()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["photos"], 2, "say what you want: -o FILE.npy, --neighbours K or --plot FILE.png"),
        (["--plot", "map.png"], 2, "name pictures, folders or globs"),
        (["photos", "--plot", "map.png", "--json"], 2, "--format and --json are about the rows of --neighbours"),
        (["photos", "--plot", "map.jpg"], 2, "--plot map.jpg: expected a file that ends in .png"),
        (["photos", "-o", "x.txt"], 2, "-o x.txt: expected a file that ends in .npy or .csv or .parquet"),
        (["photos", "-o", "gone/x.npy"], 2, "there is no folder"),
        (["photos", "--plot", "map.png", "--force"], 2, "--force is about the file of -o; there is none"),
        (["gone", "--plot", "map.png"], 3, "1 of 1 inputs failed. The first: gone: no such file"),
        ([NAMES[0], "--neighbours", "1"], 3, "neighbors need at least two pictures that can be read"),
    ],
)
def test_what_cannot_be_done_says_why(photos, run, color_model, arguments, code, words):
    ran = run("embed", *arguments, "-m", color_model)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err


def test_a_network_that_cannot_is_refused(photos, run, make_color_model):
    typed = ("embed", "photos", "--neighbours", 1, "-m")
    ran = run(*typed, make_color_model("none.onnx", embedding=None))
    assert (ran.code, "the file has no embedding output" in ran.err) == (4, True)
    make_color_model("colors.onnx", interpolation="bilinear")
    assert run("export", "colors.onnx", "-o", "any.onnx", "--embed-resize", "--no-verify").code == 0
    ran = run(*typed, "any.onnx")
    assert (ran.code, "resizes pictures itself (export --embed-resize); take the model" in ran.err) == (2, True)


def test_digits_of_the_samples_equal_those_of_python(run, tmp_path):
    assert run("embed", ROOT / "samples" / "digits", "-m", "lenet5", "-o", tmp_path / "digits.npy", "-q").err == ""
    paths = [ROOT / "samples" / "digits" / f"{digit}.png" for digit in range(10)]
    np.testing.assert_allclose(
        np.load(tmp_path / "digits.npy"), Classifier("lenet5").embed(paths), rtol=1e-5, atol=1e-6
    )
