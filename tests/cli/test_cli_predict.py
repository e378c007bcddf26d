"""`visiontool predict`: rows, formats, exit codes. stdout and stderr are looked at apart."""

import csv
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from conftest import ROOT, save_picture
from PIL import Image

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
# softmax of (1, 0, 0): e / (e + 2)
CERTAIN = 0.576117


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    for name, color in (("2.png", GREEN), ("10.png", BLUE), ("1.png", RED)):
        save_picture(folder / name, color)
    return folder


def rows_of(text):
    return [json.loads(line) for line in text.splitlines()]


def test_one_picture_gives_one_json_object(run, color_model, pictures):
    ran = run("predict", pictures / "1.png", "-m", color_model)
    assert ran.code == 0
    row = json.loads(ran.out)
    assert row["schema"] == 1
    assert row["path"] == str(pictures / "1.png")
    assert row["status"] == "ok"
    assert row["model"] == "colors"
    assert row["predictions"][0] == {"label": "red", "index": 0, "probability": CERTAIN}
    assert [item["label"] for item in row["predictions"]] == ["red", "green", "blue"]


def test_a_folder_gives_a_line_a_picture_in_natural_order(run, color_model, pictures):
    ran = run("predict", pictures, "-m", color_model, "-k", 1)
    assert ran.code == 0
    rows = rows_of(ran.out)
    assert [Path(row["path"]).name for row in rows] == ["1.png", "2.png", "10.png"]
    assert [row["predictions"][0]["label"] for row in rows] == ["red", "green", "blue"]
    assert all(len(row["predictions"]) == 1 for row in rows)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_a_broken_picture_gets_its_own_row_and_never_its_neighbors_answer(run, color_model, pictures, batch_size):
    (pictures / "1b.png").write_bytes(b"junk")
    (pictures / "3.png").write_bytes((pictures / "2.png").read_bytes()[:45])
    ran = run("predict", pictures, pictures / "gone.png", "-m", color_model, "-b", batch_size)
    assert ran.code == 7
    rows = {Path(row["path"]).name: row for row in rows_of(ran.out)}
    assert list(rows) == ["1.png", "1b.png", "2.png", "3.png", "10.png", "gone.png"]
    assert rows["2.png"]["predictions"][0]["label"] == "green"
    assert rows["10.png"]["predictions"][0]["label"] == "blue"
    for name, word in (("1b.png", "not a picture"), ("3.png", "truncated"), ("gone.png", "no such file")):
        assert rows[name]["status"] == "error"
        assert word in rows[name]["error"]
        assert "predictions" not in rows[name]
    assert "3 of 6 inputs failed" in ran.err


def test_a_jpeg_that_is_cut_off_is_classified_where_that_is_asked_for(run, color_model, tmp_path):
    whole = Path(save_picture(tmp_path / "a.jpg", RED, (160, 160))).read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) - 20])
    command = ["predict", tmp_path / "a.jpg", "-m", color_model]
    ran = run(*command)
    assert (ran.code, "--on-truncated fill" in json.loads(ran.out)["error"]) == (7, True)
    ran = run(*command, "--on-truncated", "fill")
    row = json.loads(ran.out)
    assert (ran.code, row["predictions"][0]["label"]) == (0, "red")
    assert row["notes"][0].startswith("truncated: ")


def test_no_warning_of_python_reaches_stderr(run, color_model, pictures, monkeypatch):
    from visiontool.inference.classifier import Classifier

    def loud(self, *args, **options):
        warnings.simplefilter("always")  # as some libraries do
        warnings.warn("about code", stacklevel=1)
        logging.getLogger("PIL.loud").error("about code")
        return predict_stream(self, *args, **options)

    predict_stream = Classifier.predict_stream
    monkeypatch.setattr(Classifier, "predict_stream", loud)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's
    before = list(warnings.filters)
    ran = run("predict", pictures / "1.png", "-m", color_model, "-q")
    assert (ran.code, ran.err) == (0, "")
    assert list(warnings.filters) == before


