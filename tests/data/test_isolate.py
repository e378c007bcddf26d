"""Processes that open pictures: pictures that kill, dying processes, dying parents. The processes are real."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import odd_prepare
import pytest
from conftest import save_picture
from oddities import plain_pictures
from PIL import Image

from visiontool import Classifier, VisiontoolError
from visiontool.data import loader
from visiontool.data.loader import LoadOptions, load
from visiontool.data.prepare import Recipe, prepare
from visiontool.data.worker import Worker
from visiontool.images.augment import LEVELS, views
from visiontool.images.decode import Limits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
RECIPE = Recipe(
    {"size": (8, 8), "crop_mode": "center", "crop_pct": 1.0, "interpolation": "nearest", "fill": (0, 0, 0)},
    8,
    Limits(on_truncated="fill"),
)
PLAIN = ("a.jpg", "a.png", "a.webp", "a.bmp")


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Where the names of pictures say what happens to them (odd_prepare): it has a "red" one of each name."""
    monkeypatch.setattr(loader, "prepare", odd_prepare.prepare)
    for name in ("red", "segv", "sigkill", "exit", "raise", "print", "hang", "spin", "slow"):
        save_picture(tmp_path / f"{name}.png", (255, 0, 0))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answers_of(images, **opening):
    options = {"workers": 1, "timeout": 10.0, "isolate": True, **opening}
    return load(images, RECIPE, LoadOptions(**options), ahead=5)


