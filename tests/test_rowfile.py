"""Rows that outlive a run: whatever happens, what was finished is kept, once, in order."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import BLUE, GREEN, RED, save_color_pictures, save_picture

needs_pyarrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="needs the extra [parquet]")
FORMATS = ["jsonl", "csv", pytest.param("parquet", marks=needs_pyarrow)]


@pytest.fixture
def pictures(tmp_path):
    return save_color_pictures(tmp_path / "pictures", 12)


@pytest.fixture
def predict(run, color_model):
    return lambda *arguments: run("predict", "-m", color_model, *arguments)


def names_of(path):
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return [Path(name).name for name in parquet.read_table(path).column("path").to_pylist()]
    if ".csv" in path.name:
        return [Path(line.split(",")[0]).name for line in path.read_text().splitlines()[1:]]
    return [Path(json.loads(line)["path"]).name for line in path.read_text().splitlines()]


def is_alone(path):
    """Whether nothing that a run leaves lies beside `path`."""
    return [name for name in os.listdir(path.parent) if path.name in name] == [path.name]


def is_locked(path):
    """Whether a process holds `path`; asked without taking it, which could keep that process from it."""
    return path.exists() and f":{path.stat().st_ino} " in Path("/proc/locks").read_text()


def interrupt(path, rows, torn=b""):
    """Makes of the complete file at `path` what a run that was killed after `rows` rows would have left."""
    lines = path.read_bytes().splitlines(keepends=True)
    header = 1 if ".csv" in path.name else 0
    path.with_name(path.name + ".partial").write_bytes(b"".join(lines[: header + rows]) + torn)
    path.unlink()


@pytest.mark.parametrize("format_", FORMATS)
def test_an_interrupted_run_goes_on_to_the_same_file(predict, pictures, tmp_path, format_):
    whole = tmp_path / f"whole.{format_}"
    assert predict(pictures, "-o", whole).code == 0
    rows = tmp_path / f"rows.{format_}"
    if format_ == "parquet":  # its unfinished form is JSON lines
        assert predict(pictures, "-o", tmp_path / "lines.jsonl").code == 0
        (tmp_path / "lines.jsonl").rename(rows)
    else:
        rows.write_bytes(whole.read_bytes())
    interrupt(rows, 5, torn=b'{"schema": 1, "path": "pict' if format_ != "csv" else b"pictures/5.png,ok,colors,,gre")
    ran = predict(pictures, "-o", rows, "--resume")
    assert ran.code == 0
    assert "Going on: 5 rows are there already." in ran.err
    assert "7 pictures in" in ran.err
    assert "5 were done before" in ran.err
    assert rows.read_bytes() == whole.read_bytes()
    assert names_of(rows) == [f"{index}.png" for index in range(12)]
    assert is_alone(rows)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_complete_file_is_gone_on_with_too(predict, pictures, tmp_path, format_):
    rows = tmp_path / f"rows.{format_}"
    for index in (2, 5, 11):
        (pictures / f"{index}.png").rename(tmp_path / f"{index}.png")
    assert predict(pictures, "-o", rows).code == 0
    for index in (2, 5, 11):
        (tmp_path / f"{index}.png").rename(pictures / f"{index}.png")
    ran = predict(pictures, "-o", rows, "--resume")
    assert "3 pictures in" in ran.err
    whole = tmp_path / f"whole.{format_}"
    predict(pictures, "-o", whole)
    assert rows.read_bytes() == whole.read_bytes()
    assert predict(pictures, "-o", rows, "--resume").code == 0
    assert rows.read_bytes() == whole.read_bytes()
    assert is_alone(rows)


@pytest.mark.parametrize("format_", FORMATS)
def test_rows_that_failed_are_done_again_in_their_place(predict, pictures, tmp_path, format_):
    good = (pictures / "3.png").read_bytes()
    (pictures / "3.png").write_bytes(b"junk")
    rows = tmp_path / f"rows.{format_}"
    assert predict(pictures, "-o", rows).code == 7
    assert predict(pictures, "-o", rows, "--resume").code == 7
    (pictures / "3.png").write_bytes(good)
    ran = predict(pictures, "-o", rows, "--resume")
    assert ran.code == 0
    assert "1 picture in" in ran.err
    whole = tmp_path / f"whole.{format_}"
    predict(pictures, "-o", whole)
    assert rows.read_bytes() == whole.read_bytes()


def test_without_anything_to_go_on_with_resume_begins(predict, pictures, tmp_path):
    rows = tmp_path / "rows.csv"
    assert predict(pictures, "-o", rows, "--resume").code == 0
    assert len(names_of(rows)) == 12
    assert is_alone(rows)


def test_rows_whose_inputs_are_gone_are_kept_among_their_neighbors(predict, pictures, tmp_path):
    rows = tmp_path / "rows.jsonl"
    predict(pictures, "-o", rows)
    for index in (0, 4, 11):
        (pictures / f"{index}.png").unlink()
    save_picture(pictures / "3b.png", RED)
    assert predict(pictures, "-o", rows, "--resume").code == 0
    assert names_of(rows) == [f"{name}.png" for name in (0, 1, 2, 3, "3b", 4, 5, 6, 7, 8, 9, 10, 11)]


def test_rows_in_another_order_are_kept_once(predict, pictures, tmp_path):
    rows = tmp_path / "rows.jsonl"
    named = [pictures / f"{index}.png" for index in range(12)]
    predict(*named[:8], "-o", rows)
    shuffled = random.Random(0).sample(named, 12)
    assert predict(*shuffled, "-o", rows, "--resume").code == 0
    assert sorted(names_of(rows)) == sorted(path.name for path in named)
    kept = [name for name in names_of(rows) if int(name[:-4]) < 8]
    assert kept == [f"{index}.png" for index in range(8)]
    new = [name for name in names_of(rows) if int(name[:-4]) >= 8]
    assert new == [path.name for path in shuffled if path not in named[:8]]


@pytest.mark.parametrize("change", [["-k", "1"], ["--min-probability", "0.9"], ["--crop-mode", "squash"], "model"])
def test_other_options_or_another_model_are_refused(run, predict, make_color_model, pictures, tmp_path, change):
    rows = tmp_path / "rows.jsonl"
    assert predict(pictures, "-o", rows).code == 0
    before = rows.read_bytes()
    if change == "model":  # the same name and file size
        ran = run("predict", "-m", make_color_model("other.onnx", temperature=2.0), pictures, "-o", rows, "--resume")
    else:
        ran = predict(pictures, "-o", rows, "--resume", *change)
    assert ran.code == 2
    assert f"{rows}: line 1 was made with another model or other options" in ran.err
    assert "--force" in ran.err
    assert rows.read_bytes() == before
    assert is_alone(rows)


def test_what_does_not_change_rows_may_change(predict, pictures, tmp_path):
    rows = tmp_path / "rows.jsonl"
    predict(pictures, "-o", rows)
    assert predict(pictures, "-o", rows, "--resume", "-b", 3, "-j", 1, "--timeout", 5, "--max-pixels", "1M").code == 0


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b'{"schema": 1}\n', 3, "line 1 is no row"),
        (b"hello\nworld\n", 3, "line 1 is no row"),
        (b'{"schema": 1, "path": "a", "status": "ok", "predictions": [{"index": 1}]}\n', 2, "another model"),
        (b"\0" * 100 + b"\n", 3, "line 1 is no row"),
    ],
)
def test_what_are_no_rows_are_refused_and_stay(predict, pictures, tmp_path, content, code, words):
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(content)
    ran = predict(pictures, "-o", rows, "--resume")
    assert ran.code == code
    assert words in ran.err
    assert rows.read_bytes() == content
    assert is_alone(rows)


def test_a_file_that_is_no_parquet_is_refused_and_stays(predict, pictures, tmp_path):
    pytest.importorskip("pyarrow")
    rows = tmp_path / "rows.parquet"
    rows.write_bytes(b"PAR1 but not really PAR1")
    ran = predict(pictures, "-o", rows, "--resume")
    assert ran.code == 3
    assert "rows.parquet is no Parquet file of rows" in ran.err
    assert rows.read_bytes() == b"PAR1 but not really PAR1"


def test_parquet_without_its_extra_names_it(predict, pictures, tmp_path, monkeypatch):
    from visiontool.cli import output

    monkeypatch.setattr(output, "find_spec", lambda name: None)
    ran = predict(pictures, "-o", tmp_path / "rows.parquet")
    assert ran.code == 2
    assert "visiontool[parquet]" in ran.err


def test_a_power_cut_that_left_zeros_costs_the_last_rows_only(predict, pictures, tmp_path):
    rows = tmp_path / "rows.jsonl"
    predict(pictures, "-o", rows)
    whole = rows.read_bytes()
    interrupt(rows, 7, torn=b"\0" * 500)
    assert predict(pictures, "-o", rows, "--resume").code == 0
    assert rows.read_bytes() == whole


def test_an_existing_file_or_its_rest_needs_a_word(predict, pictures, tmp_path):
    rows = tmp_path / "rows.jsonl"
    predict(pictures, "-o", rows)
    whole = rows.read_bytes()
    ran = predict(pictures, "-o", rows)
    assert ran.code == 2
    assert "--resume" in ran.err
    assert "--force" in ran.err
    interrupt(rows, 3)
    ran = predict(pictures, "-o", rows)
    assert ran.code == 2
    assert "--resume" in ran.err
    assert predict(pictures, "-o", rows, "--force").code == 0
    assert rows.read_bytes() == whole
    assert is_alone(rows)


def test_a_killed_run_with_force_is_not_mixed_with_what_it_was_to_replace(predict, pictures, tmp_path):
    rows = tmp_path / "rows.jsonl"
    predict(pictures, "-o", rows, "-k", 1)
    old = rows.read_bytes()
    predict(pictures, "-o", tmp_path / "new.jsonl")
    new = (tmp_path / "new.jsonl").read_bytes()
    # What `--force` leaves when it is killed after two rows.
    (tmp_path / ".rows.jsonl.visiontool-before").write_bytes(b"")
    (tmp_path / "rows.jsonl.partial").write_bytes(b"".join(new.splitlines(keepends=True)[:2]))
    assert predict(pictures, "-o", rows, "--resume", "-k", 1).code == 2
    assert rows.read_bytes() == old
    assert predict(pictures, "-o", rows, "--resume").code == 0
    assert rows.read_bytes() == new
    assert is_alone(rows)


def test_a_second_run_on_the_same_file_is_refused(color_model, predict, pictures, tmp_path):
    rows = tmp_path / "rows.jsonl"
    with subprocess.Popen(
        [sys.executable, "-m", "visiontool", "predict", "-", "-m", str(color_model), "-o", str(rows), "-q"],
        stdin=subprocess.PIPE,
    ) as process:
        process.stdin.write(f"{pictures / '0.png'}\n".encode())
        process.stdin.flush()
        wait_for(lambda: is_locked(tmp_path / "rows.jsonl.partial"))
        for word in ("--resume", "--force"):
            ran = predict(pictures, "-o", rows, word)
            assert ran.code == 2
            assert "is being written by another run" in ran.err
        process.stdin.close()
        assert process.wait(60) == 0
    assert names_of(rows) == ["0.png"]


@pytest.mark.parametrize("format_", ["jsonl", "csv"])
def test_names_of_any_kind_are_found_again(predict, tmp_path, format_):
    folder = tmp_path / "pictures"
    save_picture(folder / "plain.png", RED)
    for name in (b"=1+1.png", b"'quoted, really'.png", b"new\nline.png", b"new\\nline.png", b"\xff\xfe.png", b" x.png"):
        os.link(folder / "plain.png", os.path.join(os.fsencode(folder), name))
    rows = tmp_path / f"rows.{format_}"
    assert predict(folder, "-o", rows).code == 0
    before = rows.read_bytes()
    ran = predict(folder, "-o", rows, "--resume")
    assert "0 pictures" in ran.err
    assert "7 were done before" in ran.err
    assert rows.read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="needs resource limits")
@pytest.mark.parametrize("format_", ["jsonl", "csv"])
def test_a_full_disk_leaves_every_complete_row(color_model, predict, pictures, tmp_path, format_):
    rows, whole = tmp_path / f"rows.{format_}", tmp_path / f"whole.{format_}"
    predict(pictures, "-o", whole)

    def few_bytes():
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    ran = subprocess.run(
        [sys.executable, "-m", "visiontool", "predict", str(pictures), "-m", str(color_model), "-o", str(rows), "-q"],
        capture_output=True,
        text=True,
        preexec_fn=few_bytes,
    )
    assert ran.returncode == 1
    assert f"Error: {rows} cannot be written: File too large" in ran.stderr
    assert "Traceback" not in ran.stderr
    left = tmp_path / f"rows.{format_}.partial"
    lines = whole.read_bytes().splitlines(keepends=True)
    assert left.read_bytes() in [b"".join(lines[:count]) for count in range(2, 12)]
    assert predict(pictures, "-o", rows, "--resume").code == 0
    assert rows.read_bytes() == whole.read_bytes()


def test_a_backup_that_a_user_made_is_left_alone(predict, pictures, tmp_path):
    rows = tmp_path / "rows.jsonl"
    predict(pictures, "-o", rows)
    backups = {tmp_path / f"rows.jsonl.{ending}": ending.encode() for ending in ("before", "bak", "gathering")}
    for path, content in backups.items():
        path.write_bytes(content)
    for word in ("--resume", "--force"):
        assert predict(pictures, "-o", rows, word).code == 0
    for path, content in backups.items():
        assert path.read_bytes() == content


def test_a_link_stays_a_link_and_private_rows_stay_private(predict, pictures, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    real, rows = tmp_path / "elsewhere" / "real.jsonl", tmp_path / "rows.jsonl"
    predict(pictures, "-o", real)
    real.chmod(0o600)
    rows.symlink_to(real)
    os.link(pictures / "0.png", pictures / "12.png")
    assert predict(pictures, "-o", rows, "--resume").code == 0
    assert rows.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600
    assert len(names_of(real)) == 13
    assert is_alone(real)


@pytest.mark.parametrize("format_", FORMATS)
def test_the_row_of_a_picture_that_failed_and_is_gone_is_kept(predict, pictures, tmp_path, format_):
    rows = tmp_path / f"rows.{format_}"
    (pictures / "4.png").write_bytes(b"junk")
    assert predict(pictures, "-o", rows).code == 7
    before = rows.read_bytes()
    (pictures / "4.png").unlink()
    ran = predict(pictures, "-o", rows, "--resume")
    assert ran.code == 7
    assert "1 of 12 inputs failed" in ran.err
    assert rows.read_bytes() == before


def test_nothing_left_to_do_completes_the_file(predict, pictures, tmp_path):
    rows = tmp_path / "rows.jsonl"
    predict(pictures, "-o", rows)
    whole = rows.read_bytes()
    interrupt(rows, 12)
    for path in pictures.iterdir():
        path.unlink()
    assert predict(pictures, "-o", rows, "--resume").code == 0
    assert rows.read_bytes() == whole
    assert predict(pictures, "-o", tmp_path / "other.jsonl", "--resume").code == 3


@needs_pyarrow
def test_parquet_that_cannot_be_written_leaves_its_rows(predict, pictures, tmp_path, monkeypatch):
    from visiontool.cli import parquet

    def full(lines, path):
        path.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device", str(path))

    rows = tmp_path / "rows.parquet"
    with monkeypatch.context() as patched:
        patched.setattr(parquet, "write", full)
        ran = predict(pictures, "-o", rows)
    assert ran.code == 1
    assert "No space left on device" in ran.err
    assert f"The rows so far are in {rows}.partial. Go on with --resume." in ran.err
    assert sorted(os.listdir(tmp_path)) == ["colors.onnx", "pictures", "rows.parquet.partial"]
    ran = predict(pictures, "-o", rows, "--resume")
    assert "0 pictures in" in ran.err
    assert names_of(rows) == [f"{index}.png" for index in range(12)]


# Killed between any two of these calls, twice in a row, no row may be lost.
STEPS = ("open", "write", "ftruncate", "replace", "unlink")


def one_run(target, inputs, words, dies_at):
    """A run in a process of its own that writes the rows of `inputs`, and dies at the given step. Gives its status."""
    from visiontool.cli.rowfile import RowFile
    from visiontool.cli.rows import make_lines
    from visiontool.result import Prediction, Result

    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        steps = 0

        def counted(real):
            def step(*arguments, **options):
                nonlocal steps
                steps += 1
                if steps == dies_at:
                    os._exit(99)
                return real(*arguments, **options)

            return step

        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        with RowFile(target, make_lines(target.suffix[1:], 1, "run"), **words) as rows:
            for path in inputs:
                if rows.has(path):
                    rows.keep(path)
                else:
                    rows.write(Result(path, "m", (Prediction("red", 0, 0.5),)))
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("begin", ["nothing", "some", "force"])
def test_no_row_is_lost_when_two_runs_die_at_any_step(tmp_path, format_, begin):
    """An input that earlier runs had is gone in between, so its row cannot be made again."""
    inputs = [f"{index}.png" for index in range(6)]
    expected = inputs if begin != "some" else ["gone.png", *inputs]
    first_died = second_died = 0
    for first in range(1, 60):
        codes = []
        for second in range(1, 60, 1 if first % 5 == 0 else 7):
            folder = tmp_path / f"{first}-{second}"
            folder.mkdir()
            target = folder / f"rows.{format_}"
            if begin == "some":
                assert one_run(target, ["gone.png", *inputs[:3]], {}, 0) == 0
            elif begin == "force":
                assert one_run(target, ["other.png"], {}, 0) == 0
            words = {"force": True} if begin == "force" else {"resume": True}
            codes.append(one_run(target, inputs, words, first))
            assert codes[-1] in (0, 99)
            code = one_run(target, inputs, {"resume": True}, second)
            assert code in (0, 99)
            assert one_run(target, inputs, {"resume": True}, 0) == 0
            # Where --force died before it began, what was there before it is gone on with.
            assert names_of(target) in (expected, [*inputs, "other.png"] if begin == "force" else expected)
            assert is_alone(target)
            first_died += codes[-1] == 99
            second_died += code == 99
            if code == 0:
                break
        if codes[-1] == 0:
            break
    assert first_died > 20
    assert second_died > 10


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("format_", FORMATS)
def test_killed_ten_times_at_random_the_file_is_that_of_an_unbroken_run(color_model, tmp_path, format_):
    """2,000 pictures, a hundred of them broken; SIGKILL for the whole process at ten random moments."""
    folder, rng = tmp_path / "pictures", random.Random(format_)
    for color in (RED, GREEN, BLUE):
        save_picture(folder / f"{color}.png", color)
    for index in range(2000 - 103):
        os.link(folder / f"{rng.choice((RED, GREEN, BLUE))}.png", folder / f"{index}.png")
    for index in range(100):
        (folder / f"{index}-broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    whole, rows = tmp_path / f"whole.{format_}", tmp_path / f"rows.{format_}"
    command = [sys.executable, "-m", "visiontool", "predict", "pictures", "-q", "-m", str(color_model)]
    start = time.monotonic()
    unbroken = subprocess.run([*command, "-o", str(whole)], cwd=tmp_path, stderr=subprocess.DEVNULL)
    length = time.monotonic() - start
    assert unbroken.returncode == 7
    killed = 0
    while killed < 10:
        process = subprocess.Popen(
            [*command, "-o", str(rows), "--resume"], cwd=tmp_path, stderr=subprocess.DEVNULL, env=os.environ
        )
        # Early and late ones alike: while it starts, gathers rows, predicts, ends.
        time.sleep(rng.uniform(0.2, 1.0) * length * rng.choice((0.4, 1.0)))
        if process.poll() is not None:
            assert rows.read_bytes() == whole.read_bytes()
            rows.unlink()
            continue
        process.kill()
        process.wait()
        killed += 1
    last = subprocess.run([*command, "-o", str(rows), "--resume"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    assert last.returncode == 7
    assert rows.read_bytes() == whole.read_bytes()
    assert len(names_of(rows)) == 2000
    assert is_alone(rows)