def test_the_shape_of_json_follows_what_was_typed_not_what_is_there(run, color_model, pictures, tmp_path):
    for typed, kind in (("1.png", dict), ("gone.png", dict), ("", list), ("1.*", list)):
        document = json.loads(run("predict", pictures / typed, "-m", color_model, "--json").out)
        assert type(document) is kind
    save_picture(tmp_path / "one" / "a.png", RED)
    assert len(json.loads(run("predict", tmp_path / "one", "-m", color_model, "--json").out)) == 1


def test_temperature_and_minimum(run, make_color_model, pictures):
    model = make_color_model("soft.onnx", temperature=2.0)
    for minimum, unknown in ((0.45, None), (0.46, True)):
        row = json.loads(run("predict", pictures / "1.png", "-m", model, "--min-probability", minimum).out)
        assert row["predictions"][0] == {"label": "red", "index": 0, "probability": 0.451863}  # e^0.5 / (e^0.5 + 2)
        assert row.get("unknown") is unknown


def test_csv_has_one_line_a_picture_and_a_header(run, color_model, pictures):
    (pictures / "4.png").write_bytes(b"")
    ran = run("predict", pictures, "-m", color_model, "--format", "csv", "-k", 2, "--min-probability", 0.6)
    assert ran.code == 7
    lines = list(csv.DictReader(io.StringIO(ran.out)))
    assert [Path(line["path"]).name for line in lines] == ["1.png", "2.png", "4.png", "10.png"]
    assert lines[0]["label_1"] == "red"
    assert float(lines[0]["probability_1"]) == CERTAIN
    assert lines[0]["unknown"] == "true"
    assert "label_3" not in lines[0]
    assert (lines[2]["status"], lines[2]["label_1"]) == ("error", "")
    assert "empty" in lines[2]["error"]
    assert None not in lines[2]  # as many cells as the header has