def is_alive(pid):
    """Whether there is such a process. One that waits for its parent to take note of its end is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def children_of(pid):
    """The processes that `pid` started, with their states; "Z" is one that has ended and was not waited for."""
    children = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            state, parent = file.read_text().rsplit(")")[-1].split()[:2]
            if int(parent) == pid:
                children[int(file.parent.name)] = state
    return children


def nothing_is_left():
    """Whether neither threads nor processes of the pipeline are there, after a second or two to end."""
    until = time.monotonic() + 2
    while threads := [thread for thread in threading.enumerate() if thread.name.startswith("visiontool")]:
        if time.monotonic() > until:
            break
        time.sleep(0.01)
    return not threads and not children_of(os.getpid())


# What a worker answers


@pytest.mark.parametrize(
    "recipe", [RECIPE, RECIPE._replace(views=views(3, LEVELS["heavy"], 0)), RECIPE._replace(whole=True)]
)
def test_a_worker_answers_what_this_process_would(tmp_path, recipe):
    noise = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
    for name in ("a.png", "a.jpg", "cut.jpg", "\udce9\n {} \U0001f600.png"):
        Image.fromarray(noise).save(tmp_path / name)
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(tmp_path / "16.png")
    os.truncate(tmp_path / "cut.jpg", 20_000)
    (tmp_path / "junk.png").write_bytes(b"junk")
    paths = [str(tmp_path / name) for name in [*os.listdir(tmp_path), "gone.png", "", "\ud800.png"]]
    with contextlib.closing(Worker(partial(prepare, recipe=recipe))) as worker:
        worker.start()
        for path in [*paths, "", "\0", "x" * 5000]:
            ours, theirs = prepare(path, recipe), worker.call(path)
            times = {"pixels": None, "decode_s": 0.0, "fit_s": 0.0}
            assert ours._replace(**times) == theirs._replace(**times)
            np.testing.assert_array_equal(ours.pixels, theirs.pixels)
            assert theirs.decode_s > 0


def test_a_library_may_print_warn_and_read(folder, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    (answer,) = answers_of(["print.png"])
    assert answer.pixels[0, 0].tolist() == [255, 0, 0]


# Few pictures: the plain ones are opened here


def test_only_what_is_not_plain_is_opened_in_a_process(tmp_path, monkeypatch):
    """Told by what a file is and not by its name; and it is the same for one picture and for a list of some."""
    started = []
    monkeypatch.setattr(loader, "Worker", lambda *arguments: started.append(1) or Worker(*arguments))
    pictures = plain_pictures()
    plain = {f"plain{number}.tif": pictures[name] for number, name in enumerate(PLAIN)}
    others = {f"{name}.jpg": b" \r\n" * 5000 + data for name, data in pictures.items() if name not in PLAIN}
    assert len(others) >= 6
    for name, data in {**plain, **others, "junk.tif": b"junk", "text.gif": b"%PDF-1.7"}.items():
        (tmp_path / name).write_bytes(data)
    here = [str(tmp_path / name) for name in (*plain, "junk.tif", "text.gif", "gone.tif")]
    assert [answer.error is None for answer in answers_of(here, isolate=False)] == [True] * 4 + [False] * 3
    assert not started
    for name in others:
        (answer,) = answers_of([tmp_path / name], isolate=False)
        assert answer.error is None
        assert answer.notes == prepare(tmp_path / name, RECIPE).notes
    assert len(started) == len(others)
    assert [answer.error for answer in answers_of([tmp_path / name for name in others], isolate=False)].count(None) > 5
    assert len(started) == len(others) + 1
    assert nothing_is_left()


@pytest.mark.parametrize("count", [64, 65])
def test_a_list_of_many_is_opened_in_processes(color_model, tmp_path, monkeypatch, count):
    paths = [save_picture(tmp_path / "red.png", (255, 0, 0))] * count
    started = []
    monkeypatch.setattr(loader, "cores", lambda: 1)
    monkeypatch.setattr(loader, "Worker", lambda *arguments: started.append(True) or Worker(*arguments))
    classifier = Classifier.load(color_model)
    assert {result.predictions[0].label for result in classifier.predict(paths)} == {"red"}
    assert bool(started) == (count > 64)


# Pictures that kill


def test_a_picture_that_kills_costs_one_answer(folder):
    errors = {
        "segv": "the process that opened it crashed (SIGSEGV)",
        "sigkill": "the process that opened it was killed; perhaps it wanted too much memory",
        "exit": "the process that opened it ended with exit status 3",
        "raise": "the process that opened it ended with exit status 1",
        "hang": "took longer than 0.5 s to open (--timeout)",
        "spin": "took longer than 0.5 s to open (--timeout)",
    }
    names = [name for error in errors for name in ("red", error, "red")]
    answers = list(answers_of([f"{name}.png" for name in names], timeout=0.5))
    assert [answer.error for answer in answers] == [errors.get(name) for name in names]
    assert [answer.path for answer in answers] == [f"{name}.png" for name in names]
    assert nothing_is_left()


def test_a_picture_that_hangs_here_is_left_behind_and_the_next_are_opened_in_a_process(folder):
    first, hung, *others = answers_of(["pid", "slower", "pid", "red.png"], isolate=False, timeout=0.5)
    assert first.error == str(os.getpid())
    assert hung.error == "took longer than 0.5 s to open (--timeout)"
    assert 0.5 <= hung.decode_s < 1.5
    assert others[0].error not in (first.error, None)
    assert others[1].error is None


def test_a_process_that_is_killed_between_two_pictures_costs_nothing(folder):
    answers = load(iter(["pid"] * 3), RECIPE, LoadOptions(workers=1, isolate=True), ahead=0)
    first = int(next(answers).error)
    assert os.getpgid(first) != os.getpgid(0)  # Ctrl-C is not for it
    os.kill(first, signal.SIGKILL)
    while is_alive(first):
        time.sleep(0.01)
    second, third = (int(answer.error) for answer in answers)
    assert first != second == third
    assert nothing_is_left()


def test_a_picture_that_wants_more_memory_than_it_may_have_is_an_error(folder, monkeypatch):
    Image.new("RGB", (7000, 7000)).save("big.png", compress_level=1)
    assert [answer.error for answer in answers_of(["big.png"])] == [None]
    monkeypatch.setattr(loader, "_MEMORY_BASE", 300_000_000)
    monkeypatch.setattr(loader, "_MEMORY_PER_PIXEL", 0)
    assert [answer.error for answer in answers_of(["big.png", "red.png"])] == ["not enough memory to decode it", None]


# Starts


@pytest.mark.parametrize("executable", [None, "", "/nowhere/python", "/bin/false", "/bin/cat", "/"])
def test_a_python_that_cannot_be_started_is_told(monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(VisiontoolError) as caught:
        list(answers_of(["a"] * 50))
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert (executable or "sys.executable") in lines[0]
    assert any(word in lines[1] for word in ("-j 1", "VISIONTOOL_DEBUG=1", "need no process"))
    assert nothing_is_left()


def test_a_frozen_application_is_not_started_again(monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(VisiontoolError, match="is no Python of its own"):
        list(answers_of(["a"]))


def test_the_start_of_a_process_is_not_in_the_pictures_time(folder, monkeypatch):
    start = Worker.start
    monkeypatch.setattr(Worker, "start", lambda worker: (start(worker), time.sleep(0.6)))
    assert [answer.error for answer in answers_of(["red.png"] * 2, timeout=0.2)] == [None, None]


SCRIPT = """
import sys
from visiontool import Classifier
print("once")
results = Classifier.load(sys.argv[1]).predict_stream([sys.argv[2]] * 3, isolate=True, workers=2)
print(*(result.predictions[0].label for result in results))
"""


def test_a_script_without_a_guard_runs_once_and_its_folder_sets_no_traps(color_model, folder, tmp_path):
    script, here = tmp_path / "script.py", tmp_path / "here"
    script.write_text(SCRIPT)
    here.mkdir()
    for trap in ("json", "visiontool", "pickle", "numpy", "sitecustomize"):
        (here / f"{trap}.py").write_text("raise SystemExit('the trap')")
    command = [sys.executable, script, color_model, folder / "red.png"]
    ran = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "once\nred red red\n", "")


# Ends


PARENT = f"""
{odd_prepare.IN_A_PROGRAM}
from visiontool.data.worker import Worker
worker = Worker(odd_prepare.prepare)
worker.start()
if sys.argv[1] != "idle":
    threading.Thread(target=worker.call, args=(sys.argv[1], None), daemon=True).start()
    time.sleep(0.3)
print(worker._process.pid, flush=True)
if sys.argv[2] == "wait":
    time.sleep(1000)
os._exit(0)
"""


@pytest.mark.parametrize(("busy", "end"), [("idle", "wait"), ("hang", "wait"), ("spin", "_exit")])
def test_no_process_outlives_its_parent(busy, end):
    with subprocess.Popen([sys.executable, "-c", PARENT, busy, end], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        parent.kill() if end == "wait" else parent.wait(10)
    until = time.monotonic() + 5
    while is_alive(pid):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_an_early_close_ends_processes_in_the_middle_of_a_picture(folder):
    answers = answers_of(["pid", "hang", "hang", "red.png"], timeout=None, workers=2)
    next(answers)
    start = time.monotonic()
    answers.close()
    assert time.monotonic() - start < 1
    assert nothing_is_left()


STOPPED = f"""
{odd_prepare.IN_A_PROGRAM}
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_isolate import answers_of
for answer in answers_of(["slow.png"] * 4, workers=2, timeout=1.0):
    print(answer.error, flush=True)
"""


@pytest.mark.slow
def test_a_run_that_was_stopped_and_goes_on_gives_no_picture_up():
    with subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "no such file\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read() == "no such file\n" * 3
