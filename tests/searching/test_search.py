"""`visiontool search`: every trial once, whoever runs it, and the winner judged by pictures that decided nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from test_imports import TORCH, run_blocked

from visiontool.data.splits import read_rows
from visiontool.searching import Wanted, search
from visiontool.searching.space import Space
from visiontool.training.settings import Settings

SPACE = "head: [auto, lda]\naugment: [none, light]\ntransform: [none, power]\n"


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Warm and cold pictures that overlap, in train and val."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for split, count in (("train", 18), ("val", 11)):
        for label, red in (("cold", 110), ("warm", 140)):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draw.normal([red, 120, 120], 40, 3) + draw.normal(0, 60, (8, 8, 3))
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    Path("space.yaml").write_text(SPACE)
    return tmp_path / "data"


def trials_of(folder):
    return json.loads((folder / "search.json").read_text())["trials"]


def settings_of(trials):
    return sorted(json.dumps(trial["settings"], sort_keys=True) for trial in trials)


def completed(journal):
    """How many trials were completed, repeated ones counted again."""
    lines = [json.loads(line) for line in journal.read_text().split("\n")[:-1]] if journal.is_file() else []
    return sum(line["op_code"] == 6 and line["state"] == 1 for line in lines)


def command(data, model, *others):
    arguments = ["search", data, "-m", model, "--space", "space.yaml", "--sampler", "grid", "-o", "found", *others]
    return [sys.executable, "-m", "visiontool", *map(str, arguments)]


def test_a_grid_is_tried_once_and_its_winner_trained(data, run, color_model):
    grid = ("search", data, "-m", color_model, "--space", "space.yaml", "--sampler", "grid", "--trials", 50)
    ran = run(*grid, "--learning-curve")
    assert (ran.code, ran.out) == (0, "runs/data-search\n")
    assert all(len(line) <= 80 for line in ran.err.splitlines() if not line.startswith(("Head", "The run")))
    assert "that no trial saw" in ran.err
    assert "Twice as many would help" in ran.err
    folder = Path("runs/data-search")
    trials = trials_of(folder)
    assert len(trials) == 6  # of the 8, lda has no mirrored views
    assert len(set(settings_of(trials))) == 6
    accuracies = [trial["accuracy"] for trial in trials]
    assert accuracies == sorted(accuracies, reverse=True)
    assert {row["split"] for row in read_rows(folder / "splits.csv")} == {"train", "val"}
    assert "<h2>Would more pictures help?</h2>" in (folder / "report.html").read_text()
    assert (folder / "pareto.png").stat().st_size > 1000

    winner = json.loads((folder / "search.json").read_text())["winner"]["settings"]
    settings = Settings.of_run(folder)
    assert (settings.head, settings.transform) == (winner["head"], winner["transform"])
    assert run("finetune", data, "--from", folder, "-o", "trained", "-q").code == 0
    metrics = json.loads(Path("trained/metrics.json").read_text())
    assert metrics["val"]["accuracy"] == json.loads((folder / "search.json").read_text())["winner"]["value"]

    again = run(*grid, "--json")
    assert "Goes on with the search" in again.err
    assert settings_of(json.loads(again.out)["trials"]) == settings_of(trials)
    kept = run("evaluate", folder, data, "--ensemble", "greedy", "-o", "best.json")
    assert (kept.code, "kept no runs" in kept.err) == (2, True)
    assert run(*grid, "--keep", 2).code == 0
    assert sorted(path.name for path in (folder / "top").iterdir()) == ["data-search-1", "data-search-2"]
    assert run("evaluate", folder, data, "--ensemble", "greedy", "-o", "best.json", "-q").code == 0
    assert run("predict", next(data.rglob("*.png")), "-m", "best.json", "-q").code == 0


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_sampler_that_repeats_itself_gets_other_settings(data, color_model, sampler):
    Path("space.yaml").write_text("transform: [none, power]\naugment: [none, light]\n")
    space = Space.usual(data, {}, [str(color_model)], Path("space.yaml"))
    found = search(space, Path("found"), Wanted(sampler, trials=9))
    assert len(found.done) == len(found.rows) == 4
    assert len({space.settings_of(row.values) for row in found.rows}) == 4


@pytest.mark.slow
def test_a_gaussian_process_suggests_numbers(data, color_model):
    Path("space.yaml").write_text("head: logistic\nviews: 3\ncrop: {low: 5e-1, high: 0.9}\n")
    space = Space.usual(data, {"augment": "none"}, [str(color_model)], Path("space.yaml"))
    found = search(space, Path("found"), Wanted("gp", trials=13))  # 10 at random
    assert len(found.done) == 13
    crops = {row.values["crop"] for row in found.done}
    assert len(crops) == 13
    assert all(0.5 <= crop <= 0.9 for crop in crops)


def test_pictures_kept_aside_decide_nothing(data, color_model):
    space = Space.usual(data, {}, [str(color_model)], Path("space.yaml"))
    before = search(space, Path("before"), Wanted("grid", 50))
    (data / "val" / "cold").rename(data / "val" / "other")
    (data / "val" / "warm").rename(data / "val" / "cold")
    (data / "val" / "other").rename(data / "val" / "warm")
    after = search(space, Path("after"), Wanted("grid", 50))
    assert after.winner.values == before.winner.values
    assert [(row.values, row.outcome.loss) for row in after.done] == [
        (row.values, row.outcome.loss) for row in before.done
    ]
    assert after.aside(after.winner).value == pytest.approx(1 - before.aside(before.winner).value)


@pytest.mark.slow
def test_a_killed_search_goes_on_and_repeats_nothing(data, color_model):
    with subprocess.Popen(
        command(data, color_model, "-q"), cwd=data.parent, env=dict(os.environ, PYTHONPATH=str(ROOT))
    ) as process:
        journal = data.parent / "found" / "journal.log"
        while completed(journal) < 2:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not (data.parent / "found" / "search.json").exists()
    assert 2 <= completed(journal) < 6
    found = search(
        Space.usual(data, shared_of(data), [str(color_model)], Path("space.yaml")), Path("found"), Wanted("grid", 50)
    )
    assert len(found.done) == len({found.space.settings_of(row.values) for row in found.rows}) == 6
    assert completed(journal) == 6


def shared_of(data):
    """The options that the command gives."""
    from visiontool.cli.search import _SHARED

    return {**dict.fromkeys(_SHARED), "device": "auto"}


@pytest.mark.slow
def test_two_processes_share_a_search(data, color_model):
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    both = [subprocess.Popen(command(data, color_model, "-q"), cwd=data.parent, env=environment) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    journal = data.parent / "found" / "journal.log"
    assert completed(journal) == 6
    lines = map(json.loads, journal.read_text().splitlines())
    processes = {line["user_attr"]["process"] for line in lines if "process" in line.get("user_attr", ())}
    assert len(processes) == 2
    assert len(set(settings_of(trials_of(data.parent / "found")))) == 6


def test_a_trial_that_fails_is_one_row(data, run, color_model):
    Path("space.yaml").write_text("stages: [1, 4]\n")
    ran = run("search", data, "-m", color_model, "--space", "space.yaml", "-o", "found", "--json")
    assert ran.code == 0
    states = {trial["settings"]["stages"]: (trial["state"], trial["error"]) for trial in json.loads(ran.out)["trials"]}
    assert states == {1: ("done", None), 4: ("failed", "--stages 4: of this network a head can see 1")}
    assert "1 other failed" in " ".join(ran.err.split())


def test_what_cannot_be_searched_is_refused(data, run, color_model, monkeypatch):
    search_with = ("search", data, "-m", color_model, "-o", "found")
    for text, code, told in (
        ("heads: [lda]", 2, "heads cannot be searched. Closest: head"),
        ("head: [ldo]", 2, "head 'ldo'"),
        ("crop: {low: 0.9, high: 0.5}", 2, "`low <= high` must hold"),
        ("crop: {low: 0.5, hi: 0.9}", 2, "expected a list of values, or low and high"),
        ("head: [[lda]]", 2, "expected a list of values, or low and high"),
        ("- head", 3, "expected options of finetune"),
    ):
        Path("bad.yaml").write_text(text)
        ran = run(*search_with, "--space", "bad.yaml")
        assert (ran.code, told in ran.err) == (code, True), ran.err
    inside = run("search", data, "-m", color_model, "-o", data / "found")
    assert (inside.code, "is inside the data" in inside.err, (data / "found").exists()) == (2, True, False)
    late = run(*search_with, "--time-limit", "1s")
    assert (late.code, "the time was up before a trial was done" in late.err) == (1, True)
    shutil.rmtree(data / "val" / "warm")
    shutil.rmtree(data / "train" / "warm")
    assert run(*search_with).code == 3
    assert not Path("found").exists()


def test_other_pictures_are_another_search(data, run, color_model):
    Path("space.yaml").write_text("head: [lda]\n")
    search_it = ("search", data, "-m", color_model, "--space", "space.yaml", "-o", "found")
    assert run(*search_it).code == 0
    (data / "train" / "warm" / "0.png").unlink()
    ran = run(*search_it)
    assert (ran.code, "other pictures or options" in ran.err) == (2, True)
    assert run(*search_it, "--force").code == 0
    assert run("search", data, "-m", color_model, "-o", data).code == 2
    assert (data / "train" / "warm" / "1.png").exists()


def test_the_frozen_stage_needs_no_torch(data, color_model):
    ran = run_blocked(TORCH, "search", data, "-m", color_model, "--trials", 2, "-o", data.parent / "found")
    assert ran.returncode == 0, ran.stderr
    assert len(trials_of(data.parent / "found")) == 2
