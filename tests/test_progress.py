"""What a long run tells on a terminal, what Ctrl-C does to it, and what decoders in C may say."""

import codecs
import fcntl
import io
import json
import os
import pty
import random
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest
from conftest import save_picture
from test_isolate import PLUG, WITH_WORKERS, children_of, is_alive

from visiontool.cli import progress
from visiontool.cli.progress import Progress, Stop, only_ours_on_stderr

SUMMARY = re.compile(r"[\d,]+ pictures in \d+\.\d s \([\d.]+/s\): decode \d+%, preprocess \d+%, network \d+%\.")
BAR = re.compile(r"━+ [\d,]+/150  [\d.]+/s  \d:\d\d:\d\d left  3 failed")
CONTROL = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])")
COMMAND = f"""
{WITH_WORKERS}
from visiontool.__main__ import main
from visiontool.cli import progress

progress._BAR_AFTER_S = progress._UPDATE_S = 0
sys.argv[1:] = sys.argv[2:]
main()
"""
STOPPING = "Stopping once the pictures that were begun are done. Ctrl-C again: at once."


class Terminal:
    """A program on a terminal of its own of 80 columns, and what it wrote there."""

    def __init__(self, command, *, columns=80, **options):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

        def begin():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a suite in the background has it ignored
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        # pytest's readline puts COLUMNS into the environment behind Python's back.
        streams = {"stdin": slave, "stdout": slave, "stderr": slave, "env": dict(os.environ), **options}
        self.process = subprocess.Popen(command, start_new_session=True, preexec_fn=begin, **streams)
        os.close(slave)
        self.text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def type(self, keys):
        os.write(self._master, keys)

    def read_until(self, found, seconds=30.0):
        until = time.monotonic() + seconds
        while not found(self.text):
            assert time.monotonic() < until, self.text
            if select.select([self._master], [], [], 0.05)[0] and not self._read():
                return

    def wait(self):
        """Reads to the end; gives the exit code."""
        self.read_until(lambda text: False)
        os.close(self._master)
        return self.process.wait(10)

    def _read(self):
        try:
            read = os.read(self._master, 2**16)
        except OSError:  # Linux's way to say that the program has ended
            return False
        self.text += self._decoder.decode(read)
        return bool(read)

    @property
    def plain(self):
        """What was written, without what moves the cursor and colors."""
        return CONTROL.sub("", self.text)

    def screen(self):
        """The lines that somebody sees in the end."""
        lines, line, column, place = [[]], 0, 0, 0
        while place < len(self.text):
            control = CONTROL.match(self.text, place)
            if control:
                place = control.end()
                if control[2] == "A":
                    line -= int(control[1] or 1)
                elif control[2] == "K":
                    lines[line][0 if control[1] == "2" else column :] = []
                else:
                    assert control[2] in "mhl"
                continue
            character, place = self.text[place], place + 1
            if character == "\r":
                column = 0
            elif character == "\n":
                line += 1
                lines += [[]] * (line == len(lines))
            else:
                assert character.isprintable()
                lines[line][column : column + 1] = character
                column += 1
        while len(lines) > 1 and not lines[-1] and not lines[-2]:
            lines.pop()
        return ["".join(line).rstrip() for line in lines]


@pytest.fixture
def plug(tmp_path):
    folder = tmp_path / "plug"
    folder.mkdir()
    (folder / "worker_plug.py").write_text(PLUG)
    return folder


@pytest.fixture
def predict(plug, color_model):
    """The command line that predicts what is on its arguments, with workers that know PLUG."""
    return lambda *arguments: [
        *map(str, (sys.executable, "-c", COMMAND, plug, "predict", "-m", color_model, *arguments))
    ]


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    first = save_picture(folder / "000.png", (255, 0, 0))
    for number in range(1, 147):
        os.link(first, folder / f"{number:03}.png")
    for number in range(3):
        (folder / f"junk{number}.png").write_bytes(b"junk")
    return folder


@pytest.fixture
def slow(tmp_path):
    """Pictures of which each takes half a second."""
    first = save_picture(tmp_path / "slow" / "000" / "slow.png", (255, 0, 0))
    for number in range(1, 100):
        (tmp_path / "slow" / f"{number:03}").mkdir()
        os.link(first, tmp_path / "slow" / f"{number:03}" / "slow.png")
    return tmp_path / "slow"


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# The bar and the summary


