"""Features: what the backbone gives for views of pictures, computed once whatever happens in between."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import BLUE, COLOR_SPEC, GREEN, RED, ROOT, color_graph, save_color_pictures, save_model, save_picture
from onnx import TensorProto, helper
from PIL import Image

from visiontool import Classifier, ModelError
from visiontool.errors import UsageError
from visiontool.hub import cache
from visiontool.images.augment import LEVELS, Augment, views
from visiontool.images.decode import Limits
from visiontool.images.fingerprint import fingerprint_of
from visiontool.inference import embeddings
from visiontool.inference.embedding_cache import Store, file
from visiontool.inference.embeddings import extract

PLAIN = views(1, Augment(), 0)
TWO = views(2, LEVELS["light"], 0)
DIMMED = Augment(mirror=True, brightness=0.5)
needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="pipes, signals and rights of POSIX")


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
    seen: list[int] = []
    run = Classifier.run

    def counted(self: Classifier, pixels: np.ndarray, output: str, **how: int) -> np.ndarray:
        seen.append(len(pixels))
        return run(self, pixels, output, **how)

    monkeypatch.setattr(Classifier, "run", counted)
    return seen


def test_the_embedding_of_a_color_is_the_color_in_every_view(colors, pictures, sizes):
    seen = extract(colors, pictures, TWO)
    expected = np.repeat(np.tile(np.eye(3, dtype=np.float32), (2, 1))[:, None], 2, axis=1)
    assert seen.embeddings.dtype == np.float32
    np.testing.assert_array_equal(seen.embeddings, expected)
    assert (seen.errors, seen.computed, seen.notes) == ({}, 12, ())
    assert sum(sizes) == 12
    assert seen.looks == [fingerprint_of(Image.open(path)) for path in pictures]


def test_the_first_view_is_what_embed_gives_bit_for_bit(tmp_path):
    classifier = Classifier.load("lenet5", device="cpu", threads=1)
    paths = [str(tmp_path / f"{i}.png") for i in range(5)]
    for path, pixels in zip(paths, np.random.default_rng(0).integers(0, 256, (5, 40, 30, 3), np.uint8), strict=True):
        Image.fromarray(pixels).save(path)
    for _ in range(2):  # computed, then kept
        seen = extract(classifier, paths, TWO)
        np.testing.assert_array_equal(seen.embeddings[:, 0], classifier.embed(paths))
        assert (seen.embeddings[:, 0] != seen.embeddings[:, 1]).any(axis=1).all()


def test_a_second_run_computes_nothing(colors, pictures, sizes):
    first = extract(colors, pictures, views(3, DIMMED, 1))
    sizes.clear()
    done: list[tuple[int, int]] = []
    second = extract(colors, pictures, views(3, DIMMED, 1), progress=lambda *counts: done.append(counts))
    assert (sizes, second.computed) == ([], 0)
    assert done[0] == (0, 6)
    assert done[-1] == (6, 6)
    np.testing.assert_array_equal(second.embeddings, first.embeddings)
    assert second.looks == first.looks


def test_other_views_compute_only_what_is_new(colors, pictures, sizes):
    extract(colors, pictures[:4], PLAIN)
    sizes.clear()
    both = extract(colors, pictures, TWO)  # of four pictures the mirror, of two both views
    assert both.computed == sum(sizes) == 4 + 2 * 2
    assert (both.embeddings[:, 0] == both.embeddings[:, 1]).all()
    sizes.clear()
    three = extract(colors, pictures, views(3, DIMMED, 1))
    assert three.computed == sum(sizes) == 6
    assert (three.embeddings[:, 2].max(axis=1) < 1.0).any()  # some are darker
    for changed in (views(3, DIMMED, 2), views(3, replace(DIMMED, brightness=0.4), 1)):
        assert extract(colors, pictures, changed).computed == 6
    assert extract(colors, pictures, views(3, DIMMED, 1)[1:]).computed == 0
    backwards = extract(colors, pictures, views(3, DIMMED, 1)[::-1])
    assert backwards.computed == 0
    np.testing.assert_array_equal(backwards.embeddings, three.embeddings[:, ::-1])


def test_what_cannot_be_read_is_told_where_it_stands(colors, pictures, tmp_path, sizes):
    empty, text = tmp_path / "in" / "empty.jpg", tmp_path / "in" / "text.jpg"
    empty.touch()
    text.write_text("no picture at all")
    paths = [
        pictures[0],
        str(empty),
        pictures[1],
        str(text),
        str(tmp_path),
        str(tmp_path / "gone"),
        pictures[2],
        str(text),
    ]
    seen = extract(colors, paths, TWO)
    assert list(seen.errors) == [1, 3, 4, 5, 7]
    assert "0 bytes" in seen.errors[1]
    assert seen.errors[3] == seen.errors[7]
    assert "folder" in seen.errors[4]
    assert "no such file" in seen.errors[5]
    np.testing.assert_array_equal(seen.embeddings[[0, 2, 6], 0], np.eye(3))
    for index in seen.errors:
        assert seen.looks[index] is None
        assert not seen.embeddings[index].any()
    assert sum(sizes) == 6
    save_picture(text.with_suffix(".png"), BLUE).rename(text)
    again = extract(colors, paths, TWO)
    assert list(again.errors) == [1, 4, 5]
    assert again.computed == 2


@needs_posix
def test_a_pipe_and_a_file_above_the_limit_are_not_read(colors, pictures, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    big = tmp_path / "big.png"
    with open(big, "wb") as file:
        file.truncate(2**40)  # takes no room, and more memory than there is
    seen = extract(colors, [str(tmp_path / "pipe.png"), str(big), "in\0valid", pictures[1]], PLAIN)
    assert "pipe" in seen.errors[0]
    assert "--max-bytes" in seen.errors[1]
    assert list(seen.errors) == [0, 1, 2]
    assert extract(colors, pictures, PLAIN, limits=Limits(max_bytes=10)).errors.keys() == set(range(6))


def test_the_same_bytes_are_one_picture_under_any_name(colors, pictures, tmp_path, sizes):
    copy = tmp_path / "copy.gif"
    copy.write_bytes(Path(pictures[1]).read_bytes())
    done: list[tuple[int, int]] = []
    paths = [pictures[1], pictures[0], str(copy), pictures[1]]
    seen = extract(colors, paths, TWO, progress=lambda *counts: done.append(counts))
    assert seen.computed == sum(sizes) == 4
    assert done[-1] == (4, 4)
    np.testing.assert_array_equal(seen.embeddings[:, 0], np.eye(3)[[1, 0, 1, 1]])
    assert seen.looks[0] == seen.looks[2] == seen.looks[3] != seen.looks[1]
    for path in pictures:
        os.rename(path, path.replace(".png", ".moved"))
    moved = extract(colors, [pictures[i].replace(".png", ".moved") for i in (0, 1)], TWO)
    assert moved.computed == 0
    np.testing.assert_array_equal(moved.embeddings[:, 0], np.eye(3)[:2])


def test_other_bytes_under_the_same_name_size_and_time_are_seen(colors, tmp_path):
    path = save_picture(tmp_path / "a.bmp", RED)
    status = path.stat()
    extract(colors, [str(path)], PLAIN)
    save_picture(path, BLUE)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    seen = extract(colors, [str(path)], PLAIN)
    assert seen.computed == 1
    assert seen.embeddings[0, 0].tolist() == [0.0, 0.0, 1.0]


def test_a_picture_that_is_changed_in_the_middle_of_a_run_is_not_kept_as_what_it_was(colors, tmp_path):
    path = save_picture(tmp_path / "a.png", RED)
    calls: list[int] = []

    def edit(done: int, _: int) -> None:
        calls.append(done)
        if len(calls) == 2:  # what is kept was taken, nothing is computed yet
            save_picture(path, BLUE, (9, 9))

    assert extract(colors, [str(path)], PLAIN, progress=edit).embeddings[0, 0].tolist() == [0.0, 0.0, 1.0]
    save_picture(path, RED)
    assert extract(colors, [str(path)], PLAIN).embeddings[0, 0].tolist() == [1.0, 0.0, 0.0]


def test_networks_and_preprocessing_do_not_mix(pictures, make_color_model, monkeypatch):
    def computed(file: str, **changes: object) -> int:
        return extract(Classifier.load(make_color_model(file, **changes), device="cpu"), pictures, PLAIN).computed

    assert computed("a.onnx") == 6
    assert computed("the_same_file_elsewhere.onnx") == 0
    assert computed("b.onnx", crop_mode="squash") == 6
    path = make_color_model("a.onnx")
    assert extract(Classifier.load(path, device="cpu", crop_mode="squash"), pictures, PLAIN).computed == 6
    on_gpu = Classifier.load(path, device="cpu")
    on_gpu.provider = "cuda"
    assert extract(on_gpu, pictures, PLAIN).computed == 6
    monkeypatch.setattr("PIL.__version__", "0.1")  # which may decode otherwise
    assert computed("a.onnx") == 6


def test_without_the_cache_nothing_is_read_or_written(colors, pictures, root):
    assert extract(colors, pictures, TWO, use_cache=False).computed == 12
    assert not root.exists()
    extract(colors, pictures, TWO)
    assert extract(colors, pictures, TWO, use_cache=False).computed == 12


def test_more_pictures_than_a_few_are_opened_in_processes_with_the_same_answers(colors, tmp_path, monkeypatch):
    folder = save_color_pictures(tmp_path / "in", 3)
    paths = [str(save_picture(folder / f"n{i}.png", (i, 0, 0), (8, 8))) for i in range(66)]
    opened: list[bool] = []
    prepared = embeddings.prepared

    def spied(images, recipe, opening, *others, **named):
        opened.append(opening.isolate)
        return prepared(images, recipe, opening, *others, **named)

    monkeypatch.setattr(embeddings, "prepared", spied)
    seen = extract(colors, paths, TWO, workers=2)
    np.testing.assert_allclose(seen.embeddings[:, :, 0] * 255, np.arange(66)[:, None].repeat(2, 1), rtol=1e-6)
    assert seen.looks[7] == fingerprint_of(Image.open(paths[7]))
    assert extract(colors, [*paths, str(folder / "2.png")], TWO).computed == 2
    assert opened == [True, False]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_no_run_has_more_views_than_asked_for(colors, pictures, sizes, batch_size):
    seen = extract(colors, pictures, views(3, DIMMED, 0), batch_size=batch_size)
    assert max(sizes) <= batch_size
    assert sum(sizes) == 18
    np.testing.assert_array_equal(seen.embeddings[:3, 0], np.eye(3))


def test_an_embedding_that_is_no_number_is_an_error_of_its_picture(tmp_path, pictures):
    graph = color_graph()
    nodes = graph.graph.node
    nodes[2].output[0] = "mean"
    nodes.insert(3, helper.make_node("Div", ["mean", "mean"], ["embedding"]))  # 0 / 0 where a channel is dark
    classifier = Classifier.load(save_model(graph, tmp_path / "nan.onnx", COLOR_SPEC.to_metadata()), device="cpu")
    white = str(save_picture(tmp_path / "white.png", (255, 255, 255)))
    for computed in (6, 4):  # what is no number is not kept
        seen = extract(classifier, [pictures[0], white, pictures[1]], TWO)
        assert seen.computed == computed
        assert seen.errors == dict.fromkeys((0, 2), "the network's answer is not a number")
        assert seen.embeddings[:, 0].tolist() == [[0.0] * 3, [1.0] * 3, [0.0] * 3]
        assert [look is None for look in seen.looks] == [True, False, True]


@pytest.mark.parametrize("shape", [["N", "D"], ["N", "D", 1, 1]])
def test_the_width_may_be_known_to_the_graph_alone(tmp_path, pictures, shape):
    graph = color_graph()
    if len(shape) == 4:
        graph.graph.node[2].attribute[0].i = 1  # keepdims
        graph.graph.node[0].input[0] = "planes"
        graph.graph.node.insert(0, helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]))
        graph.graph.initializer[1].CopyFrom(helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3]))
        graph.graph.node[-1].CopyFrom(helper.make_node("Flatten", ["embedding"], ["logits"]))
    graph.graph.output[1].CopyFrom(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, shape))
    path = save_model(graph, tmp_path / "wide.onnx", COLOR_SPEC.to_metadata())
    for _ in range(2):
        seen = extract(Classifier.load(path, device="cpu"), pictures[:3], PLAIN)
        np.testing.assert_array_equal(seen.embeddings, np.eye(3)[:, None])
    assert extract(Classifier.load(path, device="cpu"), [], PLAIN).embeddings.shape == (0, 1, 3)


def test_an_embedding_of_another_width_than_the_file_says_is_told(tmp_path, pictures):
    graph = color_graph()
    nodes = graph.graph.node
    nodes[2].output[0] = "mean"
    nodes.insert(3, helper.make_node("Compress", ["mean", "which"], ["embedding"], axis=1))  # how wide, shows in a run
    nodes[-1].input[0] = "mean"
    graph.graph.initializer.append(helper.make_tensor("which", TensorProto.BOOL, [3], [True, False, True]))
    classifier = Classifier.load(save_model(graph, tmp_path / "narrow.onnx", COLOR_SPEC.to_metadata()), device="cpu")
    with pytest.raises(ModelError, match=r"narrow.onnx: output 'embedding' gives 2 numbers for a picture; .* says 3"):
        extract(classifier, pictures, TWO)


def test_what_cannot_be_meant_is_refused(colors, make_color_model):
    with pytest.raises(ModelError, match=r"^colors: the file has no embedding output.*\nTake a network that has one"):
        extract(Classifier.load(make_color_model("none.onnx", embedding=None), device="cpu"), [], PLAIN)
    for wrong in ({"views": ()}, {"views": PLAIN, "batch_size": 0}, {"views": PLAIN, "workers": 0}):
        with pytest.raises(UsageError, match="at least 1"):
            extract(colors, [], **wrong)


def random_bytes(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 100)


def random_middle(path: Path) -> None:
    """All of it but the page with the schema."""
    with open(path, "r+b") as file:
        file.seek(2**16)
        file.write(np.random.default_rng(0).bytes(path.stat().st_size - 2**16))


@pytest.mark.parametrize("damage", [random_bytes, truncated, random_middle])
def test_a_damaged_file_is_replaced(colors, pictures, damage):
    expected = extract(colors, pictures, TWO).embeddings
    damage(file())
    seen = extract(colors, pictures, TWO)
    assert seen.computed == 12
    np.testing.assert_array_equal(seen.embeddings, expected)
    assert [note.split(" (")[0] for note in seen.notes] == ["The features that were kept are damaged"]
    again = extract(colors, pictures, TWO)
    assert (again.computed, again.notes) == (0, ())


def test_a_value_that_was_overwritten_is_not_taken(colors, pictures):
    extract(colors, pictures, PLAIN)
    content = file().read_bytes()
    green = np.array([0, 1, 0], "<f4").tobytes()
    assert content.count(green) == 2
    file().write_bytes(content.replace(green, np.array([0, 1, 1], "<f4").tobytes(), 1))
    seen = extract(colors, pictures, PLAIN)
    assert seen.computed == 1
    np.testing.assert_array_equal(seen.embeddings[:3, 0], np.eye(3))
    assert extract(colors, pictures, PLAIN).computed == 0


def test_an_empty_file_is_a_new_one(colors, pictures):
    extract(colors, pictures, PLAIN)
    os.truncate(file(), 0)
    assert extract(colors, pictures, PLAIN)[3:] == (6, ())
    assert extract(colors, pictures, PLAIN)[3:] == (0, ())


def test_features_come_out_where_nothing_can_be_kept(colors, pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("VISIONTOOL_CACHE", os.path.join(pictures[0], "cache"))
    seen = extract(colors, pictures, PLAIN)
    np.testing.assert_array_equal(seen.embeddings[:3, 0], np.eye(3))
    (note,) = seen.notes
    assert "Features are not kept for the next run" in note
    assert "Set VISIONTOOL_CACHE" in note


@needs_posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_a_read_only_cache_is_read(colors, pictures, root, tmp_path):
    extract(colors, pictures[:4], PLAIN)
    before = file().read_bytes()
    for folder in (root / "features", *(root / "features").parents):
        folder.chmod(0o755)
        if folder == tmp_path.parents[1]:
            break
    os.seteuid(65534)
    try:
        seen = extract(colors, pictures, PLAIN)
    finally:
        os.seteuid(0)
    np.testing.assert_array_equal(seen.embeddings[:3, 0], np.eye(3))
    assert seen.computed == 2
    assert [note.partition(": ")[0] for note in seen.notes] == ["Features are not kept for the next run"]
    assert file().read_bytes() == before


def run_python(code: str, *arguments: object) -> "subprocess.Popen[str]":
    """A process that has Classifier, extract and TWO, and `classifier` and `paths` made of its arguments."""
    start = (
        "import os, resource, signal, sys, time\n"
        "from visiontool import Classifier, cache, features\n"
        "from visiontool.images.augment import LEVELS, views\n"
        "TWO = views(2, LEVELS['light'], 0)\n"
        "classifier, paths = Classifier.load(sys.argv[1], device='cpu', threads=1), sys.argv[2:]\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", start + code, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


@needs_posix
@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(colors, color_model, pictures, root):
    process = run_python(
        "def slow(done, _):\n"
        "    time.sleep(0.6)\n"
        "    if done == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "features.extract(classifier, paths, TWO, batch_size=2, progress=slow)",
        color_model,
        *pictures,
    )
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    seen = extract(colors, pictures, TWO)
    assert seen.computed in (2, 4)  # of 12: the sixth picture, and the fifth where it was not written yet
    np.testing.assert_array_equal(seen.embeddings[:3, 0], np.eye(3))
    assert seen.notes == ()
    cache.trim(0)
    assert os.listdir(root / "features") == []


@needs_posix
@pytest.mark.slow
def test_two_processes_may_use_one_cache_at_once(colors, color_model, tmp_path):
    paths = [str(save_picture(tmp_path / "in" / f"{i}.png", (i, 0, 0))) for i in range(40)]
    code = (
        "seen = features.extract(classifier, paths, TWO, batch_size=2, progress=lambda *_: time.sleep(0.1))\n"
        "print(seen.computed, seen.notes, seen.errors, *(seen.embeddings[:, 1, 0] * 255).round().astype(int))"
    )
    both = [run_python(code, color_model, *order) for order in (paths, paths[::-1])]
    said = [process.communicate(timeout=60)[0].split(maxsplit=3) for process in both]
    assert [words[1:3] for words in said] == [["()", "{}"]] * 2
    assert said[0][3].split() == [str(i) for i in range(40)]
    assert said[1][3].split() == [str(39 - i) for i in range(40)]
    assert extract(colors, paths, TWO).computed == 0


@needs_posix
@pytest.mark.slow
def test_a_full_disk_stops_no_run_and_leaves_what_was_kept(colors, color_model, pictures, tmp_path):
    extract(colors, pictures, TWO)
    more = [str(save_picture(tmp_path / "in" / f"m{i}.png", (i, 0, 0))) for i in range(200)]
    process = run_python(
        "room = os.path.getsize(cache.features() / 'features.sqlite')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))\n"
        "seen = features.extract(classifier, paths, TWO)\n"
        "print(seen.computed, seen.notes[0], *(seen.embeddings[:, 1, 0] * 255).round().astype(int), sep='\\n')",
        color_model,
        *more,
        pictures[0],
    )
    computed, note, *answers = process.communicate(timeout=60)[0].splitlines()
    assert computed == "400"
    assert note.startswith("Features are not kept for the next run: ")
    assert answers == [*map(str, range(200)), "255"]
    assert extract(colors, pictures, TWO)[3:] == (0, ())


def test_of_a_file_as_large_as_features_may_be_the_oldest_rows_go(tmp_path, monkeypatch):
    monkeypatch.setattr("visiontool.inference.embedding_cache._MAX_BYTES", 2 * 10**6)
    keys = [i.to_bytes(16, "big") for i in range(500)]
    with Store(tmp_path / "a.sqlite") as store:
        for start in range(0, 500, 10):
            store.add([(key, key * 625) for key in keys[start : start + 10]])  # 10,000 bytes each
            store.flush()
        kept = sorted(key for key, value in store.read(keys) if value == key * 625)
    assert kept == keys[-len(kept) :]
    assert 100 <= len(kept) < 200
    assert (tmp_path / "a.sqlite").stat().st_size < 2.2 * 10**6
    assert store.notes == []
