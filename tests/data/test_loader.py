"""Many pictures in order through threads: slow ones, exceptions, early ends. test_worker has the processes."""

import itertools
import os
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOR_SPEC
from PIL import Image

from visiontool import VisiontoolError
from visiontool.data import loader
from visiontool.data.loader import LoadOptions, StageTimes, cores, load, map_ahead
from visiontool.data.prepare import Prepared, Recipe
from visiontool.images.augment import LEVELS, render_all, views
from visiontool.images.decode import Limits
from visiontool.images.fingerprint import fingerprint_of

RECIPE = Recipe({"size": (8, 8)}, 8, Limits())


@pytest.fixture
def opens(monkeypatch):
    """Replaces what opens a picture by a function of its path, which may give an exception to raise."""

    def with_(function):
        def prepare(path, recipe, plain_only=False):
            if isinstance(outcome := function(path), BaseException):
                raise outcome
            return Prepared(path)

        monkeypatch.setattr(loader, "prepare", prepare)

    return with_


@pytest.fixture
def hung():
    """An event that pictures hang on; it comes when the test ends."""
    event = threading.Event()
    yield event
    event.set()
    wait_until(lambda: not opening_threads())


def opening_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("visiontool")]


def wait_until(condition, seconds=10.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def answers_of(images, ahead=4, **options):
    return load(images, RECIPE, LoadOptions(**{"workers": 4, "isolate": False, **options}), ahead=ahead)


def names(count):
    return [str(number) for number in range(count)]


def test_pictures_come_out_in_order_and_no_more_than_workers_are_opened_at_once(opens):
    now, most = set(), []

    def open_(path):
        now.add(path)
        most.append(len(now))
        time.sleep(random.uniform(0, 0.005))
        now.remove(path)

    opens(open_)
    assert [answer.path for answer in answers_of(names(100), workers=3, ahead=50)] == names(100)
    assert max(most) == 3
    assert not opening_threads()


@pytest.mark.parametrize(("ahead", "workers"), [(0, 1), (5, 2)])
def test_no_more_than_ahead_are_taken_before_they_are_asked_for(opens, ahead, workers):
    opens(lambda path: None)
    taken = []
    source = (taken.append(1) or name for name in names(1000))
    answers = answers_of(source, ahead=ahead, workers=workers)
    assert not taken
    for asked, _ in zip(range(1, 101), answers, strict=False):
        assert len(taken) <= asked + ahead + workers - 1
    answers.close()


def test_views_come_out_in_order_from_files_and_from_objects(tmp_path):
    recipe = Recipe.of(COLOR_SPEC, Limits(), views(3, LEVELS["medium"], 0))
    images = [Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)) for seed in range(8)]
    files = [tmp_path / f"{number}.png" for number in range(8)]
    for image, file in zip(images, files, strict=True):
        image.save(file)
    from_files = list(load(files, recipe, LoadOptions(workers=3)))
    from_objects = list(load(images, recipe))
    assert [answer.path for answer in from_files] == list(map(str, files))
    for one, other, image in zip(from_files, from_objects, images, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert one.fingerprint == other.fingerprint == fingerprint_of(image)
        np.testing.assert_array_equal(
            one.pixels, render_all(image, recipe.views, one.fingerprint.pixels, recipe.fit_options)
        )


def test_waiting_for_its_turn_is_not_in_a_pictures_time(opens):
    opens(lambda path: time.sleep(0.1))
    assert [answer.error for answer in answers_of(names(6), workers=1, timeout=0.4)] == [None] * 6


def test_an_early_close_does_not_wait_for_what_hangs(opens, hung):
    opens(lambda path: hung.wait() if path == "1" else time.sleep(0.01))
    answers = answers_of(names(100))
    next(answers)
    start = time.monotonic()
    answers.close()
    assert time.monotonic() - start < 2
    assert [thread.name for thread in opening_threads()] == ["visiontool-open"]


@pytest.mark.parametrize(("error", "of_source"), [(ZeroDivisionError, True), (SystemExit, False)])
def test_an_exception_that_is_no_pictures_fault_reaches_the_caller(opens, error, of_source):
    opens(lambda path: error() if path == "20" else None)

    def source():
        yield from names(20)
        if of_source:
            raise error
        yield from ("20", "21")

    with pytest.raises(error):
        list(answers_of(source()))
    assert not opening_threads()


def test_that_no_thread_can_be_started_is_an_error(monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(VisiontoolError, match="(?s)can't start new thread.*-j 1"):
        list(answers_of(names(3)))


def test_calls_are_in_order_and_timed():
    def work(item):
        time.sleep(random.uniform(0, 0.01))
        return item * 2

    times = StageTimes()
    assert list(map_ahead(work, range(50), 3, times)) == [(item, item * 2) for item in range(50)]
    assert 0.05 < times.network_s < 3


def test_an_exception_of_a_call_reaches_the_caller_and_the_others_are_dropped():
    called = []

    def work(item):
        called.append(item)
        if item == 2:
            raise ZeroDivisionError
        time.sleep(0.01)

    results = map_ahead(work, range(100), 2, StageTimes())
    assert [item for item, _ in itertools.islice(results, 2)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        list(results)
    wait_until(lambda: not opening_threads())
    assert len(called) < 8


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("150000 100000", 2), ("5000 100000", 1), ("6400000 100000", 8), (None, 8)],
)
def test_cores_are_those_that_a_container_allows(monkeypatch, tmp_path, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(loader, "_CPU_MAX", str(tmp_path / "cpu.max"))
    if quota is not None:
        Path(tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert cores() == expected