def test_a_terminal_shows_a_bar_and_in_the_end_a_line(predict, pictures, tmp_path):
    terminal = Terminal(predict(pictures, "-o", tmp_path / "rows.csv"))
    assert terminal.wait() == 7
    assert BAR.search(terminal.plain)
    model, summary, end = terminal.screen()
    assert model.startswith("Model colors")
    assert SUMMARY.match(summary)
    assert summary.endswith(" 3 of 150 inputs failed; their rows say why.")
    assert end == ""


def test_a_list_on_stdin_has_no_total(predict, pictures, tmp_path):
    names = b"".join(os.fsencode(path) + b"\0" for path in sorted(pictures.iterdir()))
    terminal = Terminal(predict("-", "-o", tmp_path / "rows.csv"), stdin=subprocess.PIPE)
    terminal.process.stdin.write(names)
    terminal.process.stdin.close()
    assert terminal.wait() == 7
    assert re.search(r"━ 150  [\d.]+/s  3 failed", terminal.plain)
    assert "left" not in terminal.text
    assert len(terminal.screen()) == 3


@pytest.mark.parametrize("columns", [20, 300])
def test_a_bar_is_never_wider_than_the_terminal(predict, pictures, tmp_path, columns):
    terminal = Terminal(predict(pictures, "-o", tmp_path / "rows.csv"), columns=columns)
    assert terminal.wait() == 7
    frames = [CONTROL.sub("", frame) for frame in re.split(r"[\r\n]|\x1b\[[\d;]*[AK]", terminal.text)]
    bars = [frame for frame in frames if "━" in frame]
    assert bars
    assert [bar for bar in bars if len(bar) > columns] == []
    assert len(terminal.screen()) == 3


def test_no_bar_where_it_would_be_in_the_way(predict, pictures, tmp_path):
    with open(tmp_path / "stderr", "wb") as file:
        to_file = Terminal(predict(pictures, "-o", tmp_path / "1.csv"), stderr=file)
        quiet = Terminal(predict(pictures, "-o", tmp_path / "2.csv", "-q"))
        among_rows = Terminal(predict(pictures, "--json"))
        dumb = Terminal(predict(pictures, "-o", tmp_path / "3.csv"), env={**os.environ, "TERM": "dumb"})
        assert [terminal.wait() for terminal in (to_file, quiet, among_rows, dumb)] == [7, 7, 7, 7]
    for text in ((tmp_path / "stderr").read_text(), quiet.text, among_rows.text, dumb.text):
        assert "\r" not in text.replace("\r\n", "\n")
    assert quiet.screen() == ["3 of 150 inputs failed; their rows say why.", ""]
    assert SUMMARY.search(among_rows.screen()[-2])
    assert SUMMARY.search(dumb.screen()[-2])


def test_what_is_done_at_once_has_no_bar_and_no_summary_of_one(color_model, pictures):
    command = [sys.executable, "-m", "visiontool", "predict", "-m", color_model]
    several = Terminal([*command, pictures / "000.png", pictures / "001.png"], stdout=subprocess.DEVNULL)
    assert several.wait() == 0
    assert "\r" not in several.text.replace("\r\n", "")
    assert SUMMARY.match(several.screen()[1])
    one = Terminal([*command, pictures / "000.png"], stdout=subprocess.DEVNULL)
    assert one.wait() == 0
    assert [line.split()[0] for line in one.screen() if line] == ["Model"]


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still; clock[0] is its time in seconds."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_line_says_done_rate_time_left_and_errors(clock):
    bar = Progress(shown=True, count=lambda: None)
    bar.done, bar.failed, bar.kept, bar._total = 1500, 12, 500, 4500
    assert bar._line(200.0) == "1,500/4,500  10.0/s  0:05:00 left  12 failed"
    bar.failed, bar._total = 0, None
    assert bar._line(200.0) == "1,500  10.0/s"
    bar._total = 1000  # the disk got fuller meanwhile
    assert bar._line(200.0) == "1,500/1,000  10.0/s  0:00:00 left"
    bar._total = 0
    assert bar._line(200.0) == "1,500/0  10.0/s  0:00:00 left"
    bar.kept, bar._total = 1500, 1000
    assert bar._line(200.0) == "1,500/1,000  0.0/s"
    bar.kept, bar._total = 0, 200_000_000
    assert "154 days" in bar._line(200.0)


