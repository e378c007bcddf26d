"""Training a network as a user meets it: a run like any other, which goes on where it was interrupted."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT
from PIL import Image
from safetensors.numpy import load_file

from visiontool import Classifier

pytestmark = pytest.mark.usefixtures("one_thread")

LENET = ("--from-scratch", "-m", "lenet5", "--augment", "none", "--device", "cpu")


@pytest.fixture(scope="module")
def waves(tmp_path_factory):
    """Faint waves in noise, falling or rising: hard for random features, easy to learn."""
    folder, draw = tmp_path_factory.mktemp("data") / "waves", np.random.default_rng(0)
    down, right = np.mgrid[:32, :32]
    for split, count in (("train", 150), ("val", 80)):
        for label, sign in (("falling", 1), ("rising", -1)):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                wave = np.sin((right + sign * down) * 1.5 + draw.uniform(0, 6))
                pixels = np.clip(128 + 42 * wave + draw.normal(0, 40, (32, 32)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def untaught(waves, tmp_path_factory):
    """The run of a LeNet-5 that has learned nothing."""
    folder = tmp_path_factory.mktemp("runs") / "untaught"
    command = [
        sys.executable,
        "-m",
        "visiontool",
        "finetune",
        waves,
        *LENET,
        "--lr",
        "1e-9",
        "--steps",
        "1",
        "-o",
        folder,
    ]
    subprocess.run([*map(str, command), "-q"], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return folder


def history_of(folder):
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def assert_timm_gives_its_logits(folder, pictures):
    import timm

    import visiontool.pytorch.architectures  # noqa: F401

    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    pixels = np.stack([np.asarray(Image.open(path), np.float32) for path in pictures])[:, None]
    with torch.no_grad():
        logits = network(torch.from_numpy((pixels / 255 - 0.1307) / 0.3081)).numpy()
    assert np.abs(logits - Classifier(folder).logits([str(path) for path in pictures])).max() < 1e-3


def test_from_scratch_gives_a_run_like_any_other(run, waves, tmp_path):
    folder = tmp_path / "run"
    learned = ("--lr", "2e-3", "-e", "12", "-b", "16", "--clip", "0.5", "--log", "tensorboard")
    ran = run("finetune", waves, *LENET, *learned, "-o", folder)
    assert (ran.code, ran.out) == (0, f"{folder}\n"), ran.err
    assert {path.name for path in folder.iterdir()} == {
        *("model.onnx", "model.safetensors", "config.json", "settings.json", "splits.csv", "metrics.json"),
        *("report.html", "fingerprints.npz", "history.csv", "curves.png", "checkpoint", "tensorboard"),
    }
    assert list((folder / "tensorboard").rglob("events*"))
    assert len(history_of(folder)) == 12
    assert metrics_of(folder)["val"]["accuracy"] > 0.95
    assert "Accuracy by epochs" in (folder / "report.html").read_text()
    pictures = sorted((waves / "val" / "rising").glob("*.png"))[:8]
    assert_timm_gives_its_logits(folder, pictures)
    evaluated = run("evaluate", folder, waves, "--split", "val", "--json", "-q")
    assert "val chose its best epoch and judged it then." in run("evaluate", folder, waves, "--split", "val").err
    assert json.loads(evaluated.out)["models"][0]["accuracy"] == pytest.approx(metrics_of(folder)["val"]["accuracy"])
    assert run("explain", "-m", folder, pictures[0], "-o", tmp_path / "why.png").code == 0
    assert run("export", folder, "-o", tmp_path / "one.onnx").code == 0
    assert run("verify", folder, tmp_path / "one.onnx").code == 0


def test_unfrozen_takes_the_place_of_frozen_where_it_is_better(run, waves, untaught, tmp_path):
    learn = ("--optimizer", "adamw", "--lr", "2e-3", "--layer-decay", "1", "-b", "16", "--clip", "0.5")
    # The outputs of its stages would say it all.
    learn += ("--augment", "none", "--head", "logistic", "--transform", "none", "--stages", "1")
    ran = run("finetune", waves, "-m", untaught, "--unfreeze", "auto", *learn, "-e", "12", "-o", tmp_path / "better")
    assert "It takes the place of the frozen backbone." in ran.err, ran.err
    found = metrics_of(tmp_path / "better")
    assert found["training"]["is_kept"]
    assert found["training"]["versus_frozen"]["interval"][0] > 0
    assert found["val"] == found["training"]["val"]
    assert_timm_gives_its_logits(tmp_path / "better", sorted((waves / "val" / "rising").glob("*.png"))[:8])
    assert Classifier(tmp_path / "better").spec.accuracy[0]["top1"] == round(found["val"]["accuracy"], 4)


def test_frozen_is_kept_where_unfreezing_brings_nothing(run, waves, untaught, tmp_path):
    common = (waves, "-m", untaught, "--augment", "none")
    assert run("finetune", *common, "-o", tmp_path / "frozen", "-q").code == 0
    ran = run("finetune", *common, "--unfreeze", "all", "--lr", "1e-6", "--steps", "2", "-o", tmp_path / "same")
    assert "not certainly better. The frozen backbone is kept." in ran.err
    assert ran.err.count("has no files for torch") == 1
    frozen, same = (onnx.load(tmp_path / name / "model.onnx").graph for name in ("frozen", "same"))
    assert (same.node, same.initializer) == (frozen.node, frozen.initializer)
    assert not (tmp_path / "same" / "model.safetensors").exists()  # which torch began with, of a head of another kind
    found = metrics_of(tmp_path / "same")
    assert not found["training"]["is_kept"]
    assert found["val"] == metrics_of(tmp_path / "frozen")["val"]


def test_a_finished_run_is_given_more_epochs(run, waves, tmp_path):
    folder = tmp_path / "run"
    assert run("finetune", waves, *LENET, "-e", "1", "--few", "20", "-o", folder, "-q").code == 0
    ran = run("finetune", "--resume", folder, "-e", "3", "--lr", "5e-4")
    assert ran.code == 0, ran.err
    assert "Changed: epochs from 1 to 3." in ran.err
    assert "Changed: lr from 0.001 to 0.0005." in ran.err
    assert [row["epoch"] for row in history_of(folder)] == ["1", "2", "3"]
    assert json.loads((folder / "settings.json").read_text())["train"]["epochs"] == 3
    assert not folder.with_name("run.partial").exists()
    for options, words in (
        (("--optimizer", "sgd"), "cannot change optimizer from adamw to sgd"),
        (("--seed", "3"), "cannot change seed from 0 to 3"),
        (("-o", tmp_path / "x"), "--from, -o and --force are for a new one"),
    ):
        ran = run("finetune", "--resume", folder, *options)
        assert ran.code == 2
        assert words in ran.err


def test_what_cannot_be_trained_says_why(run, waves, untaught, tmp_path, color_model):
    for arguments, code, words in (
        ((waves, "--lr", "0.1"), 2, "add --unfreeze or --from-scratch"),
        ((waves, "--from-scratch"), 2, "-m lenet5"),
        ((waves, "--from-scratch", "-m", "lenet6"), 5, "Closest: lenet5"),
        ((waves, *LENET, "--folds", "3"), 2, "--folds"),
        ((waves, *LENET, "--views", "3"), 2, "--views"),
        ((waves, *LENET, "--weights", color_model), 2, "--weights"),
        ((waves, *LENET, "--model-args", "{"), 2, "JSON object"),
        ((waves, *LENET, "--model-args", '{"depth": 3}'), 2, "--model-args go to the network's constructor"),
        ((waves, "--unfreeze", "9", "-m", untaught), 2, "groups of layers"),
        ((waves, "--unfreeze", "all", "-m", color_model), 4, "no torch weights"),
        ((waves, "--find-lr", tmp_path / "x.png"), 2, "--unfreeze or --from-scratch"),
        (("--resume", tmp_path), 2, "has no checkpoint"),
    ):
        ran = run("finetune", *arguments, *(() if "--resume" in arguments else ("-o", tmp_path / "none")))
        assert (ran.code, ran.out) == (code, ""), ran.err
        assert words in ran.err
        assert not (tmp_path / "none").exists()


def test_before_training_it_says_what_it_would_do(run, waves, untaught, tmp_path):
    ran = run("finetune", waves, *LENET, "-e", "3", "--dry-run")
    assert "Training 12 steps of 64 pictures, adamw" in ran.out
    ran = run("finetune", waves, *LENET, "--find-lr", tmp_path / "rates.png")
    assert 1e-7 < float(ran.out) < 10
    with Image.open(tmp_path / "rates.png") as plot:
        assert plot.size[0] > 400
    ran = run(
        "finetune", waves, *LENET[:-4], "--device", "cpu", "--erase", "1", "--preview-augment", tmp_path / "sheet.png"
    )
    assert (ran.code, ran.out) == (0, f"{tmp_path / 'sheet.png'}\n")


def started(*arguments, **environment):
    command = [sys.executable, "-m", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def wait_for_checkpoints(folder, count):
    deadline = time.monotonic() + 120
    while len({*folder.glob("step-*.pt")} | seen_in(folder)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def seen_in(folder, seen={}):  # noqa: B006 (older ones are deleted)
    seen.setdefault(folder, set()).update(folder.glob("step-*.pt"))
    return seen[folder]


@pytest.mark.slow
def test_a_killed_process_is_gone_on_with_and_ends_with_the_same_bits(waves, tmp_path):
    options = (
        "visiontool",
        "finetune",
        waves,
        *LENET,
        "-e",
        "30",
        "-b",
        "8",
        "--mixup",
        "0.2",
        "--ema",
        "0.9",
        "-j",
        "2",
    )
    killed = started(*options, "-o", tmp_path / "killed")
    checkpoints = tmp_path / "killed.partial" / "killed" / "checkpoint"
    wait_for_checkpoints(checkpoints, 4)
    killed.kill()
    killed.communicate()
    assert not (tmp_path / "killed").exists()
    again = started(*options, "-o", tmp_path / "killed")
    assert "--resume" in again.communicate()[1]
    assert again.returncode == 2
    resumed = started("visiontool", "finetune", "--resume", tmp_path / "killed", "-j", "2")
    stderr = resumed.communicate()[1]
    assert resumed.returncode == 0, stderr
    assert "Goes on behind step" in stderr
    whole = started(*options, "-o", tmp_path / "whole")
    assert whole.communicate()[0] == f"{tmp_path / 'whole'}\n"
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def torchrun(*arguments):
    return started("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "visiontool", *arguments)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(waves, tmp_path):
    options = ("finetune", waves, *LENET, "-e", "3", "-b", "16", "-j", "1")
    both = torchrun(*options, "-o", tmp_path / "two")
    out, err = both.communicate()
    assert (both.returncode, out) == (0, f"{tmp_path / 'two'}\n"), err
    assert err.count("Judged by") == 1
    one = started("visiontool", *options, "-o", tmp_path / "one")
    assert one.communicate()[0] == f"{tmp_path / 'one'}\n"
    single, double = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(np.abs(single[name] - double[name]).max() < 1e-4 for name in single)
    for ours, theirs in zip(history_of(tmp_path / "one"), history_of(tmp_path / "two"), strict=True):
        assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), abs=1e-4)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("two")] == ["two"]


@pytest.mark.slow
def test_a_killed_process_of_two_ends_the_run_with_a_checkpoint(waves, tmp_path):
    both = torchrun("finetune", waves, *LENET, "-e", "500", "-b", "16", "-j", "1", "-o", tmp_path / "run")
    checkpoints = tmp_path / "run.partial" / "run" / "checkpoint"
    wait_for_checkpoints(checkpoints, 2)
    (second,) = (
        int(pid)
        for pid in subprocess.run(
            ["pgrep", "-P", str(both.pid)], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.split()
        if b"RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()
    )
    os.kill(second, signal.SIGKILL)
    err = both.communicate(timeout=60)[1]
    assert both.returncode != 0
    assert "another process of th" in err
    assert f"--resume {tmp_path / 'run'}" in err
    last = int(max(checkpoints.glob("step-*.pt")).stem.removeprefix("step-"))
    resumed = started("visiontool", "finetune", "--resume", tmp_path / "run", "--steps", last + 3)
    assert f"Goes on behind step {last:,}" in resumed.communicate()[1]
    assert (tmp_path / "run" / "model.onnx").is_file()


def test_without_torch_it_names_the_extra_at_once(run, waves, untaught, tmp_path, monkeypatch):
    monkeypatch.setattr("visiontool.training.train.find_spec", lambda name: None if name == "accelerate" else name)
    for options in (LENET, ("-m", untaught, "--unfreeze", "auto")):
        ran = run("finetune", waves, *options, "-o", tmp_path / "run")
        assert (ran.code, ran.out) == (4, "")
        assert "visiontool[train]" in ran.err
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_search_trains_networks_and_stops_those_that_are_behind(waves, untaught, run, tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text("lr: [0.0000001, 0.001, 0.0001, 0.05]\nepochs: [4]\naugment: [none]\n")
    found = tmp_path / "found"
    ran = run(
        "search", waves, "-m", untaught, "--unfreeze", "--space", space, "--sampler", "grid", "-o", found, "--json"
    )
    assert ran.code == 0, ran.err
    document = json.loads(ran.out)
    states = {trial["settings"]["lr"]: trial["state"] for trial in document["trials"]}
    assert states == {1e-7: "done", 0.001: "done", 0.0001: "done", 0.05: "stopped early"}  # which destroys the network
    assert document["winner"]["value"] > 0.7
    assert (document["judged_by"], document["kept_aside"]) == (60, 160)
    with open(found / "splits.csv", newline="") as file:
        assert {row["split"] for row in csv.DictReader(file)} == {"train", "val", "test"}
    assert json.loads((found / "settings.json").read_text())["train"]["lr"] < 0.05
