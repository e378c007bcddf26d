"""Worker processes that open pictures: hostile pictures, dying processes, dying parents. The processes are real."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import save_picture
from PIL import Image

from visiontool import VisiontoolError, isolate
from visiontool.augment import LEVELS, views
from visiontool.images import Limits
from visiontool.isolate import Worker
from visiontool.pipeline import Opening, prepared
from visiontool.prepare import Recipe, prepare

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
RECIPE = Recipe(
    {"size": (8, 8), "crop_mode": "center", "crop_pct": 1.0, "interpolation": "nearest", "fill": (0, 0, 0)},
    8,
    Limits(on_truncated="fill"),
)
VIEWS = RECIPE._replace(views=views(3, LEVELS["heavy"], 0))
# What the worker does with a picture goes by its name.
PLUG = """
import ctypes, json, os, signal, sys, time
import numpy as np
from visiontool import isolate
from visiontool.prepare import Prepared

real_prepare, real_send = isolate.prepare, isolate._send
name = ""

def head(answer):
    return len(answer).to_bytes(4, "little") + answer

ANSWERS = {
    "huge": b"\\xff\\xff\\xff\\xff",
    "too-long": (2**16 + 1).to_bytes(4, "little") + b" " * 70_000,
    "garbage": head(b"not JSON at all"),
    "not-utf-8": head(b"\\xff\\xfe\\xfd"),
    "nested": head(b"[" * 60_000),
    "big-number": head(b"[null, [], " + b"9" * 9000 + b", 0.0]"),
    "pickle": head(b"cos\\nsystem\\n(S'touch pwned'\\ntR."),
    "no-list": head(b"3"),
    "too-few": head(b"[null, [], 0.1]"),
    "odd-error": head(b'[{"a": 1}, [], 0.1, 0.1]'),
    "odd-notes": head(b'[null, [1], 0.1, 0.1]'),
    "text-for-notes": head(b'[null, "abc", 0.1, 0.1]'),
    "odd-time": head(b'[null, [], "1", 0.1]'),
    "look-unasked": head(b'[null, [], 0.1, 0.1, 9, 9, "%s", "%s", "ababab"]' % (b"ab" * 16, b"ab" * 256)),
    "look-missing": head(b"[null, [], 0.1, 0.1]"),
    "size-of-an-error": head(b'["an error", [], 0.1, 0.1, 5, 5]'),
    "look-of-an-error": head(b'["an error", [], 0.1, 0.1, 9, 9, "%s", "%s", "ababab"]' % (b"ab" * 16, b"ab" * 256)),
}

def prepare(path, recipe):
    global name
    name = os.path.basename(path).split(".")[0]
    if name == "hang":
        time.sleep(1000)
    if name == "spin":
        while True:
            pass
    if name == "slow":
        time.sleep(0.5)
    if name == "segv":
        ctypes.string_at(0)
    if name == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "exit":
        os._exit(3)
    if name == "raise":
        raise RuntimeError("not foreseen")
    if name == "print":
        os.write(1, b"noise" * 1000)
        print("noise", flush=True)
    if name == "read":
        assert os.read(0, 100) == b""
    if name == "long":
        return Prepared(path, error="\\U0001f600" * 100_000)
    if name == "modules":
        return Prepared(path, error=" ".join({"visiontool.augment", "visiontool.look"} & set(sys.modules)))
    if name == "pid":
        return Prepared(path, error=str(os.getpid()))
    if name == "child":
        child = os.fork()
        if child == 0:
            time.sleep(1000)
        open("child.pid", "w").write(str(child))
    return real_prepare(path, recipe)