def test_the_summary_counts_what_this_run_did(clock):
    done = Progress(shown=False, count=lambda: None)
    clock[0] += 4
    assert done.summary() == "0 pictures in 4.0 s."
    done.add()
    assert done.summary() == "1 picture in 4.0 s (0.2/s)."
    for _ in range(1999):
        done.add()
    done.times.decode_s, done.times.preprocess_s, done.times.network_s = 3.0, 0.5, 6.5
    assert done.summary() == "2,000 pictures in 4.0 s (500.0/s): decode 30%, preprocess 5%, network 65%."
    for _ in range(1000):
        done.add(kept=True)
    assert done.summary().endswith(
        "2,000 pictures in 4.0 s (500.0/s): decode 30%, preprocess 5%, network 65%; 1,000 were done before."
    )
    assert (done.done, done.failed, done.kept) == (3000, 0, 1000)


# Ctrl-C


def test_ctrl_c_lets_what_was_begun_finish(predict, slow, tmp_path):
    rows = tmp_path / "rows.jsonl"
    terminal = Terminal(predict(slow, "-o", rows, "-j", 4, "-b", 1))
    terminal.read_until(lambda text: "/s  " in text)
    workers = children_of(terminal.process.pid)
    assert len(workers) == 4
    terminal.type(b"\x03")
    assert terminal.wait() == 130
    assert terminal.screen()[1:] == [
        STOPPING,
        f"The rows so far are in {rows}.partial. Go on with --resume.",
        *("", "Interrupted.", ""),
    ]
    done = rows_of(tmp_path / "rows.jsonl.partial")
    assert 4 <= len(done) < 30
    assert [row["status"] for row in done] == ["ok"] * len(done)
    assert [row["path"] for row in done] == [str(path) for path in sorted(slow.glob("*/*"))[: len(done)]]
    assert not any(map(is_alive, workers))


@pytest.mark.slow
def test_ctrl_c_twice_ends_at_once(predict, slow, tmp_path):
    for folder in slow.iterdir():
        (folder / "slow.png").rename(folder / "hang.png")
    terminal = Terminal(predict(slow, "-o", tmp_path / "rows.jsonl", "--timeout", 100))
    terminal.read_until(lambda text: "Model" in text)
    until = time.monotonic() + 30
    while not children_of(terminal.process.pid):
        assert time.monotonic() < until
    time.sleep(0.5)
    terminal.type(b"\x03")
    terminal.read_until(lambda text: "at once." in text)
    time.sleep(0.5)
    assert terminal.process.poll() is None
    workers = children_of(terminal.process.pid)
    start = time.monotonic()
    terminal.type(b"\x03")
    assert terminal.wait() == 130
    assert time.monotonic() - start < 3
    assert [line for line in terminal.screen() if line][1:] == [STOPPING, "^C", "Interrupted."]
    assert not (tmp_path / "rows.jsonl.partial").exists()
    assert not any(map(is_alive, workers))


@pytest.mark.parametrize("feed", [b"", b"2"])
def test_ctrl_c_leaves_a_list_that_does_not_end(predict, pictures, tmp_path, feed):
    names = sorted(pictures.glob("0*"))[:3]
    rows = tmp_path / "rows.jsonl"
    command = predict("-", "-o", rows, "-q")
    options = {
        "stdin": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "preexec_fn": lambda: signal.signal(2, signal.SIG_DFL),
    }
    with subprocess.Popen(command, **options) as process:
        process.stdin.write(b"".join(os.fsencode(path) + b"\n" for path in names) + feed)
        process.stdin.flush()
        until = time.monotonic() + 30
        while not children_of(process.pid):
            assert time.monotonic() < until
        time.sleep(0.5)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert time.monotonic() - start < 3
        assert [Path(row["path"]) for row in rows_of(tmp_path / "rows.jsonl.partial")] == names
        assert b"Traceback" not in process.stderr.read()


