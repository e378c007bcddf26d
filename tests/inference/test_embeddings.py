"""Embeddings of views of pictures: computed once whatever happens in between."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import BLUE, COLOR_SPEC, GREEN, RED, ROOT, color_graph, save_model, save_picture
from onnx import TensorProto, helper
from PIL import Image

from visiontool import Classifier, ModelError
from visiontool.data.loader import LoadOptions
from visiontool.hub import cache
from visiontool.images.augment import LEVELS, Augment, views
from visiontool.images.decode import Limits
from visiontool.images.fingerprint import fingerprint_of
from visiontool.inference.embedding_cache import EmbeddingCache, file
from visiontool.inference.embeddings import embed_views

PLAIN = views(1, Augment(), 0)
TWO = views(2, LEVELS["light"], 0)
DIMMED = Augment(mirror=True, brightness=0.5)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def colors(color_model: Path) -> Classifier:
    return Classifier.load(color_model, device="cpu", threads=1)


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Six pictures, all different: red, green, blue, red ..., of 8 to 13 pixels a side."""
    colors = (RED, GREEN, BLUE) * 2
    return [str(save_picture(tmp_path / "in" / f"{i}.png", colors[i], (8 + i, 8 + i))) for i in range(6)]


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures the network got in each of its runs."""
    result: list[int] = []
    outputs = Classifier.outputs

    def counted(self: Classifier, pixels: np.ndarray, output: str, **how: int) -> np.ndarray:
        result.append(len(pixels))
        return outputs(self, pixels, output, **how)

    monkeypatch.setattr(Classifier, "outputs", counted)
    return result


def test_the_embedding_of_a_color_is_the_color_in_every_view(colors, pictures, sizes):
    result = embed_views(colors, pictures, TWO)
    assert result.vectors.dtype == np.float32
    np.testing.assert_array_equal(result.vectors, np.repeat(np.tile(np.eye(3), (2, 1))[:, None], 2, axis=1))
    assert (result.errors, result.computed, result.notes) == ({}, 12, ())
    assert sum(sizes) == 12
    assert result.fingerprints == [fingerprint_of(Image.open(path)) for path in pictures]


def test_the_first_view_is_what_embed_gives_bit_for_bit(tmp_path):
    classifier = Classifier.load("lenet5", device="cpu", threads=1)
    paths = [str(tmp_path / f"{i}.png") for i in range(5)]
    for path, pixels in zip(paths, np.random.default_rng(0).integers(0, 256, (5, 40, 30, 3), np.uint8), strict=True):
        Image.fromarray(pixels).save(path)
    for _ in range(2):  # computed, then kept
        result = embed_views(classifier, paths, TWO)
        np.testing.assert_array_equal(result.vectors[:, 0], classifier.embed(paths))
        assert (result.vectors[:, 0] != result.vectors[:, 1]).any(axis=1).all()


def test_a_second_run_computes_nothing(colors, pictures, sizes):
    first = embed_views(colors, pictures, views(3, DIMMED, 1))
    sizes.clear()
    done: list[tuple[int, int]] = []
    second = embed_views(colors, pictures, views(3, DIMMED, 1), progress=lambda *counts: done.append(counts))
    assert (sizes, second.computed) == ([], 0)
    assert done[0] == (0, 6)
    assert done[-1] == (6, 6)
    np.testing.assert_array_equal(second.vectors, first.vectors)
    assert second.fingerprints == first.fingerprints


def test_other_views_compute_only_what_is_new(colors, pictures, sizes):
    embed_views(colors, pictures[:4], PLAIN)
    sizes.clear()
    both = embed_views(colors, pictures, TWO)  # of four pictures the mirror, of two both views
    assert both.computed == sum(sizes) == 4 + 2 * 2
    assert (both.vectors[:, 0] == both.vectors[:, 1]).all()
    sizes.clear()
    three = embed_views(colors, pictures, views(3, DIMMED, 1))
    assert three.computed == sum(sizes) == 6
    assert (three.vectors[:, 2].max(axis=1) < 1.0).any()  # some are darker
    for changed in (views(3, DIMMED, 2), views(3, replace(DIMMED, brightness=0.4), 1)):
        assert embed_views(colors, pictures, changed).computed == 6
    backwards = embed_views(colors, pictures, views(3, DIMMED, 1)[::-1])
    assert backwards.computed == 0
    np.testing.assert_array_equal(backwards.vectors, three.vectors[:, ::-1])


def test_what_cannot_be_read_is_an_error_of_its_own(colors, pictures, tmp_path, sizes):
    text = tmp_path / "in" / "text.jpg"
    text.write_text("no picture at all")
    paths = [pictures[0], str(text), pictures[1], str(tmp_path), pictures[2], str(text)]
    result = embed_views(colors, paths, TWO)
    assert list(result.errors) == [1, 3, 5]
    assert result.errors[1] == result.errors[5]
    assert "folder" in result.errors[3]
    np.testing.assert_array_equal(result.vectors[[0, 2, 4], 0], np.eye(3))
    assert embed_views(colors, pictures, PLAIN, LoadOptions(Limits(max_bytes=10))).errors.keys() == set(range(6))
    for index in result.errors:
        assert result.fingerprints[index] is None
        assert not result.vectors[index].any()
    assert sum(sizes) == 6
    save_picture(text.with_suffix(".png"), BLUE).rename(text)
    again = embed_views(colors, paths, TWO)
    assert list(again.errors) == [3]
    assert again.computed == 2


def test_the_same_bytes_are_one_picture_under_any_name(colors, pictures, tmp_path, sizes):
    copy = tmp_path / "copy.gif"
    copy.write_bytes(Path(pictures[1]).read_bytes())
    result = embed_views(colors, [pictures[1], pictures[0], str(copy), pictures[1]], TWO)
    assert result.computed == sum(sizes) == 4
    np.testing.assert_array_equal(result.vectors[:, 0], np.eye(3)[[1, 0, 1, 1]])
    assert result.fingerprints[0] == result.fingerprints[2] == result.fingerprints[3] != result.fingerprints[1]
    for path in pictures:
        os.rename(path, path.replace(".png", ".moved"))
    moved = embed_views(colors, [pictures[i].replace(".png", ".moved") for i in (0, 1)], TWO)
    assert moved.computed == 0
    np.testing.assert_array_equal(moved.vectors[:, 0], np.eye(3)[:2])


def test_networks_and_preprocessing_do_not_mix(pictures, make_color_model, monkeypatch):
    def computed(file: str, **changes: object) -> int:
        return embed_views(Classifier.load(make_color_model(file, **changes), device="cpu"), pictures, PLAIN).computed

    assert computed("a.onnx") == 6
    assert computed("the_same_file_elsewhere.onnx") == 0
    assert computed("b.onnx", crop_mode="squash") == 6
    path = make_color_model("a.onnx")
    assert embed_views(Classifier.load(path, device="cpu", crop_mode="squash"), pictures, PLAIN).computed == 6
    on_gpu = Classifier.load(path, device="cpu")
    on_gpu.provider = "cuda"
    assert embed_views(on_gpu, pictures, PLAIN).computed == 6
    monkeypatch.setattr("PIL.__version__", "0.1")  # which may decode otherwise
    assert computed("a.onnx") == 6


@pytest.mark.parametrize("batch_size", [1, 8])
def test_no_batch_has_more_views_than_asked_for(colors, pictures, sizes, batch_size):
    result = embed_views(colors, pictures, views(3, DIMMED, 0), LoadOptions(batch_size=batch_size))
    assert max(sizes) <= batch_size
    assert sum(sizes) == 18
    np.testing.assert_array_equal(result.vectors[:3, 0], np.eye(3))


def test_an_embedding_that_is_no_number_is_an_error_of_its_picture(tmp_path, pictures):
    graph = color_graph()
    nodes = graph.graph.node
    nodes[2].output[0] = "mean"
    nodes.insert(3, helper.make_node("Div", ["mean", "mean"], ["embedding"]))  # 0 / 0 where a channel is dark
    classifier = Classifier.load(save_model(graph, tmp_path / "nan.onnx", COLOR_SPEC.to_metadata()), device="cpu")
    white = str(save_picture(tmp_path / "white.png", (255, 255, 255)))
    for computed in (6, 4):  # what is no number is not kept
        result = embed_views(classifier, [pictures[0], white, pictures[1]], TWO)
        assert result.computed == computed
        assert result.errors == dict.fromkeys((0, 2), "the network's answer is not a number")
        assert result.vectors[:, 0].tolist() == [[0.0] * 3, [1.0] * 3, [0.0] * 3]
        assert [fingerprint is None for fingerprint in result.fingerprints] == [True, False, True]


def test_the_width_may_be_known_to_the_graph_alone(tmp_path, pictures):
    graph = color_graph()
    graph.graph.output[1].CopyFrom(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", "D"]))
    path = save_model(graph, tmp_path / "wide.onnx", COLOR_SPEC.to_metadata())
    result = embed_views(Classifier.load(path, device="cpu"), pictures[:3], PLAIN)
    np.testing.assert_array_equal(result.vectors, np.eye(3)[:, None])


def test_a_model_without_an_embedding_is_refused(make_color_model):
    with pytest.raises(ModelError, match=r"^colors: the file has no embedding output.*\nTake a network that has one"):
        embed_views(Classifier.load(make_color_model("none.onnx", embedding=None), device="cpu"), [], PLAIN)


def test_a_damaged_file_is_replaced(colors, pictures):
    expected = embed_views(colors, pictures, TWO).vectors
    with open(file(), "r+b") as damaged:
        damaged.seek(2**16)  # behind the page of the schema
        damaged.write(np.random.default_rng(0).bytes(file().stat().st_size - 2**16))
    result = embed_views(colors, pictures, TWO)
    assert result.computed == 12
    np.testing.assert_array_equal(result.vectors, expected)
    assert [note.split(" (")[0] for note in result.notes] == ["The cached embeddings are damaged"]
    again = embed_views(colors, pictures, TWO)
    assert (again.computed, again.notes) == (0, ())


def test_embeddings_come_out_where_nothing_can_be_kept(colors, pictures, monkeypatch):
    monkeypatch.setenv("VISIONTOOL_CACHE", os.path.join(pictures[0], "cache"))
    result = embed_views(colors, pictures, PLAIN)
    np.testing.assert_array_equal(result.vectors[:3, 0], np.eye(3))
    (note,) = result.notes
    assert "Embeddings are not kept for the next run" in note
    assert "Set VISIONTOOL_CACHE" in note


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(colors, color_model, pictures, root):
    code = (
        "import os, signal, sys, time\n"
        "from visiontool import Classifier\n"
        "from visiontool.data.loader import LoadOptions\n"
        "from visiontool.images.augment import LEVELS, views\n"
        "from visiontool.inference.embeddings import embed_views\n"
        "def slow(done, _):\n"
        "    time.sleep(0.6)\n"
        "    if done == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "classifier = Classifier.load(sys.argv[1], device='cpu', threads=1)\n"
        "two = views(2, LEVELS['light'], 0)\n"
        "embed_views(classifier, sys.argv[2:], two, LoadOptions(batch_size=2), progress=slow)"
    )
    command = [sys.executable, "-c", code, str(color_model), *pictures]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    result = embed_views(colors, pictures, TWO)
    assert result.computed in (2, 4)  # of 12: the sixth picture, and the fifth where it was not written yet
    np.testing.assert_array_equal(result.vectors[:3, 0], np.eye(3))
    assert result.notes == ()
    cache.trim(0)
    assert os.listdir(root / "features") == []


def test_of_a_file_as_large_as_features_may_be_the_oldest_rows_go(tmp_path, monkeypatch):
    monkeypatch.setattr("visiontool.inference.embedding_cache._MAX_BYTES", 2 * 10**6)
    keys = [i.to_bytes(16, "big") for i in range(300)]
    with EmbeddingCache(tmp_path / "a.sqlite") as rows:
        for start in range(0, 300, 20):
            rows.add([(key, key * 625) for key in keys[start : start + 20]])  # 10,000 bytes each
            rows.flush()
        kept = sorted(key for key, value in rows.read(keys) if value == key * 625)
    assert kept == keys[-len(kept) :]
    assert 100 <= len(kept) < 200
    assert (tmp_path / "a.sqlite").stat().st_size < 2.2 * 10**6
    assert rows.notes == []
