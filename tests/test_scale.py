"""docs/scale.md: shards, and the same classifier inside Ray Data and Apache Beam. The page is run as written."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
from itertools import chain, zip_longest
from pathlib import Path

import pytest
from conftest import ROOT, save_picture

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


@pytest.fixture
def photos(tmp_path):
    """Ten pictures and one that is broken."""
    folder = tmp_path / "photos"
    for index in range(10):
        save_picture(folder / f"{index}.jpg", (RED, GREEN, BLUE)[index % 3])
    (folder / "5b.jpg").write_bytes(b"junk")
    return folder


def rows_in(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_shards_are_disjoint_complete_and_in_order(run, color_model, photos, tmp_path):
    machines = 3
    assert run("predict", photos, "-m", color_model, "-o", tmp_path / "all.jsonl").code == 7
    shards = []
    for machine in range(1, machines + 1):
        file = tmp_path / f"{machine}.jsonl"
        ran = run("predict", photos, "-m", color_model, "-o", file, "--shard", f"{machine}/{machines}")
        shards.append(rows_in(file))
        assert ran.code == (7 if any(row["status"] == "error" for row in shards[-1]) else 0)
    whole = rows_in(tmp_path / "all.jsonl")
    assert [Path(row["path"]).name for row in whole][4:8] == ["4.jpg", "5.jpg", "5b.jpg", "6.jpg"]
    assert shards == [whole[machine::machines] for machine in range(machines)]
    assert [row for row in chain.from_iterable(zip_longest(*shards)) if row] == whole


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def shell(photos, tmp_path, color_model):
    """Runs a script in a folder with photos/ and a cluster that is this machine, which has no GPU."""
    tools = tmp_path / "tools"
    tools.mkdir()
    command = f"{shlex.quote(sys.executable)} -m visiontool"
    for name, script in (("visiontool", f'exec {command} "${{@/#cuda:*/cpu}}"'), ("ssh", '(cd / && bash -c "$3")')):
        (tools / name).write_text(f"#!/bin/bash\n{script}\n")
        (tools / name).chmod(0o755)

    def shell_(script, code=0, **variables):
        environment = {
            **os.environ,
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "VISIONTOOL_MODEL": str(color_model),
        }
        ran = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env={**environment, **variables}, capture_output=True, text=True
        )
        assert ran.returncode == code, ran.stderr
        return ran.stdout

    return shell_


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32" or not shutil.which("bash"), reason="needs bash and paste")
def test_the_commands_of_the_page_run_as_written(shell, tmp_path):
    one, gpus, ssh, slurm, merge, again = (block for block in blocks("sh") if not block.startswith("python "))
    kubernetes = re.search(r"^ +- \|\n((?: {14}.*\n)+)", blocks("yaml")[0], re.MULTILINE)[1]

    shell(one, code=7)
    assert len(rows_in(tmp_path / "rows.jsonl")) == len(rows_in(tmp_path / "jpegs.jsonl")) == 11
    shell(gpus)
    listed = (tmp_path / "photos.txt").read_text().splitlines()
    assert len(listed) == 11
    for gpu in range(4):
        assert [row["path"] for row in rows_in(tmp_path / f"gpu-{gpu}.jsonl")] == listed[gpu::4]
    shell(ssh)
    over_ssh = {number: (tmp_path / f"rows-{number}.jsonl").read_bytes() for number in range(1, 5)}
    assert len(set(over_ssh.values())) == 4
    # The other two begin where an interrupted shard has left off.
    for number, script, variables in (
        (3, slurm, {"SLURM_ARRAY_TASK_ID": "3"}),
        (4, textwrap.dedent(kubernetes), {"JOB_COMPLETION_INDEX": "3"}),
    ):
        (tmp_path / f"rows-{number}.jsonl").unlink()
        (tmp_path / f"rows-{number}.jsonl.partial").write_bytes(over_ssh[number].splitlines(keepends=True)[0])
        shell(script, **variables)
        assert (tmp_path / f"rows-{number}.jsonl").read_bytes() == over_ssh[number]

    counts = shell(merge).splitlines()
    assert [line.split()[0] for line in counts[:2]] == ["11", "11"]
    merged = (tmp_path / "rows.jsonl").read_bytes()
    assert [row["path"] for row in rows_in(tmp_path / "rows.jsonl")] == listed
    (broken,) = shell('grep \'"status": "error"\' rows.jsonl').splitlines()
    assert json.loads(broken)["path"] == "photos/5b.jpg"
    assert 'grep \'"status": "error"\' rows.jsonl' in PAGE
    # One row is lost; the last command of the page does it again, and the broken one, and keeps the rest.
    (tmp_path / "rows.jsonl").write_bytes(b"".join(merged.splitlines(keepends=True)[:-1]))
    shell(again, code=7)
    assert sorted((tmp_path / "rows.jsonl").read_bytes().splitlines()) == sorted(merged.splitlines())


def test_the_page_has_the_code_of_the_examples():
    excerpts = re.findall(r"<!-- from: (\S+) -->\n```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert sorted({file for file, _ in excerpts}) == ["examples/beam.py", "examples/ray_data.py"]
    for file, code in excerpts:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert any(textwrap.indent(code, " " * indent) in source for indent in (0, 4, 8, 12)), code


def test_ray_is_told_to_report_nothing_before_it_is_imported():
    source = (ROOT / "examples" / "ray_data.py").read_text(encoding="utf-8")
    assert 0 < source.index('os.environ["RAY_USAGE_STATS_ENABLED"] = "0"') < source.index("\nimport ray")


needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or importlib.util.find_spec("pyarrow") is None,
    reason='needs Ray Data: pip install ".[ray]"',
)
needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="needs Apache Beam: pip install apache-beam"
)


@pytest.fixture
def many_photos(photos):
    """More than one batch of Ray, in natural order; where the system takes it, a name that is not UTF-8."""
    for index in range(10, 300):
        os.link(photos / f"{index % 3}.jpg", photos / f"{index}.jpg")
    if sys.platform == "linux":
        os.link(photos / "1.jpg", os.fsencode(photos) + b"/\xff.jpg")
    return photos


@pytest.fixture
def expected(run, color_model, many_photos):
    """The rows of `visiontool predict`, as the examples write them."""
    rows = []
    for line in run("predict", many_photos, "-m", color_model, "--format", "jsonl").out.splitlines():
        row = json.loads(line)
        best = row["predictions"][0] if "predictions" in row else {"label": None, "probability": None}
        rows.append(
            {name: row.get(name) for name in ("path", "path_b64", "status", "error")}
            | {"label": best["label"], "probability": best["probability"]}
        )
    assert len(rows) >= 301
    assert sum(row["status"] == "error" for row in rows) == 1
    return rows


def rounded(row):
    return row | {"probability": row["probability"] and round(row["probability"], 6)}


@pytest.fixture
def ray_data(tmp_path, color_model):
    """Runs examples/ray_data.py. What Ray leaves is removed, and the home of whoever runs this is left alone."""
    # A short name: Ray makes sockets in it, and their paths may have no more than a hundred characters.
    home = tempfile.mkdtemp(prefix="ray", dir="/tmp" if os.path.isdir("/tmp") else None)

    def ray_data_(source, output, *options):
        environment = {**os.environ, "HOME": home, "RAY_TMPDIR": home, "PYTHONPATH": str(ROOT)}
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, ROOT / "examples" / "ray_data.py", source, output, "--model", color_model, *options]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    yield ray_data_
    shutil.rmtree(home, ignore_errors=True)


@pytest.mark.slow
@needs_ray
def test_ray_writes_the_rows_of_predict_in_their_order(ray_data, many_photos, expected, tmp_path):
    ran = ray_data("photos", "rows")  # as on the page
    assert ran.returncode == 7, ran.stderr
    assert f"{len(expected):,} rows; 1 failed." in ran.stderr
    import pyarrow.parquet

    files = sorted((tmp_path / "rows").iterdir())
    rows = [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]
    assert [rounded(row) for row in rows] == expected
    again = ray_data("photos", "rows")
    assert again.returncode == 2
    assert "rows exists" in again.stderr


@pytest.mark.slow
@needs_ray
def test_ray_classifies_the_pictures_of_a_store_from_their_bytes(ray_data, photos, expected, tmp_path):
    for name in os.listdir(os.fsencode(photos)):
        if b"\xff" in name:  # no name in a store
            os.unlink(os.path.join(os.fsencode(photos), name))
    ran = ray_data(photos.as_uri(), "rows", "--format", "json", "--actors", "2")
    assert ran.returncode == 7, ran.stderr
    rows = [rounded(row) for file in sorted((tmp_path / "rows").iterdir()) for row in rows_in(file)]
    named = [row for row in expected if row["path_b64"] is None]
    assert rows == sorted(named, key=lambda row: row["path"])


@pytest.mark.slow
@needs_beam
def test_beam_writes_the_rows_of_predict(many_photos, expected, color_model, tmp_path):
    listed = [os.fsencode(many_photos / name) for name in os.listdir(many_photos)]
    (tmp_path / "photos.txt").write_bytes(b"\n".join(listed) + b"\n\n")
    command = [sys.executable, ROOT / "examples" / "beam.py", "photos.txt", "beam", "--model", color_model]
    ran = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    rows = [rounded(dict.fromkeys(expected[0]) | row) for row in rows_in(tmp_path / "beam-00000-of-00001.jsonl")]
    assert sorted(rows, key=lambda row: row["path"]) == sorted(expected, key=lambda row: row["path"])
