"""`visiontool predict` on many inputs: lists, shards, sorting, limits, and what it says of itself."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import RED, save_color_pictures, save_picture
from oddities import broken_pictures, make_oddities


@pytest.fixture
def pictures(tmp_path):
    return save_color_pictures(tmp_path / "pictures", 9)


@pytest.fixture
def predict(run, color_model):
    return lambda *arguments: run("predict", "-m", color_model, *arguments)


def rows_of(text):
    return [json.loads(line) for line in text.splitlines()]


def names_of(text):
    return [Path(row["path"]).name for row in rows_of(text)]


def tree(folder):
    """Every file below a folder with its content, but for hidden ones."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("[!.]*") if path.is_file()}


def test_a_list_on_stdin_is_mixed_with_other_inputs(color_model, pictures, tmp_path):
    other = save_picture(tmp_path / "other.png", RED)
    listed = [pictures / "8.png", pictures / "3.png", tmp_path / "gone.png"]
    command = ["predict", "-m", color_model, other, "-", pictures / "[01].png"]
    text = b"\0".join(map(os.fsencode, listed))
    ran = subprocess.run([sys.executable, "-m", "visiontool", *command], input=text, capture_output=True)
    assert ran.returncode == 7
    assert names_of(ran.stdout) == ["other.png", "8.png", "3.png", "gone.png", "0.png", "1.png"]


def test_lists_in_files(predict, pictures, tmp_path):
    (tmp_path / "list").write_text(f"{pictures / '2.png'}\n\n{pictures / '1.png'}\n")
    (tmp_path / "list.txt").write_text(f"{pictures / '1.png'}\n{pictures / '0.png'}")
    (pictures / "table.csv").write_text("path,label\n3.png,red\n")
    ran = predict(f"@{tmp_path / 'list'}", tmp_path / "list.txt", f"@{pictures / 'table.csv'}")
    assert ran.code == 0
    assert names_of(ran.out) == ["2.png", "1.png", "0.png", "3.png"]


def test_a_list_of_one_and_an_empty_shard_give_an_array_in_json(predict, pictures, tmp_path):
    (tmp_path / "list.txt").write_text(str(pictures / "2.png"))
    assert len(json.loads(predict(tmp_path / "list.txt", "--json").out)) == 1
    assert json.loads(predict(pictures, "--shard", "20/20", "--json").out) == []
    assert json.loads(predict(pictures / "1.png", "--shard", "2/2", "--json").out) == []


def test_pixels_and_bytes_are_limited(predict, pictures):
    save_picture(pictures / "9.png", RED, (100, 100))
    ran = predict(pictures, "--max-pixels", "9K")
    assert ran.code == 7
    assert [row["status"] for row in rows_of(ran.out)] == ["ok"] * 9 + ["error"]
    assert "--max-pixels" in rows_of(ran.out)[-1]["error"]
    assert predict(pictures, "--max-pixels", "10K").code == 0
    ran = predict(pictures / "9.png", "--max-bytes", "50")
    assert ran.code == 7
    assert "--max-bytes" in json.loads(ran.out)["error"]
    size = (pictures / "9.png").stat().st_size
    assert predict(pictures / "9.png", "--max-bytes", size).code == 0


def test_many_pictures_give_the_rows_that_few_give_whatever_some_of_them_do(predict, pictures):
    few = {row["path"]: row for row in rows_of(predict(pictures).out)}
    for index in range(80):
        os.link(pictures / f"{index % 9}.png", pictures / f"copy{index}.png")
    broken = broken_pictures()
    for name, content in broken.items():
        (pictures / name).write_bytes(content)
    ran = predict(pictures)
    assert ran.code == 7
    many = {row["path"]: row for row in rows_of(ran.out)}
    assert {Path(path).name for path, row in many.items() if row["status"] == "error"} == {*broken}
    assert len(many) == 89 + len(broken)
    assert many.items() >= few.items()


def test_what_a_folder_holds_beside_pictures_is_counted_and_named(predict, pictures):
    (pictures / "in").mkdir()
    for name in (".hidden.png", "in/notes.txt", *(f"in/{index}.md" for index in range(11))):
        (pictures / name).touch()
    os.symlink("1.png", pictures / "again.png")
    lines = predict(pictures).err.splitlines()
    assert lines[1:-1] == ["Left out: 1 hidden, 1 repeated, 12 not pictures (-v names them)."]
    err = predict(pictures, "-v").err
    assert f"\n  hidden: {pictures}/.hidden.png\n" in err
    assert err.count(f"{pictures}/in/") == 10
    assert " and 2 more\n" in err
    assert predict(pictures, "-q").err == ""
    err = predict(pictures / "in").err
    assert err.startswith(f"Error: no picture was found in {pictures}/in (left out: 12 not pictures)\n")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("https://a.b/c d.jpg", "download it first: curl -O 'https://a.b/c d.jpg'"),
        ("$HOME/x.jpg", "type: /home/me/x.jpg"),
        ("gone 1.png", None),
    ],
)
def test_a_hint_for_what_is_not_there(predict, pictures, monkeypatch, typed, words):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(pictures)
    ran = predict(typed)
    assert ran.code in (3, 7)
    assert words in ran.err if words else ran.err.endswith("their rows say why.\n")


