"""The file of -o: a run that was interrupted is gone on with, and rows that are there stay."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import save_color_pictures, save_picture

from visiontool.cli.output.resume import Finished
from visiontool.cli.output.rows import FinishedRow, Json
from visiontool.cli.output.target import rows_to
from visiontool.errors import UsageError

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
    lines = path.read_text().splitlines()
    names = (
        [line.split(",")[0] for line in lines[1:]] if ".csv" in path.name else [json.loads(x)["path"] for x in lines]
    )
    return [Path(name).name for name in names]


def is_alone(path):
    """Whether nothing that a run leaves lies beside `path`."""
    return [name for name in os.listdir(path.parent) if path.name in name] == [path.name]


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    ("rows", "torn"), [(5, b""), (5, b'pictures/5.png,ok,colors,,gre"'), (5, b"\0" * 500), (0, b""), (12, b"")]
)
def test_an_interrupted_run_goes_on_to_the_file_of_an_unbroken_one(
    predict, whole, pictures, tmp_path, format_, rows, torn
):
    path, complete = tmp_path / f"rows.{format_}", whole(format_)
    (tmp_path / f"{path.name}.partial").write_bytes(first_rows(complete, rows, format_) + torn)
    ran = predict(pictures, "-o", path, "--resume")
    assert ran.code == 0
    assert f"{12 - rows} pictures in" in ran.err
    assert not rows or f"Going on: {rows} rows are there already." in ran.err
    assert not rows or f"; {rows} were done before." in ran.err
    assert path.read_bytes() == complete
    assert is_alone(path)


@pytest.mark.parametrize("partial", [b"", b"path,sta"])
def test_where_nothing_was_written_yet_resume_begins(predict, whole, pictures, tmp_path, partial):
    (tmp_path / "rows.csv.partial").write_bytes(partial)
    assert predict(pictures, "-o", tmp_path / "rows.csv", "--resume").code == 0
    assert (tmp_path / "rows.csv").read_bytes() == whole("csv")


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


def test_nothing_left_to_do_completes_the_file(predict, whole, pictures, tmp_path):
    path, complete = tmp_path / "rows.jsonl", whole()
    (tmp_path / "rows.jsonl.partial").write_bytes(complete)
    for picture in pictures.iterdir():
        picture.unlink()
    assert predict(pictures, "-o", path, "--resume").code == 0
    assert path.read_bytes() == complete
    assert predict(pictures, "-o", tmp_path / "other.jsonl", "--resume").code == 3


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.partial"])
@pytest.mark.parametrize(
    ("content", "arguments", "code", "words"),
    [
        (None, ["-k", "1"], 2, "line 1 was made with another model or other options"),
        (None, ["--min-probability", "0.9"], 2, "--force"),
        (None, ["--crop-mode", "squash"], 2, "other options"),
        (None, ["-m", "other.onnx"], 2, "another model"),  # the same name and file size
        (b'{"schema": 1}\n', [], 3, "line 1 is no row"),
        (b"hello\nworld\n", [], 3, "line 1 is no row"),
        (b'{"path": "a", "status": "ok", "predictions": [{"index": "x"}]}\n', [], 3, "line 1 is no row"),
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


def test_what_does_not_change_rows_may_change(predict, whole, pictures, tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(whole())
    arguments = ("-b", 3, "-j", 1, "--timeout", 5, "--max-pixels", "1M")
    assert predict(pictures, "-o", tmp_path / "rows.jsonl", "--resume", *arguments).code == 0


def test_rows_of_force_are_not_mixed_with_what_they_replace(predict, whole, pictures, tmp_path):
    path, old, new = tmp_path / "rows.jsonl", whole("jsonl", "-k", 1), whole()
    path.write_bytes(old)
    (tmp_path / "rows.jsonl.partial").write_bytes(first_rows(new, 2))
    assert predict(pictures, "-o", path, "--resume", "-k", 1).code == 2
    assert path.read_bytes() == old
    assert predict(pictures, "-o", path, "--resume").code == 0
    assert path.read_bytes() == new
    assert is_alone(path)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.partial", "rows.csv.partial", "rows.json"])
def test_what_is_there_needs_a_word(predict, pictures, tmp_path, name):
    (tmp_path / name).write_text("precious")
    target = tmp_path / name.removesuffix(".partial")
    ran = predict(pictures, "-o", target)
    assert ran.code == 2
    assert str(tmp_path / name) in ran.err
    assert ("--resume" in ran.err) == (name != "rows.json")
    assert (tmp_path / name).read_text() == "precious"
    assert predict(pictures, "-o", target, "--force").code == 0
    assert "precious" not in target.read_text()
    assert is_alone(target)


def test_a_second_run_on_one_file_is_refused(tmp_path):
    target = tmp_path / "rows.json"
    with rows_to(target, Json(False), "json", resume=False):
        for _ in range(2):
            with pytest.raises(UsageError, match="another run"), rows_to(target, Json(False), "json", resume=False):
                pass
    assert target.read_text() == "[\n]\n"
    assert is_alone(target)


@pytest.mark.parametrize("format_", FORMATS)
def test_names_of_any_kind_are_found_again(predict, tmp_path, format_):
    plain = save_picture(tmp_path / "pictures" / "plain.png", (255, 0, 0))
    for name in (b"=1+1.png", b"'quoted, really'.png", b"new\nline.png", b"new\\nline.png", b"\xff\xfe.png", b" x.png"):
        os.link(plain, os.path.join(os.fsencode(plain.parent), name))
    rows = tmp_path / f"rows.{format_}"
    assert predict(plain.parent, "-o", rows).code == 0
    before = rows.read_bytes()
    assert "0 pictures in 0.0 s; 7 were done before" in predict(plain.parent, "-o", rows, "--resume").err
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
        f"The rows so far are in {rows}.partial. Go on with --resume.",
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
    from visiontool.cli.output import parquet
    from visiontool.cli.output import target as output

    rows = tmp_path / "rows.parquet"
    ran = predict(pictures, "-o", rows, "--resume")
    assert ran.code == 2
    assert "Give JSON lines instead: -o FILE.jsonl" in ran.err
    with monkeypatch.context() as patched:
        patched.setattr(output, "find_spec", lambda name: None)
        ran = predict(pictures, "-o", rows)
    assert ran.code == 2
    assert "visiontool[parquet]" in ran.err
    if find_spec("pyarrow") is None:
        pytest.skip("needs the extra [parquet]")

    def full(lines, file):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(parquet, "write", full)
        ran = predict(pictures, "-o", rows)
    assert ran.code == 1
    assert "No space left on device" in ran.err
    assert is_alone(tmp_path / "rows.parquet.partial")
    assert (tmp_path / "rows.parquet.partial").read_bytes() == whole()  # JSON lines
    assert predict(pictures, "-o", rows, "--force").code == 0
    from pyarrow.parquet import read_table

    lines = [json.loads(line) for line in whole().splitlines()]
    assert [{**row, "predictions": None} for row in read_table(rows).select(list(lines[0])).to_pylist()] == [
        {**line, "predictions": None} for line in lines
    ]


def test_a_finished_row_costs_less_than_100_bytes():
    tracemalloc.start()
    try:
        finished = Finished(
            FinishedRow(f"photos/{number}.jpg", True, "run", number % 1000, False) for number in range(20_000)
        )
        assert tracemalloc.get_traced_memory()[1] < 60 * 20_000
    finally:
        tracemalloc.stop()
    assert len(finished) == 20_000
    assert [finished.class_of(f"photos/{number}.jpg") for number in (0, 999, 1007, 20_000)] == [0, 999, 7, None]


@pytest.mark.slow
@pytest.mark.parametrize("format_", FORMATS)
def test_killed_ten_times_at_random_the_file_is_that_of_an_unbroken_run(color_model, tmp_path, format_):
    """2,000 pictures; SIGKILL for the whole process at ten random moments."""
    folder, rng = save_color_pictures(tmp_path / "pictures", 3), random.Random(format_)
    for index in range(3, 2000):
        os.link(folder / f"{rng.randrange(3)}.png", folder / f"{index}.png")
    whole, rows = tmp_path / f"whole.{format_}", tmp_path / f"rows.{format_}"
    command = [sys.executable, "-m", "visiontool", "predict", str(folder), "-q", "-m", str(color_model)]
    start = time.monotonic()
    subprocess.run([*command, "-o", str(whole)], check=True)
    length = time.monotonic() - start
    killed = 0
    while killed < 10:
        process = subprocess.Popen([*command, "-o", str(rows), "--resume"], stderr=subprocess.DEVNULL)
        # Early and late ones alike: while it starts, reads rows, predicts, ends.
        time.sleep(rng.uniform(0.2, 1.0) * length * rng.choice((0.4, 1.0)))
        if process.poll() is not None:
            assert rows.read_bytes() == whole.read_bytes()
            rows.unlink()
            continue
        process.kill()
        process.wait()
        killed += 1
    subprocess.run([*command, "-o", str(rows), "--resume"], check=True)
    assert rows.read_bytes() == whole.read_bytes()
    assert is_alone(rows)