def test_an_ignored_ctrl_c_stays_ignored(predict, slow, tmp_path):
    command = predict(*sorted(slow.iterdir())[:2], "-o", tmp_path / "rows.jsonl")
    with subprocess.Popen(command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) as process:
        for _ in range(12):
            time.sleep(0.05)
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert len(rows_of(tmp_path / "rows.jsonl")) == 2


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
        assert stop.asked
        assert list(items) == []
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_stop_never_raises_the_first_time_whenever_it_comes(sigint, monkeypatch):
    monkeypatch.setattr(progress, "_say_at_once", lambda text: None)
    rng = random.Random(0)

    def source():
        yield from range(10_000)

    came = set()
    for _ in range(300):
        taken = []
        with Stop() as stop:
            signal.signal(signal.SIGALRM, stop._on_signal)
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 2e-3))
            for number in stop.until(source()):
                taken.append(number)
            signal.setitimer(signal.ITIMER_REAL, 0)
            came.add(stop.asked)
            assert taken == list(range(len(taken)))
            assert len(taken) == 10_000 or stop.asked
    assert True in came


def test_stop_passes_on_what_the_items_raise(sigint):
    def source():
        yield 1
        raise ZeroDivisionError

    with Stop() as stop, pytest.raises(ZeroDivisionError):
        list(stop.until(source()))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_stop_leaves_signals_to_the_main_thread(sigint):
    seen = []

    def other():
        with Stop() as stop:
            seen.append(list(stop.until([1, 2])))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [[1, 2]]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


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
        assert sys.stderr.isatty() == sys.__stderr__.isatty()
        raise ZeroDivisionError
except ZeroDivisionError:
    pass
assert sys.stderr is sys.__stderr__
sys.stderr.write("after ")
sys.stderr.flush()
noise()
os.fstat(2)
"""


def test_only_our_words_come_out_and_in_their_order():
    ran = subprocess.run([sys.executable, "-c", NOISE], stderr=subprocess.PIPE, env={**os.environ, "LC_ALL": "C.UTF-8"})
    assert ran.stderr.decode() == "before ours \\udce9 € after noise "
    latin = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    ran = subprocess.run([sys.executable, "-c", NOISE], stderr=subprocess.PIPE, env=latin)
    assert ran.stderr == b"before ours \\udce9 \\u20ac after noise "
    debug = {**os.environ, "VISIONTOOL_DEBUG": "1"}
    ran = subprocess.run([sys.executable, "-c", NOISE], stderr=subprocess.PIPE, env=debug)
    assert ran.stderr.count(b"noise") == 3


def test_a_stderr_that_is_closed_or_full_changes_nothing(predict, pictures, tmp_path):
    for number, to in enumerate(("2>&-", "2>/dev/full", "2>&- 1>&- 0<&-")):
        rows = tmp_path / f"{number}.csv"
        assert subprocess.run(["sh", "-c", f'"$@" {to}', "sh", *predict(pictures, "-o", rows)]).returncode == 7
        assert len(rows.read_text().splitlines()) == 151


@pytest.mark.parametrize("stream", [None, io.StringIO(), io.BytesIO(), object()])
def test_a_stderr_that_is_elsewhere_stays_there(monkeypatch, capfd, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    descriptors = len(os.listdir("/proc/self/fd"))
    with only_ours_on_stderr():
        assert sys.stderr is stream
        os.write(2, b"noise")
    os.write(2, b"not dropped")
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert capfd.readouterr().err == "not dropped"


def test_pytest_captures_what_we_say(capfd):
    with only_ours_on_stderr():
        os.write(2, b"noise")
        print("ours", file=sys.stderr)
    assert capfd.readouterr().err == "ours\n"


def test_a_full_stderr_is_given_back(monkeypatch):
    with open("/dev/full", "w") as full:
        kept = os.dup(2)
        try:
            os.dup2(full.fileno(), 2)
            stream = open(2, "w", closefd=False)  # noqa: SIM115
            monkeypatch.setattr(sys, "stderr", stream)
            with only_ours_on_stderr():
                assert sys.stderr is not stream
                sys.stderr.write("not written yet")
            assert sys.stderr is stream
            assert os.path.samestat(os.fstat(2), os.fstat(full.fileno()))
        finally:
            os.dup2(kept, 2)
            os.close(kept)