def test_the_summary_tells_what_took_the_time(predict, pictures):
    (pictures / "4.png").write_bytes(b"junk")
    ran = predict(pictures)
    summary = ran.err.splitlines()[-1]
    assert summary.startswith("9 pictures in ")
    assert "/s): decode " in summary
    assert summary.endswith("1 of 9 inputs failed; their rows say why.")
    assert predict(pictures, "-q").err == "1 of 9 inputs failed; their rows say why.\n"
    assert "pictures in" not in predict(pictures / "1.png").err


@pytest.mark.parametrize("mode", ["copy", "link", "move"])
def test_pictures_are_sorted_and_put_back(run, predict, pictures, tmp_path, mode):
    (pictures / "broken.png").write_bytes(b"junk")
    save_picture(pictures / "gray.png", (128, 128, 128))
    before, sorted_ = tree(pictures), tmp_path / "sorted"
    words = ["--mode", mode, *(["--yes"] if mode == "move" else [])]
    ran = predict(pictures, "--sort-into", sorted_, "--min-probability", "0.4", *words)
    assert ran.code == 7
    assert len(rows_of(ran.out)) == 11
    names = {str(path.relative_to(sorted_)) for path in sorted_.rglob("*.png")}
    assert names == {
        *(f"red/{index}.png" for index in (0, 3, 6)),
        *(f"green/{index}.png" for index in (1, 4, 7)),
        *(f"blue/{index}.png" for index in (2, 5, 8)),
        "_unknown/gray.png",
        "_error/broken.png",
    }
    assert (sorted_ / "red" / "0.png").is_symlink() == (mode == "link")
    assert tree(pictures) == ({} if mode == "move" else before)
    assert run("predict", "--sort-into", sorted_, "--undo", "-k", 3).code == 2  # nothing else goes with it
    ran = run("predict", "--sort-into", sorted_, "--undo")
    assert ran.code == 0
    assert "Put back: 11" in ran.err
    assert tree(pictures) == before
    assert not sorted_.exists()


def test_sorting_into_a_folder_inside_the_input_never_sorts_its_own_copies(predict, pictures):
    for _ in range(2):
        ran = predict(pictures, "--sort-into", pictures / "sorted")
        assert ran.code == 0
        assert len(rows_of(ran.out)) == 9
        assert len(list((pictures / "sorted").rglob("*.png"))) == 9


@pytest.mark.parametrize("sorted_before", [0, 4])
def test_an_interrupted_sorting_goes_on_with_its_rows(run, predict, pictures, tmp_path, sorted_before):
    """Five rows or more were written, and some pictures moved away, when the run was killed."""
    rows, sorted_ = tmp_path / "rows.csv", tmp_path / "sorted"
    words = ["--sort-into", sorted_, "--mode", "move", "--yes"]
    assert predict(pictures, "-o", rows, *words).code == 0
    whole, placed = rows.read_bytes(), tree(sorted_)
    assert run("predict", "--sort-into", sorted_, "--undo", "-q").code == 0
    lines = whole.splitlines(keepends=True)
    rows.unlink()
    (tmp_path / "rows.csv.partial").write_bytes(b"".join(lines[: 1 + max(5, sorted_before)]))
    moved = [pictures / f"{index}.png" for index in range(9)][:sorted_before]
    assert not moved or predict(*moved, *words).code == 0
    assert predict(pictures, "-o", rows, *words, "--resume").code == 0
    assert rows.read_bytes() == whole
    assert tree(sorted_) == placed
    assert tree(pictures) == {}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs what only Unix has")
def test_a_folder_of_everything_odd_gives_a_row_each(color_model, tmp_path):
    """What lies about in /dev and in folders that nobody has cleaned."""
    folder = tmp_path / "odd"
    folder.mkdir()
    expected = make_oddities(folder)
    del expected["link_to_dev_stdin.png"]  # leads somewhere else there than here
    (folder / "link_to_dev_stdin.png").unlink()
    inputs = [os.path.join(folder, name) for name in expected]
    command = [sys.executable, "-m", "visiontool", "predict", *inputs, "-m", str(color_model), "--format", "jsonl"]
    ran = subprocess.run(command, capture_output=True, input=b"", timeout=60)
    assert ran.returncode == 7, ran.stderr
    lines = ran.stderr.splitlines()  # the model and the summary: no trace, and nothing of a library
    notes = (b"No picture was found in ", b"Left out: ")
    assert [line for line in lines if not line.startswith(notes)] == [lines[0], lines[-1]]
    rows = rows_of(ran.stdout)
    paths = [os.fsdecode(base64.b64decode(row["path_b64"])) if "path_b64" in row else row["path"] for row in rows]
    by_path = dict(zip(map(os.path.realpath, paths), rows, strict=True))  # a file of several names is done once
    files = {name: status for name, status in expected.items() if not (folder / name).is_dir()}
    for name, status in files.items():
        row = by_path[os.path.realpath(folder / name)]
        assert row["status"] == status, row
        assert status == "ok" or len(row["error"]) > 5
    assert len(rows) == len({os.path.realpath(folder / name) for name in files})