def send(stream, data):
    if name in ANSWERS:
        real_send(stream, ANSWERS[name])
        time.sleep(1000)
    if name == "half":
        real_send(stream, memoryview(data)[: len(data) // 2])
        os._exit(0)
    if name == "half-views" and len(data) == 3 * 8 * 8 * 3:
        real_send(stream, memoryview(data)[: 2 * 8 * 8 * 3])
        os._exit(0)
    if name == "half-pixels" and len(data) == 8 * 8 * 3:
        real_send(stream, memoryview(data)[:100])
        os._exit(0)
    real_send(stream, data)

isolate.prepare, isolate._send = prepare, send
"""
WITH_PLUG = isolate._START.replace("; serve(", "; import worker_plug; serve(")


@pytest.fixture
def plug(monkeypatch, tmp_path):
    """Has workers import PLUG, and gives the folder with it."""
    folder = tmp_path / "plug"
    folder.mkdir()
    (folder / "worker_plug.py").write_text(PLUG)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(isolate, "_START", WITH_PLUG)
    return folder


@pytest.fixture
def worker():
    with contextlib.closing(Worker(RECIPE)) as worker_:
        yield worker_


@pytest.fixture(scope="module")
def one_worker():
    """A worker for tests that do it no harm: a start takes a tenth of a second or two."""
    with contextlib.closing(Worker(RECIPE)) as worker_:
        yield worker_


@pytest.fixture
def red(tmp_path):
    return str(save_picture(tmp_path / "red.png", (255, 0, 0)))


def pid_of(worker):
    return int(worker.prepare("pid").error)


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


def wait_until(condition, seconds=10.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def our_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("visiontool")]


def without_times(answer):
    return answer._replace(pixels=None, decode_s=0.0, fit_s=0.0)


# What a worker answers


def test_a_worker_answers_what_this_process_would(one_worker, tmp_path):
    save_picture(tmp_path / "a.png", (1, 2, 3), (30, 20))
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(tmp_path / "16.png")
    (tmp_path / "junk.png").write_bytes(b"junk")
    Image.effect_noise((99, 99), 50).save(tmp_path / "cut.jpg")
    os.truncate(tmp_path / "cut.jpg", 3000)
    assert prepare(tmp_path / "cut.jpg", RECIPE).notes[0].startswith("truncated: ")
    for name in ("a.png", "16.png", "cut.jpg", "junk.png", "gone.png", "."):
        ours, theirs = prepare(tmp_path / name, RECIPE), one_worker.prepare(tmp_path / name)
        assert without_times(ours) == without_times(theirs)
        np.testing.assert_array_equal(ours.pixels, theirs.pixels)
        assert theirs.decode_s > 0
        assert (theirs.fit_s > 0) == (theirs.pixels is not None)


def test_a_worker_gives_the_views_and_the_look_that_this_process_would(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
    for name in ("a.png", "a.jpg"):
        Image.fromarray(noise).save(tmp_path / name)
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(tmp_path / "16.png")
    (tmp_path / "junk.png").write_bytes(b"junk")
    with contextlib.closing(Worker(VIEWS)) as worker:
        for name in ("a.png", "a.jpg", "16.png", "junk.png", "gone.png"):
            ours, theirs = prepare(tmp_path / name, VIEWS), worker.prepare(tmp_path / name)
            assert without_times(ours) == without_times(theirs)
            np.testing.assert_array_equal(ours.pixels, theirs.pixels)
            if name[0] == "a":
                assert theirs.pixels.shape == (3, 8, 8, 3)
                assert len({view.tobytes() for view in theirs.pixels}) == 3
            assert (theirs.look is None) == (theirs.pixels is None)


def test_a_worker_that_is_asked_for_no_views_imports_nothing_of_them(plug, worker):
    worker.prepare("a")
    assert worker.prepare("modules").error == ""


@pytest.mark.parametrize(
    "name",
    [b"caf\xe9.png", b"two\nlines\r.png", b" ", b'\'; "$x" {0} %s.png', "\U0001f600.png".encode()],
)
def test_a_file_may_have_any_name(one_worker, tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name)
    Path(os.fsdecode(path)).write_bytes(Path(save_picture(tmp_path / "a.png", (9, 9, 9))).read_bytes())
    answer = one_worker.prepare(os.fsdecode(path))
    assert answer.error is None
    assert os.fsencode(answer.path) == path
    assert (answer.pixels == 9).all()


@pytest.mark.parametrize("name", ["", "\0", "a\0b.png", "x" * 5000, "\ud800.png", "/".join("x" * 60_000)])
def test_a_name_that_no_file_can_have_gives_the_same_error_as_here(one_worker, red, name):
    assert without_times(one_worker.prepare(name)) == without_times(prepare(name, RECIPE))
    assert one_worker.prepare(red).error is None


def test_a_library_may_print_and_read(plug, worker, red):
    for name in ("print", "read"):
        os.link(red, plug / f"{name}.png")
        answer = worker.prepare(plug / f"{name}.png")
        assert answer.error is None
        assert answer.pixels[0, 0].tolist() == [255, 0, 0]


def test_a_long_error_is_cut(plug, worker):
    assert worker.prepare("long").error == "\U0001f600" * 2000


# Pictures that kill


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("segv", "crashed the decoder (SIGSEGV)"),
        ("sigkill", "the process that opened it was killed; perhaps it wanted too much memory"),
        ("exit", "crashed the decoder (exit status 3)"),
        ("raise", "crashed the decoder (exit status 1)"),
        ("half", "crashed the decoder (exit status 0)"),
        ("half-pixels", "crashed the decoder (exit status 0)"),
    ],
)
def test_a_picture_that_kills_the_process_costs_one_answer(plug, worker, red, name, error):
    first = pid_of(worker)
    os.link(red, plug / f"{name}.png")
    answer = worker.prepare(plug / f"{name}.png")
    assert (answer.path, answer.pixels, answer.error) == (str(plug / f"{name}.png"), None, error)
    assert worker.prepare(red).error is None
    assert pid_of(worker) != first
    assert not is_alive(first)


ODD_ANSWERS = ("huge", "too-long", "garbage", "not-utf-8", "nested", "big-number", "pickle", "no-list", "too-few",
               "odd-error", "odd-notes", "text-for-notes", "odd-time", "look-unasked")  # fmt: skip


def test_an_odd_answer_is_an_error_and_the_end_of_that_process(plug, worker, red, monkeypatch):
    monkeypatch.chdir(plug)
    for name in ODD_ANSWERS:
        answer = worker.prepare(name)
        assert (name, answer.error) == (name, "crashed the decoder (its answer is damaged)")
        assert "Z" not in children_of(os.getpid()).values()
    assert worker.prepare(red).error is None
    assert not Path("pwned").exists()


def test_a_look_that_is_missing_or_half_of_the_views_are_an_error(plug, red):
    os.link(red, plug / "half-views.png")
    with contextlib.closing(Worker(VIEWS)) as worker:
        for name in ("look-missing", "look-of-an-error"):
            answer = worker.prepare(name)
            assert answer.error == "crashed the decoder (its answer is damaged)"
            assert (answer.pixels, answer.look) == (None, None)
        assert "exit status 0" in worker.prepare(plug / "half-views.png").error
        assert worker.prepare(red).pixels.shape == (3, 8, 8, 3)


def test_a_worker_gives_pictures_in_their_own_size_where_the_graph_resizes_them(plug, tmp_path):
    save_picture(tmp_path / "a.png", (1, 2, 3), (30, 20))
    (tmp_path / "junk.png").write_bytes(b"junk")
    recipe = RECIPE._replace(whole=True)
    with contextlib.closing(Worker(recipe)) as worker:
        for name in ("a.png", "junk.png"):
            ours, theirs = prepare(tmp_path / name, recipe), worker.prepare(tmp_path / name)
            assert without_times(ours) == without_times(theirs)
            np.testing.assert_array_equal(ours.pixels, theirs.pixels)
        for name in ("look-missing", "size-of-an-error"):
            assert worker.prepare(name).error == "crashed the decoder (its answer is damaged)"


ODD_SIZES = ([], [5], [5, 5, 5], [0, 5], [-5, -5], [True, 5], [5.0, 5], ["5", 5], [None, 5], [10_000, 10_001])


def test_an_odd_size_is_refused_before_there_is_memory_for_it():
    assert isolate._checked_size([10_000, 10_000], 10**8) == (10_000, 10_000)
    for size in ODD_SIZES:
        with pytest.raises(ValueError, match="is no size"):
            isolate._checked_size(size, 10**8)


LOOK = {"width": 10_000, "height": 10_000, "pixels": "ab" * 16, "thumbnail": "0f" * 256, "color": "010203"}
ODD_LOOKS = [
    {"width": 10_000.0},
    {"width": True},
    {"width": None},
    {"height": 0},
    {"width": -5, "height": -5},
    {"height": 10_001},
    {"width": 10**400},
    {"pixels": 9},
    {"pixels": "ab"},
    {"pixels": "ag" * 16},
    {"pixels": "AB" * 16},
    {"pixels": "ab " * 16},
    {"pixels": "\u0661b" * 16},
    {"thumbnail": "0f" * 255},
    {"thumbnail": "0f" * 257},
    {"thumbnail": [1] * 256},
    {"color": "0102"},
    {"color": [1, 2, 3]},
    {"more": 1},
]


def test_a_look_is_taken_only_where_all_of_it_is_right():
    def checked(*answer):
        try:
            return isolate._checked_look([*answer], 100_000_000)
        except ValueError as error:
            return error

    assert checked(*LOOK.values()) == (10_000, 10_000, "ab" * 16, b"\x0f" * 256, b"\1\2\3")
    for odd in ODD_LOOKS:
        assert isinstance(checked(*{**LOOK, **odd}.values()), ValueError), odd
    for answer in ([], [None], [[*LOOK.values()]], [*LOOK.values()][:3]):
        assert isinstance(checked(*answer), ValueError), answer


def test_an_answer_cannot_make_this_process_take_memory(plug, worker):
    import tracemalloc

    worker.start()
    tracemalloc.start()
    try:
        worker.prepare("huge")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_process_that_died_between_two_pictures_costs_nothing(plug, worker, red):
    for _ in range(3):
        first = pid_of(worker)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda pid=first: not is_alive(pid))
        assert worker.prepare(red).error is None
        assert not is_alive(first)


@pytest.mark.slow
def test_a_picture_that_wants_more_memory_than_it_may_have_is_an_error(plug, worker, red):
    big = plug / "big.png"
    Image.new("RGB", (7000, 7000)).save(big)
    assert worker.prepare(big).error is None
    with open(plug / "worker_plug.py", "a") as file:
        file.write("size = int(open('/proc/self/statm').read().split()[0]) * os.sysconf('SC_PAGE_SIZE')\n")
        file.write("isolate._MEMORY_BASE, isolate._MEMORY_PER_PIXEL = size + 100_000_000, 0\n")
    with contextlib.closing(Worker(RECIPE)) as small:
        assert small.prepare(big).error == "not enough memory to decode it"
        assert small.prepare(red).error is None


def test_a_limit_on_memory_that_is_lower_already_stays():
    script = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**31))\n"
        "from visiontool.isolate import _limit_memory\n"
        "_limit_memory(2**33)\n"
        "assert resource.getrlimit(resource.RLIMIT_AS) == (2**30, 2**31)\n"
        "_limit_memory(2**29)\n"
        "assert resource.getrlimit(resource.RLIMIT_AS) == (2**29, 2**29)\n"
        "assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# Ends


def test_kill_ends_a_picture_and_a_close_may_come_twice(plug, worker):
    pid = pid_of(worker)
    threading.Timer(0.2, worker.kill).start()
    start = time.monotonic()
    assert "was killed" in worker.prepare("hang").error
    assert time.monotonic() - start < 5
    worker.close()
    worker.close()
    assert not is_alive(pid)


def test_a_stopped_process_can_be_killed(plug, worker):
    pid = pid_of(worker)
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(0.2, worker.kill).start()
    assert "was killed" in worker.prepare("pid").error


def test_a_kill_during_the_start_leaves_no_process(monkeypatch, worker):
    started = []
    popen = subprocess.Popen

    def killed_meanwhile(*args, **options):
        process = popen(*args, **options)
        started.append(process.pid)
        worker.kill()  # as another thread may, before the worker knows its process
        return process

    monkeypatch.setattr(subprocess, "Popen", killed_meanwhile)
    with pytest.raises(VisiontoolError, match="did not start"):
        worker.start()
    assert not is_alive(started[0])


@pytest.mark.slow
def test_200_dead_processes_leave_neither_zombies_nor_descriptors(monkeypatch, tmp_path):
    # A worker that starts faster than ours, and dies of every picture.
    monkeypatch.setattr(isolate, "_START", "import os; os.read(0, 2**16); os.write(1, b'ready\\n'); os.read(0, 1)")
    worker = Worker(RECIPE)
    assert "exit status 0" in worker.prepare("a").error
    before = os.listdir("/proc/self/fd")
    for _ in range(200):
        assert "exit status 0" in worker.prepare("a").error
        assert len(os.listdir("/proc/self/fd")) == len(before)
    assert "Z" not in children_of(os.getpid()).values()


# Starts


ODD_EXECUTABLES = [None, "", "/nowhere/python", "/bin/false", "/bin/cat", os.devnull, "/"]


@pytest.mark.parametrize("executable", ODD_EXECUTABLES)
def test_a_python_that_cannot_be_started_is_told(monkeypatch, worker, executable):
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(VisiontoolError) as caught:
        worker.prepare("a")
    lines = str(caught.value).splitlines()
    assert 1 <= len(lines) <= 3
    assert (executable or "sys.executable") in lines[0]
    assert any(word in lines[-1] for word in ("-j 1", "VISIONTOOL_DEBUG=1", "isolate=False"))


def test_a_frozen_application_is_not_started_again(monkeypatch, worker):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(VisiontoolError, match="there is no Python"):
        worker.start()


def test_no_more_processes_is_told(monkeypatch, worker):
    def refuse(*args, **options):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(VisiontoolError, match="(?s)Resource temporarily unavailable.*-j 1"):
        worker.start()


@pytest.mark.parametrize("code", ["import time; time.sleep(1000)", "import sys; sys.stdin.close()", "print('odd')"])
def test_a_start_that_does_not_end_is_told(monkeypatch, worker, code):
    monkeypatch.setattr(isolate, "_START", code)
    monkeypatch.setattr(isolate, "_START_TIMEOUT_S", 0.5)
    with pytest.raises(VisiontoolError, match="(?s)did not start.*VISIONTOOL_DEBUG=1"):
        worker.start()
    assert "Z" not in children_of(os.getpid()).values()


def test_sys_path_may_hold_anything(monkeypatch, plug, worker):
    for entry in (Path("/a"), b"/b", None, "/not-\udce9-utf-8", "/caf\xe9 {} '\"\n"):
        monkeypatch.setattr(sys, "path", [*sys.path, entry])
    assert pid_of(worker) > 0  # `plug` is found, whose folder is on sys.path


SCRIPT = """
import sys
from visiontool import Classifier
print("once")
results = Classifier.load(sys.argv[1]).predict_stream([sys.argv[2]] * 3, isolate=True, workers=2)
print(*(result.predictions[0].label for result in results))
"""


def test_a_script_without_a_guard_runs_once_and_its_folder_sets_no_traps(color_model, red, tmp_path):
    script, here = tmp_path / "script.py", tmp_path / "here"
    script.write_text(SCRIPT)
    here.mkdir()
    for trap in ("json", "visiontool", "pickle", "numpy", "sitecustomize"):
        (here / f"{trap}.py").write_text("raise SystemExit('the trap')")
    command = [sys.executable, script, color_model, red]
    ran = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "once\nred red red\n", "")


def test_a_package_on_pythonpath_is_found(tmp_path, red):
    # Of a package that is not installed, PYTHONPATH is all there is: -S leaves out what is.
    folders = [str(Path(isolate.__file__).parents[1]), str(Path(np.__file__).parents[1])]
    code = (
        "import sys\n"
        "from test_isolate import RECIPE\n"
        "from visiontool.isolate import Worker\n"
        "worker = Worker(RECIPE)\n"
        f"print(worker.prepare({red!r}).error)\n"
        "worker.close()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*folders, str(Path(__file__).parent)])}
    ran = subprocess.run([sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("None\n", "")


# Dying parents


# Of a program that has `plug` as its first argument.
WITH_WORKERS = f"""
import os, signal, subprocess, sys, threading, time
from visiontool import isolate
from visiontool.images import Limits
from visiontool.prepare import Recipe

sys.path.insert(0, sys.argv[1])
isolate._START = {WITH_PLUG!r}
RECIPE = {RECIPE!r}
"""
PARENT = f"""
{WITH_WORKERS}
popen = subprocess.Popen

def told(*args, **options):
    process = popen(*args, **options)
    print(process.pid, flush=True)
    if sys.argv[2] == "at start":
        os.kill(os.getpid(), signal.SIGKILL)
    return process

subprocess.Popen = told
worker = isolate.Worker(RECIPE)
worker.start()
print("started", flush=True)
if sys.argv[2] != "idle":
    threading.Thread(target=worker.prepare, args=(sys.argv[2],), daemon=True).start()
    time.sleep(0.3)
print("go", flush=True)
if sys.argv[3] == "wait":
    time.sleep(1000)
os._exit(0) if sys.argv[3] == "_exit" else sys.exit(0)
"""


@pytest.mark.parametrize(
    ("busy", "end"),
    [
        *(("at start", "wait"), ("idle", "wait"), ("hang", "wait"), ("spin", "wait")),
        *(("idle", "exit"), ("hang", "exit"), ("hang", "_exit")),
    ],
)
def test_no_process_outlives_its_parent(plug, busy, end):
    command = [sys.executable, "-c", PARENT, plug, busy, end]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        if busy != "at start":
            assert parent.stdout.readline() == "started\n"
            assert parent.stdout.readline() == "go\n"
            if end == "wait":
                assert is_alive(pid)
                parent.kill()
        parent.wait(10)
        wait_until(lambda: not is_alive(pid), 5)


def test_ctrl_c_is_not_for_workers(plug, worker, red):
    pid = pid_of(worker)
    assert os.getpgid(pid) != os.getpgid(0)
    os.kill(pid, signal.SIGINT)
    assert worker.prepare(red).error is None
    assert pid_of(worker) == pid


# Many workers (`pipeline`)


def answers_of(images, **opening):
    options = {"workers": 2, "timeout": 10.0, **opening}
    return prepared(images, RECIPE, Opening(isolate=True, **options), ahead=6)


def test_every_kind_of_picture_has_one_answer_in_order(plug, red):
    names = ["segv", "a", "hang", "b", "c", "spin", "exit", "d", "huge", "half", "e", "f"]
    for name in names:
        os.link(red, plug / f"{name}.png")
    start = time.monotonic()
    answers = list(answers_of([plug / f"{name}.png" for name in names], timeout=0.5))
    assert time.monotonic() - start < 10
    assert [Path(answer.path).stem for answer in answers] == names
    assert [name for name, answer in zip(names, answers, strict=True) if answer.error is None] == [
        *("a", "b", "c", "d", "e", "f")
    ]
    assert answers[2].error == answers[5].error == "took longer than 0.5 s to open (--timeout)"
    assert 0.5 <= answers[2].decode_s < 1.5


def test_pictures_that_hang_at_the_same_time_are_given_up_at_the_same_time(plug):
    start = time.monotonic()
    answers = list(answers_of(["hang"] * 6, workers=6, timeout=0.7))
    assert [answer.error for answer in answers] == ["took longer than 0.7 s to open (--timeout)"] * 6
    assert time.monotonic() - start < 4


def test_the_start_of_a_process_is_not_in_the_pictures_time(plug, red):
    with open(plug / "worker_plug.py", "a") as file:
        file.write("time.sleep(0.6)\n")
    assert [answer.error for answer in answers_of([red] * 2, timeout=0.2)] == [None, None]


@pytest.mark.slow
def test_a_process_that_does_not_let_go_is_left_behind(plug, red, monkeypatch):
    monkeypatch.chdir(plug)
    # "child" leaves a process behind that holds the pipes, when "exit" is the end of the first one.
    answers = list(answers_of(["child", "exit", red, red], workers=1, timeout=1.0))
    os.kill(int(Path("child.pid").read_text()), signal.SIGKILL)
    assert [answer.error for answer in answers][1:] == ["took longer than 1 s to open (--timeout)", None, None]
    wait_until(lambda: not our_threads())


def test_an_early_close_ends_processes_in_the_middle_of_a_picture(plug, red):
    pids = []
    results = answers_of(["pid", "pid", "hang", "hang", "hang", "hang", red], timeout=None)
    pids += [int(next(results).error)]
    time.sleep(0.5)
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 1
    assert not any(map(is_alive, pids))
    assert not our_threads()
    assert "Z" not in children_of(os.getpid()).values()


def test_a_process_that_cannot_be_started_ends_the_run(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(VisiontoolError, match="/nowhere/python"):
        list(answers_of(["a"] * 50))
    assert not our_threads()


STOPPED = f"""
{WITH_WORKERS}
from visiontool.pipeline import Opening, prepared
for answer in prepared(["slow.png"] * 4, RECIPE, Opening(2, 1.0, True), 4):
    print(answer.error, flush=True)
"""


@pytest.mark.slow
def test_a_run_that_was_stopped_and_goes_on_gives_no_picture_up(plug):
    command = [sys.executable, "-c", STOPPED, plug]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "no such file\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read() == "no such file\n" * 3


def test_two_streams_at_the_same_time_have_processes_of_their_own(plug):
    first, second = answers_of(["pid"] * 4), answers_of(["pid"] * 4)
    pids = [{next(first).error for _ in range(2)}, {next(second).error for _ in range(2)}]
    first.close()
    assert [answer.error in pids[1] or int(answer.error) > 0 for answer in second] == [True, True]
    assert not pids[0] & pids[1]