@pytest.mark.parametrize("columns", ["80", "0", "1", "-5", "abc"])
def test_table_shows_the_answer_in_80_columns(run, color_model, pictures, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    long = save_picture(pictures / ("x" * 100 + "the_end.png"), BLUE)
    ran = run("predict", pictures, "-m", color_model, "--format", "table")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert len(lines) == 4
    assert all(len(line) <= 80 for line in lines)
    assert "red" in lines[0]
    assert "57.6%" in lines[0]
    assert lines[3].startswith("…")
    assert "the_end.png" in lines[3]
    assert long.name not in lines[3]


def test_a_narrow_terminal_shows_no_bars_but_all_numbers_and_colors(monkeypatch):
    from visiontool.cli.output.table import TableRows
    from visiontool.inference.result import Prediction, Result

    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    result = Result("a/picture.png", "colors", (Prediction("red", 0, 0.5761),), unknown=True)
    shown = TableRows(detailed=False, on_terminal=True).encode(result).decode()
    assert "\x1b[33m" in shown  # unknown, in yellow
    line = re.sub(r"\x1b\[[0-9;]*m", "", shown).rstrip("\n")
    assert len(line) <= 30
    assert "57.6%" in line


def test_the_first_frame_and_errors_are_told(run, color_model, tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, BLUE)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    paths = (tmp_path / "moving.gif", tmp_path / "gone.png")
    ran = run("predict", *paths, "-m", color_model, "--format", "table")
    assert ran.code == 7
    assert "first" in ran.out
    assert "error: no such file" in ran.out
    row = rows_of(run("predict", *paths, "-m", color_model).out)[0]
    assert row["predictions"][0]["label"] == "red"
    assert "first" in row["notes"][0]


def test_table_with_top_k_lists_the_classes_of_every_picture(run, color_model, pictures):
    ran = run("predict", pictures, "-m", color_model, "--format", "table", "-k", 2)
    assert [line.split()[0] for line in ran.out.splitlines() if line.startswith("  ")] == [
        "red", "green", "green", "red", "blue", "red",
    ]  # fmt: skip


@pytest.mark.parametrize("format_", ["table", "json", "jsonl", "csv"])
def test_hostile_file_names_come_out_escaped(run, color_model, tmp_path, format_):
    name = "a\x1b[31m\n\u202e\x9bb.png"
    save_picture(tmp_path / "in" / name, RED)
    ran = run("predict", tmp_path / "in", "-m", color_model, "--format", format_)
    assert ran.code == 0
    for unsafe in ("\x1b", "\u202e", "\x9b"):
        assert unsafe not in ran.out
    if format_ == "jsonl":
        assert json.loads(ran.out)["path"] == str(tmp_path / "in" / name)


def test_a_file_name_that_is_a_formula_stays_text_in_csv(run, color_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_picture(tmp_path / "=1+1.png", RED)
    ran = run("predict", "=1+1.png", "-m", color_model, "--format", "csv")
    assert next(csv.DictReader(io.StringIO(ran.out)))["path"] == "'=1+1.png"


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes any bytes as a name")
def test_a_path_that_is_not_utf8_is_given_as_base64_too(run, color_model, tmp_path):
    import base64

    raw = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    save_picture(tmp_path / "plain.png", RED)
    os.rename(tmp_path / "plain.png", raw)
    row = json.loads(run("predict", os.fsdecode(raw), "-m", color_model).out)
    assert row["status"] == "ok"
    assert row["path"].endswith("\N{REPLACEMENT CHARACTER}.png")
    assert base64.b64decode(row["path_b64"]) == raw


def test_output_file_takes_the_format_of_its_name(run, color_model, pictures, tmp_path):
    for name in ("rows.csv", "rows.jsonl", "rows.json"):
        ran = run("predict", pictures, "-m", color_model, "-o", tmp_path / name)
        assert (ran.code, ran.out) == (0, "")
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 4
    assert len(rows_of((tmp_path / "rows.jsonl").read_text())) == 3
    assert len(json.loads((tmp_path / "rows.json").read_text())) == 3
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["1.png", "--json", "--format", "csv"], 2, "contradict"),
        (["1.png", "--force"], 2, "--force"),
        (["1.png", "-k", "0"], 2, "-k"),
        (["1.png", "--min-probability", "1.5"], 2, "--min-probability"),
        (["1.png", "--device", "gpu"], 2, "expected auto, cpu, cuda"),
        (["1.png", "--mean", "0.5"], 2, "--mean"),
        (["1.png", "--img-size", "8"], 2, "--img-size"),
        (["1.png", "--img-size", "8x"], 2, "not a size"),
        (["1.png", "--mean", "a,b"], 2, "not one number, or three"),
        (["1.png", "--nonsense"], 2, "--nonsense"),
        (["1.png", "--resume"], 2, "--resume goes on with a file that has a row a line"),
        (["1.png", "--resume", "-o", "rows.json"], 2, "give -o FILE.jsonl or -o FILE.csv"),
        (["1.png", "--resume", "--force", "-o", "rows.csv"], 2, "leave one out"),
        (["1.png", "--format", "parquet"], 2, "give -o FILE.parquet"),
        (["1.png", "--shard", "0/4"], 2, "I from 1 to N"),
        (["1.png", "--shard", "5/4"], 2, "I from 1 to N"),
        (["1.png", "--max-pixels", "many"], 2, "not an amount"),
        (["1.png", "--max-bytes", "0"], 2, "not an amount"),
        (["1.png", "--timeout", "0"], 2, "--timeout"),
        (["1.png", "--mode", "copy"], 2, "about --sort-into DIR"),
        (["1.png", "--yes"], 2, "about --sort-into DIR"),
        (["1.png", "--sort-into", "sorted", "--mode", "move"], 2, "say --yes"),
        (["1.png", "--sort-into", "sorted", "--yes"], 2, "about --mode move"),
        (["1.png", "--undo"], 2, "--sort-into DIR and nothing else"),
        (["1.png", "--undo", "--sort-into", "sorted"], 2, "--sort-into DIR and nothing else"),
        (["1.png", "-o", "no/rows.csv"], 2, "-o no/rows.csv: the folder is not there"),
        (["1.png", "-o", "rows.xlsx"], 2, "say --format as well"),
        (["empty"], 3, "no picture was found in empty"),
        (["empty", "--shard", "1/2"], 3, "no picture was found in empty"),
        (["empty.txt"], 3, "no picture was found in empty.txt"),
        (["1.png", "@gone"], 3, "gone"),
        (["1.png", "gone.txt"], 3, "gone.txt"),
        (["--sort-into", "empty", "--undo"], 3, "nothing to undo"),
        (["1.png", "-m", "lenett5"], 4, "lenet5"),
        (["1.png", "-m", "a" * 300], 4, "no model is called"),
        (["1.png", "-m", "model.pt"], 4, "docs/model-file.md"),
    ],
)
def test_what_is_refused_gives_no_row_and_says_why(run, color_model, pictures, monkeypatch, arguments, code, words):
    monkeypatch.chdir(pictures)
    Path("empty").mkdir()
    Path("empty.txt").touch()
    Path("model.pt").write_bytes(b"PK")
    ran = run("predict", *(() if "--undo" in arguments else ("-m", color_model)), *arguments)
    assert ran.code == code
    assert ran.out == ""
    assert words in ran.err
    assert "Traceback" not in ran.err
    assert not Path("rows.xlsx").exists()


