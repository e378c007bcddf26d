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

from visiontool import VisiontoolError
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
    for name in ("red", "segv", "sigkill", "exit", "print", "hang"):
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


def test_a_worker_answers_what_this_process_would(tmp_path):
    recipe = RECIPE._replace(views=views(3, LEVELS["heavy"], 0))
    noise = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
    for name in ("a.png", "cut.jpg", "\udce9\n {} \U0001f600.png"):
        Image.fromarray(noise).save(tmp_path / name)
    os.truncate(tmp_path / "cut.jpg", 20_000)
    paths = [str(tmp_path / name) for name in [*os.listdir(tmp_path), "gone.png", ""]]
    with contextlib.closing(Worker(partial(prepare, recipe=recipe))) as worker:
        worker.start()
        for path in paths:
            ours, theirs = prepare(path, recipe), worker.call(path)
            times = {"pixels": None, "decode_s": 0.0, "fit_s": 0.0}
            assert ours._replace(**times) == theirs._replace(**times)
            np.testing.assert_array_equal(ours.pixels, theirs.pixels)
            assert theirs.decode_s > 0


# Few pictures: the plain ones are opened here


def test_only_what_is_not_plain_is_opened_in_a_process(tmp_path, monkeypatch):
    """By what a file is and not by its name."""
    started = []
    monkeypatch.setattr(loader, "Worker", lambda *arguments: started.append(1) or Worker(*arguments))
    pictures = plain_pictures()
    plain = {f"plain{number}.tif": pictures[name] for number, name in enumerate(PLAIN)}
    others = {f"{name}.jpg": b" \r\n" * 5000 + data for name, data in pictures.items() if name not in PLAIN}
    for name, data in {**plain, **others, "junk.tif": b"junk", "text.gif": b"%PDF-1.7"}.items():
        (tmp_path / name).write_bytes(data)
    here = [str(tmp_path / name) for name in (*plain, "junk.tif", "text.gif", "gone.tif")]
    assert [answer.error is None for answer in answers_of(here, isolate=False)] == [True] * 4 + [False] * 3
    assert not started
    assert [answer.error for answer in answers_of([tmp_path / name for name in others], isolate=False)] == [None] * 6
    assert len(started) == 1
    (answer,) = answers_of([tmp_path / "a.gif.jpg"], isolate=False)
    assert answer.notes == prepare(tmp_path / "a.gif.jpg", RECIPE).notes
    assert len(started) == 2
    assert nothing_is_left()


# Pictures that kill


def test_a_picture_that_kills_costs_one_answer(folder):
    errors = {
        "segv": "the process that opened it crashed (SIGSEGV)",
        "sigkill": "the process that opened it was killed; perhaps it wanted too much memory",
        "exit": "the process that opened it ended with exit status 3",
        "hang": "took longer than 0.3 s to open (--timeout)",
    }
    names = [*errors, "red", "print"]
    answers = list(answers_of([f"{name}.png" for name in names], timeout=0.3, workers=2))
    assert [answer.error for answer in answers] == [errors.get(name) for name in names]
    assert [answer.path for answer in answers] == [f"{name}.png" for name in names]
    assert nothing_is_left()


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
    Image.new("1", (7000, 7000)).save("big.png")
    monkeypatch.setattr(loader, "_MEMORY_BASE", 300_000_000)
    monkeypatch.setattr(loader, "_MEMORY_PER_PIXEL", 0)
    assert [answer.error for answer in answers_of(["big.png", "red.png"])] == ["not enough memory to decode it", None]


# Starts


@pytest.mark.parametrize(
    ("executable", "words"),
    [
        ("", "no process could be started: .*\nOpen fewer pictures at once: -j 1"),
        ("/bin/false", "a process did not start: /bin/false ended with exit status 1.\nVISIONTOOL_DEBUG=1"),
    ],
)
def test_a_python_that_cannot_be_started_is_an_error(monkeypatch, executable, words):
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(VisiontoolError, match=words):
        list(answers_of(["a"] * 5))
    assert nothing_is_left()


SCRIPT = """
import sys
from visiontool.data.loader import LoadOptions, load
from visiontool.data.prepare import Recipe
from visiontool.images.decode import Limits
print("once")
fit = {"size": (8, 8), "crop_mode": "center", "crop_pct": 1.0, "interpolation": "nearest", "fill": (0, 0, 0)}
results = load([sys.argv[1]] * 2, Recipe(fit, 8, Limits()), LoadOptions(isolate=True, workers=1))
print(*(result.pixels[0, 0] for result in results))
"""


def test_a_script_without_a_guard_runs_once_and_its_folder_sets_no_traps(folder, tmp_path):
    script, here = tmp_path / "script.py", tmp_path / "here"
    script.write_text(SCRIPT)
    here.mkdir()
    for trap in ("json", "visiontool", "pickle", "numpy", "sitecustomize"):
        (here / f"{trap}.py").write_text("raise SystemExit('the trap')")
    command = [sys.executable, script, folder / "red.png"]
    ran = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "once\n[255   0   0] [255   0   0]\n", "")


# Ends


PARENT = f"""
{odd_prepare.IN_A_PROGRAM}
from visiontool.data.worker import Worker
worker = Worker(odd_prepare.prepare)
worker.start()
threading.Thread(target=worker.call, args=("hang", None), daemon=True).start()
time.sleep(0.1)
print(worker._process.pid, flush=True)
time.sleep(1000)
"""


def test_no_process_outlives_its_parent():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 5
    while is_alive(pid):
        assert time.monotonic() < until
        time.sleep(0.01)
