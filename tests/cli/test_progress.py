"""What a long run tells on a terminal, what Ctrl-C does to it, and what decoders in C may say."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import save_color_pictures

from visiontool.cli import progress
from visiontool.cli.progress import PictureCounter, Stages, Stop, only_ours_on_stderr


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def on_terminal(monkeypatch):
    """Makes stderr one; for a test to call, since pytest gives it another stderr than its fixtures."""

    def on_terminal_():
        monkeypatch.setattr(sys, "stderr", terminal := Terminal())
        return terminal

    for name, value in (("TERM", "xterm"), ("COLUMNS", "100"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(progress, "_BAR_AFTER_S", 0)
    return on_terminal_


# Bars and the summary


def test_each_stage_has_a_bar_and_nothing_of_it_stays(on_terminal):
    terminal = on_terminal()
    with Stages({"download": "Downloading", "check": "Comparing"}, in_bytes=("download",)) as stages:
        stages.update("download", 5_000_000, 10_000_000)
        stages.update("check", 2, None, note="slow")
    for words in ("Downloading ━", " 5.0/10.0 MB ", "Comparing ", " 2/? ", " slow"):
        assert words in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")  # the last bar is wiped


@pytest.mark.parametrize("why", ["quiet", "dumb", "gone"])
def test_no_bar_where_it_would_be_in_the_way(on_terminal, monkeypatch, why):
    terminal = on_terminal()
    if why == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    with Stages({"check": "Comparing"}, enabled=why != "quiet") as stages:
        if why == "gone":  # the work goes on
            terminal.close()
        stages.update("check", 2, None)
    assert why == "gone" or terminal.getvalue() == ""


def test_the_bar_of_pictures_says_done_rate_and_errors(on_terminal):
    terminal = on_terminal()
    counted = threading.Event()
    with PictureCounter(enabled=True, count=lambda: counted.set() or 12) as bar:
        counted.wait(5)
        time.sleep(0.05)
        bar.resumed = 2
        bar.add()
        bar.add(failed=True)
    assert "Predicting ━" in terminal.getvalue()
    assert " 2/10 " in terminal.getvalue()
    assert "/s  1 failed" in terminal.getvalue()


def test_the_summary_counts_what_this_run_did(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    done = PictureCounter(enabled=False, count=lambda: None)
    now[0] += 4
    assert done.summary() == "0 pictures in 4.0 s."
    done.add()
    assert done.summary() == "1 picture in 4.0 s (0.2/s)."
    for _ in range(1999):
        done.add()
    done.times.decode_s, done.times.preprocess_s, done.times.network_s = 3.0, 0.5, 6.5
    assert done.summary() == "2,000 pictures in 4.0 s (500.0/s): decode 30%, preprocess 5%, network 65%."
    done.resumed = 1000
    assert done.summary().endswith("decode 30%, preprocess 5%, network 65%; 1,000 were done before.")


# Ctrl-C (test_cli_predict: of a run that works)


@pytest.fixture
def start(color_model, tmp_path):
    """Starts predict with an opener that hangs; gives the process."""
    code = (
        "import time, visiontool.data.prepare as prepare\n"
        "prepare.open_image = lambda *a, **k: time.sleep(60)\n"
        "from visiontool.__main__ import main; main()"
    )

    def start_(*arguments, hangs, **options):
        command = ["-c", code] if hangs else ["-m", "visiontool"]
        return subprocess.Popen(
            [sys.executable, *command, "predict", "-m", color_model, "-o", tmp_path / "rows.jsonl", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            # A suite in the background has it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            **options,
        )

    return start_


@pytest.mark.slow
def test_ctrl_c_twice_ends_at_once(start, tmp_path):
    with start(save_color_pictures(tmp_path / "in", 3), "--timeout", "100", hangs=True) as process:
        assert process.stderr.readline().startswith("Model")
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline().startswith("Stopping once the pictures that were begun are done.")
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(3) == 130
        assert process.stderr.read() == "\nInterrupted.\n"
    assert not (tmp_path / "rows.jsonl.partial").exists()


def test_ctrl_c_leaves_a_list_that_does_not_end(start, tmp_path):
    paths = [str(path) for path in save_color_pictures(tmp_path / "in", 3).iterdir()]
    with start("-", "-q", hangs=False, stdin=subprocess.PIPE) as process:
        process.stdin.write("".join(f"{path}\n" for path in paths))
        process.stdin.flush()
        until = time.monotonic() + 30
        while not (tmp_path / "rows.jsonl.partial").exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130
        assert "Traceback" not in process.stderr.read()
    rows = (tmp_path / "rows.jsonl.partial").read_text().splitlines()
    assert [json.loads(row)["path"] for row in rows] == paths


@pytest.fixture
def sigint():
    """Has SIGINT raise KeyboardInterrupt, as in a program of its own."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_stop_ends_the_items_once_and_raises_twice(sigint):
    with Stop() as stop:
        items = stop.until(range(100))
        assert [next(items), next(items)] == [0, 1]
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        assert list(items) == []
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_an_ignored_ctrl_c_stays_ignored(sigint):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Stop() as stop:
        signal.raise_signal(signal.SIGINT)
        assert list(stop.until([1, 2])) == [1, 2]


# What decoders in C say


NOISE = """
import os, sys
from visiontool.cli.progress import only_ours_on_stderr
noise = lambda: os.write(2, b"noise ")
sys.stderr.write("before ")
try:
    with only_ours_on_stderr():
        noise()
        print("ours \\udce9 \\u20ac", file=sys.stderr, end=" ", flush=True)
        noise()
        raise ZeroDivisionError
except ZeroDivisionError:
    pass
sys.stderr.write("after ")
sys.stderr.flush()
noise()
"""


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("PYTHONIOENCODING", "utf-8", "before ours \\udce9 € after noise ".encode()),
        ("PYTHONIOENCODING", "latin-1", b"before ours \\udce9 \\u20ac after noise "),
        ("VISIONTOOL_DEBUG", "1", b"before noise ours \\udce9 \\u20ac noise after noise "),
    ],
)
def test_only_our_words_come_out_and_in_their_order(variable, value, expected):
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", variable: value}
    assert subprocess.run([sys.executable, "-c", NOISE], stderr=subprocess.PIPE, env=environment).stderr == expected


def test_a_stderr_that_is_elsewhere_stays_there(monkeypatch, capfd):
    with only_ours_on_stderr():
        os.write(2, b"noise")
        print("ours", file=sys.stderr)
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    with only_ours_on_stderr():
        assert sys.stderr is stream
        os.write(2, b"noise")
    os.write(2, b"not dropped")
    assert capfd.readouterr().err == "ours\nnot dropped"