def test_an_empty_folder_among_others_and_a_forgotten_command_are_told(run, color_model, pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    ran = run("predict", pictures, tmp_path / "empty", "-m", color_model)
    assert ran.code == 0
    assert f"No picture was found in {tmp_path / 'empty'}" in ran.err
    ran = run(pictures / "1.png")
    assert ran.code == 2
    assert f"visiontool predict {pictures / '1.png'}" in ran.err


def test_what_other_tools_call_the_options_works(run, color_model, pictures):
    ran = run("predict", pictures / "1.png", "-m", color_model, "--topk", 1, "--conf", 0.9)
    row = json.loads(ran.out)
    assert len(row["predictions"]) == 1
    assert row["unknown"] is True
    assert "--topk" not in run("predict", "--help").out


def test_every_option_of_a_model_changes_the_answer(run, make_color_model, tmp_path):
    wide = tmp_path / "wide.png"
    picture = Image.new("RGB", (32, 8), BLUE)
    picture.paste(RED, (12, 0, 20, 8))
    picture.save(wide)
    model = make_color_model("colors.onnx")
    answers = {
        mode: json.loads(run("predict", wide, "-m", model, "--crop-mode", mode).out)["predictions"][0]
        for mode in ("center", "border", "squash")
    }
    assert answers["center"]["label"] == "red"  # the middle 8x8
    assert answers["squash"]["label"] == "blue"  # three quarters
    assert answers["border"]["label"] == "blue"
    assert answers["border"]["probability"] < answers["squash"]["probability"]  # black above and below


def test_no_recursive_leaves_the_folders_inside_out(run, color_model, pictures):
    save_picture(pictures / "inside" / "5.png", RED)
    assert len(rows_of(run("predict", pictures, "-m", color_model).out)) == 4
    assert len(rows_of(run("predict", pictures, "-m", color_model, "--no-recursive").out)) == 3


def test_quiet_silences_remarks_but_not_errors(run, color_model, pictures):
    assert "colors: 3 classes" in run("predict", pictures, "-m", color_model).err
    assert run("predict", pictures, "-m", color_model, "-q").err == ""
    assert run("predict", pictures / "gone.png", "-m", color_model, "-q").err != ""


def test_cuda_without_a_gpu_is_an_error_that_says_what_is_missing(run, color_model, pictures, monkeypatch):
    from visiontool.runtime import providers

    monkeypatch.setattr(providers, "gpu_in_sight", lambda: False)
    ran = run("predict", pictures, "-m", color_model, "--device", "cuda")
    assert ran.code == 1
    assert ran.out == ""
    assert ran.err.splitlines()[-2:] == [
        "Error: device 'cuda' cannot be used: no NVIDIA GPU or driver was found",
        "Use --device cpu, or --device auto to take what works.",
    ]


def test_an_onnxruntime_for_the_cpu_only_is_never_joined_by_the_other(run, color_model, pictures, monkeypatch):
    from visiontool.runtime import installation, providers

    monkeypatch.setattr(installation, "wheels", lambda: ("onnxruntime 1.31.1",))
    monkeypatch.setattr(providers.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    ran = run("predict", pictures, "-m", color_model, "--device", "cuda")
    assert ran.code == 1
    assert "uninstall onnxruntime, then" in ran.err
    assert ran.err.count("\n") <= 3


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "visiontool", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def many(pictures, count):
    for index in range(count):
        os.link(pictures / "1.png", pictures / f"copy{index}.png")


def test_a_closed_pipe_ends_quietly(color_model, pictures):
    many(pictures, 2000)
    with start("predict", pictures, "-m", color_model, "-q", "-b", 1) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


def test_interrupting_keeps_the_rows_so_far_and_is_exit_130(color_model, pictures, tmp_path):
    many(pictures, 20_000)
    target = tmp_path / "rows.jsonl"
    unfinished = tmp_path / "rows.jsonl.partial"
    # A suite that runs in the background inherits an ignored SIGINT, and so would the process.
    process = start(
        *("predict", pictures, "-m", color_model, "-o", target, "-b", 1),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (unfinished.exists() and unfinished.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert str(unfinished).encode() in err
    assert not target.exists()
    assert all(row["status"] == "ok" for row in rows_of(unfinished.read_text()))


def test_stdout_carries_rows_only_even_when_onnxruntime_prints(color_model, pictures):
    code = (
        "import onnxruntime, sys\n"
        "real = onnxruntime.InferenceSession\n"
        "def noisy(*args, **kwargs):\n"
        "    print('EP Error: noise')\n"
        "    return real(*args, **kwargs)\n"
        "onnxruntime.InferenceSession = noisy\n"
        "from visiontool.cli import run\n"
        "sys.exit(run(sys.argv[1:]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "predict", pictures / "1.png", "-m", color_model],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert ran.returncode == 0
    assert json.loads(ran.stdout)["status"] == "ok"
    assert "EP Error: noise" in ran.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("format_", "unbuffered"), [("table", ""), ("json", "1"), ("csv", "")])
def test_a_full_disk_is_told_and_is_exit_1(color_model, pictures, format_, unbuffered):
    with open("/dev/full", "wb") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "visiontool", "predict", pictures, "-m", color_model, "-q", "--format", format_],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert ran.returncode == 1
    assert ran.stderr == "Error: the output cannot be written: No space left on device\n"


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="needs resource limits")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_the_end_of_a_document_is_never_lost_in_silence(color_model, pictures, tmp_path, unbuffered):
    """A file that may grow to one byte less than the document needs."""
    import resource

    command = [sys.executable, "-m", "visiontool", "predict", str(pictures), "-m", str(color_model), "-q", "--json"]
    whole = subprocess.run(command, capture_output=True, check=True).stdout
    signal_before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with open(tmp_path / "rows.json", "wb") as short:
            ran = subprocess.run(
                command,
                stdout=short,
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "PYTHONDONTWRITEBYTECODE": "1"},
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) - 1, len(whole) - 1)),
            )
    finally:
        signal.signal(signal.SIGXFSZ, signal_before)
    assert ran.returncode == 1
    assert b"cannot be written" in ran.stderr


