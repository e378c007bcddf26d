"""The file of -o: a run that was interrupted is gone on with, and rows that are there stay."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import save_color_pictures, save_picture

from visiontool.cli.output import resume, target

FORMATS = ["jsonl", "csv"]


@pytest.fixture
def pictures(tmp_path):
    return save_color_pictures(tmp_path / "pictures", 12)


@pytest.fixture
def predict(run, color_model):
    return lambda *arguments: run("predict", "-m", color_model, *arguments)


@pytest.fixture
def whole(predict, pictures, tmp_path):
    """Gives what an unbroken run writes."""

    def whole_(format_="jsonl", *arguments):
        path = tmp_path / f"whole.{format_}"
        assert predict(pictures, "-o", path, "--force", *arguments).code in (0, 7)
        return path.read_bytes()

    return whole_


def first_rows(content, count, format_="jsonl"):
    return b"".join(content.splitlines(keepends=True)[: count + (format_ == "csv")])


def names_of(path):
    header, path_of = (
        (1, lambda line: line.split(",")[0]) if ".csv" in path.name else (0, lambda line: json.loads(line)["path"])
    )
    return [Path(path_of(line)).name for line in path.read_text().splitlines()[header:]]


def is_alone(path):
    """Whether nothing that a run leaves lies beside `path`."""
    return [name for name in os.listdir(path.parent) if path.name in name] == [path.name]


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(("rows", "torn"), [(5, b""), (5, b'pictures/5.png,ok,colors,,gre"'), (0, b""), (12, b"")])
def test_an_interrupted_run_goes_on_to_the_file_of_an_unbroken_one(
    predict, whole, pictures, tmp_path, format_, rows, torn
):
    path, complete = tmp_path / f"rows.{format_}", whole(format_)
    (tmp_path / f"{path.name}.partial").write_bytes(first_rows(complete, rows, format_) + torn)
    # What does not change the rows may be another.
    ran = predict(pictures, "-o", path, "--resume", "-b", 3, "-j", 1, "--timeout", 5, "--max-pixels", "1M")
    assert ran.code == 0
    assert f"{12 - rows} pictures in" in ran.err
    assert not rows or f"Resuming: {rows} rows are done." in ran.err
    assert not rows or f"; {rows} were done before." in ran.err
    assert path.read_bytes() == complete
    assert is_alone(path)


@pytest.mark.parametrize("format_", FORMATS)
def test_what_is_new_or_failed_comes_behind_what_is_there(predict, pictures, tmp_path, format_):
    path, good = tmp_path / f"rows.{format_}", (pictures / "3.png").read_bytes()
    named = [pictures / f"{number}.png" for number in (7, 3, 5, 1)]
    (pictures / "3.png").write_bytes(b"junk")
    assert predict(*named, "-o", path).code == 7
    assert predict(*named, "-o", path, "--resume").code == 7
    assert names_of(path) == ["7.png", "5.png", "1.png", "3.png"]
    (pictures / "3.png").write_bytes(good)
    (pictures / "5.png").unlink()
    assert predict(pictures, "-o", path, "--resume").code == 0
    assert names_of(path) == [f"{number}.png" for number in (7, 5, 1, 0, 2, 3, 4, 6, 8, 9, 10, 11)]
    before = path.read_bytes()
    assert predict(pictures, "-o", path, "--resume").code == 0
    assert path.read_bytes() == before
    assert is_alone(path)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.partial"])
@pytest.mark.parametrize(
    ("content", "arguments", "code", "words"),
    [
        (None, ["-k", "1"], 2, "line 1 was made with another model or other options"),
        (None, ["-m", "other.onnx"], 2, "another model"),  # the same name and file size
        (b'{"schema": 1}\n', [], 3, "line 1 is no row"),
        (b'{"schema": 1, "path": "a", "status": "ok", "predictions": [{"index": 1}]}\n', [], 2, "another model"),
        (b"\0" * 100 + b"\n", [], 3, "line 1 is no row"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused_and_stays(
    predict, make_color_model, whole, pictures, tmp_path, monkeypatch, name, content, arguments, code, words
):
    monkeypatch.chdir(tmp_path)
    make_color_model("other.onnx", temperature=2.0)
    Path(name).write_bytes(content := content or whole())
    ran = predict(pictures, "-o", "rows.jsonl", "--resume", *arguments)
    assert ran.code == code
    assert f"{name}: " in ran.err
    assert words in ran.err
    assert Path(name).read_bytes() == content
    assert is_alone(Path(name).absolute())


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.partial", "rows.csv.partial", "rows.json"])
def test_what_is_there_needs_a_word(predict, pictures, tmp_path, name):
    (tmp_path / name).write_text("precious")
    path = tmp_path / name.removesuffix(".partial")
    ran = predict(pictures, "-o", path)
    assert ran.code == 2
    assert str(tmp_path / name) in ran.err
    assert ("--resume" in ran.err) == (name != "rows.json")
    assert (tmp_path / name).read_text() == "precious"
    assert predict(pictures, "-o", path, "--force").code == 0
    assert "precious" not in path.read_text()
    assert is_alone(path)


@pytest.mark.parametrize("format_", FORMATS)
def test_names_of_any_kind_are_found_again(predict, tmp_path, monkeypatch, format_):
    plain = save_picture(tmp_path / "pictures" / "plain.png", (255, 0, 0))
    for name in (b"=1+1.png", b"'quoted, really'.png", b"new\nline.png", b"new\\nline.png", b"\xff\xfe.png", b" x.png"):
        os.link(plain, os.path.join(os.fsencode(plain.parent), name))
    monkeypatch.chdir(plain.parent)
    rows = tmp_path / f"rows.{format_}"
    assert predict("*.png", "-o", rows).code == 0
    before = rows.read_bytes()
    assert format_ == "jsonl" or b"'=1+1.png" in before  # no formula for a spreadsheet
    assert "0 pictures in 0.0 s; 7 were done before" in predict("*.png", "-o", rows, "--resume").err
    assert rows.read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="needs resource limits")
def test_a_full_disk_leaves_every_complete_row(color_model, predict, whole, pictures, tmp_path):
    def few_bytes():
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    rows, complete = tmp_path / "rows.jsonl", whole()
    command = ["predict", str(pictures), "-m", str(color_model), "-o", str(rows), "-q"]
    ran = subprocess.run([sys.executable, "-m", "visiontool", *command], stderr=-1, text=True, preexec_fn=few_bytes)
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == [
        f"The rows so far are in {rows}.partial. Continue with --resume.",
        f"Error: {rows} cannot be written: File too large",
    ]
    left = (tmp_path / "rows.jsonl.partial").read_bytes()
    assert left in [first_rows(complete, count) for count in range(1, 12)]
    assert predict(pictures, "-o", rows, "--resume").code == 0
    assert rows.read_bytes() == complete


def test_a_link_stays_a_link_and_private_rows_stay_private(predict, pictures, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    real, rows = tmp_path / "elsewhere" / "real.jsonl", tmp_path / "rows.jsonl"
    predict(pictures, "-o", real)
    real.chmod(0o600)
    rows.symlink_to(real)
    for word in ("--resume", "--force"):
        assert predict(pictures, "-o", rows, word).code == 0
        assert rows.is_symlink()
        assert real.stat().st_mode & 0o777 == 0o600
        assert is_alone(real)


def test_parquet_is_written_and_not_gone_on_with(predict, whole, pictures, tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    ran = predict(pictures, "-o", path, "--resume")
    assert (ran.code, "give -o FILE.jsonl" in ran.err) == (2, True)
    with monkeypatch.context() as patched:
        patched.setattr(target, "find_spec", lambda name: None)
        ran = predict(pictures, "-o", path)
    assert (ran.code, "visiontool[parquet]" in ran.err) == (2, True)
    parquet = pytest.importorskip("pyarrow.parquet")

    def full(json_lines, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(resume, "write_parquet", full)
        ran = predict(pictures, "-o", path)
    assert (ran.code, "No space left on device" in ran.err) == (1, True)
    assert is_alone(tmp_path / "rows.parquet.partial")
    assert (tmp_path / "rows.parquet.partial").read_bytes() == whole()  # JSON lines
    assert predict(pictures, "-o", path, "--force").code == 0
    lines = [json.loads(line) for line in whole().splitlines()]
    assert [{**row, "predictions": None} for row in parquet.read_table(path).select(list(lines[0])).to_pylist()] == [
        {**line, "predictions": None} for line in lines
    ]
