"""`visiontool check`: what it prints, writes and returns; and finetune without what its list leaves out."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visiontool.data.dataset import read
from visiontool.data.splits import read_rows


def texture(seed):
    """A picture of its own: smooth random colors."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Two classes in two splits, with a copy in both splits, a copy of another class, and a broken file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    for seed, (split, label) in enumerate((split, label) for split in ("train", "val") for label in ("a", "b")):
        folder = tmp_path / "data" / split / label
        folder.mkdir(parents=True)
        for number in range(12):
            texture(100 * seed + number).save(folder / f"{number}.png")
    texture(0).resize((48, 48)).save("data/val/a/again.jpg", quality=80)
    texture(101).save("data/train/a/mixed.png")
    (tmp_path / "data" / "train" / "b" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "data" / "train" / "b" / os.fsdecode(b"=\xff.png")).write_bytes(b"no picture")
    return tmp_path / "data"


def test_faults_are_found_listed_and_left_out(data, run, color_model):
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    ran = run("check", data, "-m", color_model, "--list", "list.csv", "--report", "page.html", "--strict")
    assert ran.code == 6
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before
    assert all(len(line) <= 80 for line in ran.out.splitlines()[:-1])
    assert ran.out.index("1 picture of val has a copy in train") < ran.out.index("warning   ")
    page = Path("page.html").read_text()
    assert "1 picture of val has a copy in train" in page
    assert page.count("data:image/jpeg") >= 4

    with open("list.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    of = {kind: {row["path"]: row for row in rows if row["check"] == kind} for kind in {row["check"] for row in rows}}
    assert of["leak"].keys() == {"val/a/again.jpg", "train/a/0.png"}
    assert of["leak"]["train/a/0.png"]["exclude"] == "yes"
    assert of["leak"]["train/a/0.png"]["cluster"] == of["leak"]["val/a/again.jpg"]["cluster"]
    assert of["conflict"].keys() == {"train/a/mixed.png", "train/b/1.png"}
    left_out = {row["path"] for row in rows if row["exclude"] == "yes"}
    assert left_out >= {"train/a/0.png", "train/b/broken.png", os.fsdecode(b"train/b/=\xff.png")}

    ran = run("finetune", data, "-m", color_model, "--exclude", "list.csv", "-o", "run")
    assert ran.code == 0, ran.err
    assert f"Left out by list.csv: {len(left_out)} pictures" in ran.err
    names = {row["path"] for row in read_rows(Path("run/splits.csv"))}
    assert names == {sample.name for sample in read(data).samples} - left_out
    assert run("finetune", "--from", "run", "-o", "again").code == 0


def test_json_has_every_finding_and_strict_asks_for_serious_ones(data, run, color_model):
    document = json.loads(run("check", data, "-m", color_model, "--json").out)
    assert document["serious"]
    assert {"leak", "conflict", "truncated"} <= {one["check"] for one in document["findings"]}
    assert [one["severity"] for one in document["findings"]] == sorted(
        (one["severity"] for one in document["findings"]), key=("serious", "warning", "note").index
    )
    for path in ("val/a/again.jpg", "train/a/mixed.png", "train/b/broken.png", os.fsdecode(b"train/b/=\xff.png")):
        (data / path).unlink()
    ran = run("check", data, "-m", color_model, "--strict")
    assert ran.code == 0, ran.out
    assert "0 serious" in ran.out


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
def test_a_read_only_folder_is_checked(data, color_model):
    as_others = [] if os.geteuid() else ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    if as_others and shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere, and there is no setpriv to give that up")
    for path in (*data.rglob("*"), data):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert subprocess.run([*as_others, "touch", data / "train" / "a" / "new.png"], capture_output=True).returncode
    typed = [*as_others, sys.executable, "-m", "visiontool", "check", data, "-m", color_model]
    ran = subprocess.run([*typed, "--list", "list.csv"], capture_output=True, text=True)
    for path in (data, *(path for path in data.rglob("*") if path.is_dir())):
        path.chmod(0o755)
    assert ran.returncode == 0, ran.stderr
    assert "1 picture of val has a copy in train" in ran.stdout
    assert "val/a/again.jpg" in Path("list.csv").read_text(errors="replace")


def test_folders_that_are_no_dataset(data, run, color_model, tmp_path):
    (tmp_path / "empty").mkdir()
    assert run("check", "empty", "-m", color_model).code == 3
    junk = tmp_path / "junk" / "notes"
    junk.mkdir(parents=True)
    (junk / "a.txt").write_text("no picture")
    ran = run("check", junk.parent, "-m", color_model)
    assert ran.code == 3
    assert str(junk.parent) in ran.err
    shutil.rmtree(data / "train" / "b")
    ran = run("check", data, "-m", color_model, "--strict")
    assert ran.code == 6
    assert "b" in ran.out
    (tmp_path / "other.csv").write_text("path\nnowhere.png\n")
    assert "none of its pictures is in" in run("finetune", data, "-m", color_model, "--exclude", "other.csv").err