def test_batch_size_and_workers_reach_the_classifier(run, color_model, pictures, monkeypatch):
    from visiontool import Classifier

    asked = {}
    real = Classifier.predict_stream
    monkeypatch.setattr(
        Classifier,
        "predict_stream",
        lambda self, images, **options: asked.update(options) or real(self, images, **options),
    )
    assert run("predict", pictures, "-m", color_model, "-b", 3, "-j", 2, "-k", 1).code == 0
    assert (asked["batch_size"], asked["workers"], asked["top_k"]) == (3, 2, 1)


def test_the_model_of_the_environment_is_named_as_such(run, color_model, pictures, monkeypatch):
    monkeypatch.setenv("VISIONTOOL_MODEL", str(color_model))
    ran = run("predict", pictures)
    assert ran.err.splitlines()[0] == "Model colors: 3 classes, on cpu. VISIONTOOL_MODEL names it."


def test_a_run_that_fails_midway_says_where_its_rows_are(run, color_model, pictures, tmp_path, monkeypatch):
    from visiontool import ModelError
    from visiontool.inference.network import Network

    real = Network.run

    def second_fails(self, pixels, output, **how):
        monkeypatch.setattr(Network, "run", broken)
        return real(self, pixels, output, **how)

    def broken(*_, **how):
        raise ModelError("it broke")

    monkeypatch.setattr(Network, "run", second_fails)
    ran = run("predict", pictures, "-m", color_model, "-o", tmp_path / "rows.jsonl", "-b", 1)
    assert ran.code == 4
    assert f"The rows so far are in {tmp_path / 'rows.jsonl.partial'}. Go on with --resume." in ran.err
    assert len(rows_of((tmp_path / "rows.jsonl.partial").read_text())) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_or_a_device_is_written_and_stays_what_it_is(run, color_model, pictures, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        ran = run("predict", pictures, "-m", color_model, "-o", pipe)
        assert (ran.code, ran.out) == (0, "")
        assert len(rows_of(reader.stdout.read().decode())) == 3
    assert not pipe.is_file()
    assert run("predict", pictures, "-m", color_model, "-o", os.devnull, "--force").code == 0
    assert not os.path.isfile(os.devnull)


def test_closed_streams_are_no_reason_to_fail(color_model, pictures):
    command = f"{sys.executable} -m visiontool predict {pictures} -m {color_model} --json"
    ran = subprocess.run(["sh", "-c", f"{command} 2>&-"], capture_output=True, text=True)
    assert ran.returncode == 0
    assert len(json.loads(ran.stdout)) == 3
    ran = subprocess.run(["sh", "-c", f"{command} >&-"], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr.splitlines()[1:]) == (
        1,
        ["Error: the output cannot be written: Bad file descriptor"],
    )
    ran = subprocess.run(["sh", "-c", f"{command} -o {pictures}/rows.json >&-"], capture_output=True, text=True)
    assert ran.returncode == 0
    assert len(json.loads((pictures / "rows.json").read_text())) == 3


@pytest.mark.parametrize("closed", ["0<&-", "2>&-", "0<&- >&-", "0<&- 2>&-", "0<&- >&- 2>&-"])
def test_no_file_gets_the_number_of_a_closed_stream(closed):
    code = "import os; from visiontool import cli; from visiontool.__main__ import main; cli.run = lambda: {}; main()"
    opened = code.format("os.open(os.devnull, os.O_RDONLY)")  # ends with the number of the file as exit code
    ran = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", opened], stdin=subprocess.DEVNULL)
    assert ran.returncode > 2


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be deleted there")
def test_a_working_folder_that_is_gone_is_told_where_it_matters(run, color_model, pictures, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run("predict", pictures / "1.png", pictures, "-m", color_model).code == 0
    for arguments in (["predict", "a.png"], ["predict", "@a"], ["finetune", "data"], ["finetune", pictures.parent]):
        ran = run(*arguments, "-m", color_model, "-q")
        assert (ran.code, ran.out) == (3, "")
        assert "the working folder is gone" in ran.err.lower()
        assert ran.err.count("\n") <= 4


def test_what_a_folder_holds_beside_pictures_is_counted_and_named(run, color_model, pictures):
    (pictures / "in").mkdir()
    for name in (".hidden.png", "in/notes.txt", *(f"in/{index}.md" for index in range(11))):
        (pictures / name).touch()
    os.symlink("1.png", pictures / "again.png")
    told = run("predict", pictures, "-m", color_model).err.splitlines()
    assert told[1:-1] == ["Left out: 1 hidden, 1 repeated, 12 not pictures (-v names them)."]
    told = run("predict", pictures, "-m", color_model, "-v").err
    assert f"\n  hidden: {pictures}/.hidden.png\n" in told
    assert told.count(f"{pictures}/in/") == 10
    assert " and 2 more\n" in told
    assert run("predict", pictures, "-m", color_model, "-q").err == ""
    told = run("predict", pictures / "in", "-m", color_model).err
    assert told.startswith(f"Error: no picture was found in {pictures}/in (left out: 12 not pictures)\n")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("https://a.b/c d.jpg", "download it first: curl -O 'https://a.b/c d.jpg'"),
        ("HTTP://a.b/c.jpg?size=[1]", "download it first: curl -O 'HTTP://a.b/c.jpg?size=[1]'"),
        ("https://a.b/list.txt", "download it first: curl -O https://a.b/list.txt"),
        ("s3://a/b.jpg", "copy it to this machine first: s3://a/b.jpg"),
        ("file:///a/b%20c.jpg", "type its path: '/a/b c.jpg'"),
        ("file://localhost/a/b.jpg", "type its path: /a/b.jpg"),
        ("~/x.jpg", "type: /home/me/x.jpg"),
        ("~/p/*.jpg", "type: '/home/me/p/*.jpg'"),
        ("@~/list", "type: /home/me/list"),
        ("$HOME/x.jpg", "type: /home/me/x.jpg"),
        ('"1.png"', 'Quotes do not belong to a path: "1.png"'),
        ("# holiday", "A comment is no path: # holiday"),
        (" 1.png", "There is white space beside the path:  1.png"),
        ("1.png cat", "Something stands behind the path: 1.png cat"),
        ("gone.jpg,cat", "Something stands behind the path: gone.jpg,cat"),
        ("noextension\t3", "Something stands behind the path"),
        ("gone 1.png", None),
        ("gone.png copy.png", None),
    ],
)
def test_what_may_be_meant_by_what_is_not_there_is_told(run, color_model, pictures, monkeypatch, typed, words):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(pictures)
    (pictures / "noextension").touch()
    ran = run("predict", typed, "-m", color_model)
    assert ran.code in (3, 7)
    assert words in ran.err if words else ran.err.endswith("their rows say why.\n")


def test_lines_of_a_list_with_the_same_fault_have_one_hint(run, color_model, pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    (pictures / "list").write_text("gone.png\r1.png cat\r2.png dog\r10.png")
    ran = run("predict", "@list", "-m", color_model)
    assert ran.code == 7
    assert [row["status"] for row in rows_of(ran.out)] == ["error", "error", "error", "ok"]
    assert [line for line in ran.err.splitlines() if "path" in line] == [
        "Something stands behind the path: 1.png cat",
        "A list has a path on each line and nothing else.",
        "A table whose first line names a column path may hold more: visiontool predict @FILE.csv",
    ]


def test_what_was_not_foreseen_is_one_line_and_a_way_to_see_more(run, color_model, pictures, monkeypatch):
    from visiontool.inference import classifier

    def defect(*_):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(classifier.Classifier, "probabilities", defect)
    ran = run("predict", pictures, "-m", color_model, "-q")
    assert ran.code == 1
    assert ran.err.splitlines()[0] == "Error: ZeroDivisionError: a defect"
    assert "VISIONTOOL_DEBUG=1" in ran.err
    monkeypatch.setenv("VISIONTOOL_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run("predict", pictures, "-m", color_model, "-q")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("model", "code", "unbuffered"), [("nothing-of-that-name", 4, ""), (None, 0, "1"), (None, 0, "")]
)
def test_a_full_stderr_changes_neither_rows_nor_exit_code(color_model, pictures, model, code, unbuffered):
    with open("/dev/full", "wb") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "visiontool", "predict", pictures, "-m", model or color_model],
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert ran.returncode == code
    assert len(rows_of(ran.stdout)) == (3 if code == 0 else 0)


def test_no_rows_are_said_to_be_kept_where_none_were_written(run, color_model, pictures, tmp_path):
    (tmp_path / "rows.csv.partial").mkdir()
    ran = run("predict", pictures, "-m", color_model, "-o", tmp_path / "rows.csv", "--force")
    assert ran.code == 1
    assert "rows.csv.partial cannot be written" in ran.err
    assert "so far" not in ran.err
