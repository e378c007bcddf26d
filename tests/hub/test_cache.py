"""The cache of pulled models: a folder is whole or not there, and what was changed is not taken for a model."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Ran

from visiontool import locks
from visiontool.errors import ConversionError, ModelError
from visiontool.hub import cache, resolve
from visiontool.hub.cache import record

RECORD = '{"schema": 1, "name": "a", "source": "", "pulled": "", "license": "", "tools": {}, "files": %s}'
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="other rules for folders and rights")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(name: str, size: int = 100, used: float | None = None) -> cache.Cached:
    """A model in the cache whose model.onnx has `size` bytes, last used at `used` seconds since 1970."""
    with cache.lock(cache.models(), name), cache.unpublished(name) as folder:
        (folder / "model.onnx").write_bytes(b"o" * size)
        (folder / "config.json").write_bytes(b"{}")
        made = cache.publish(folder, name, source="hf-hub:timm/x", license="mit", tools={"torch": "2.15"})
    if used is not None:
        os.utime(made.folder / "record.json", (used, used))
    return made


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )


@needs_linux
@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"VISIONTOOL_CACHE": "/a/b"}, "/a/b"),
        ({"VISIONTOOL_CACHE": "~/b", "HOME": "/home/x"}, "/home/x/b"),
        ({"VISIONTOOL_CACHE": "", "XDG_CACHE_HOME": "/xdg"}, "/xdg/visiontool"),
        ({"VISIONTOOL_CACHE": "", "XDG_CACHE_HOME": "relative", "HOME": "/home/x"}, "/home/x/.cache/visiontool"),
        ({"VISIONTOOL_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/home/x"}, "/home/x/.cache/visiontool"),
    ],
)
def test_the_cache_is_where_the_platform_keeps_caches(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache.root() == Path(expected)


@needs_linux
def test_the_cache_is_in_library_caches_on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISIONTOOL_CACHE")
    monkeypatch.setenv("HOME", "/Users/x")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache.root() == Path("/Users/x/Library/Caches/visiontool")


def test_without_a_home_folder_only_what_needs_the_cache_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISIONTOOL_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as it answers where nobody has a home
    with pytest.raises(ModelError, match=r"no home folder is known to keep models in. Set VISIONTOOL_CACHE"):
        cache.root()
    assert cache.cached("vgg16.tv_in1k") is None
    assert cache.all_cached() == []
    assert resolve.resolve(None).parent.name == resolve.DEFAULT_MODEL


@pytest.mark.parametrize("name", ["vgg16.tv_in1k", "vgg16.tv_in1k@256", "squeezenet1_1.tv_in1k+0123456789ab", "ORG--x"])
def test_names_of_models_are_names_in_the_cache(name: str) -> None:
    assert cache.is_name(name)
    assert put(name).folder.name == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "-x", "a/b", "a\\b", "a\0", "a b", "a~b", "x.", "con", "NUL.txt", "é", "x" * 201]
)
def test_what_leads_elsewhere_is_no_name(name: str, root: Path) -> None:
    assert not cache.is_name(name)
    assert cache.cached(name) is None
    for action in (cache.remove, cache.verify):
        with pytest.raises(ModelError, match="no model in the cache is called"):
            action(name)
    with pytest.raises(ModelError, match="cannot be the default model"):
        cache.set_default_model(name)


def test_a_published_model_is_found_with_all_that_is_known_of_it(root: Path) -> None:
    assert cache.cached("vgg16.tv_in1k") is None
    made = put("vgg16.tv_in1k", 1000)
    assert made == cache.cached("vgg16.tv_in1k")
    assert made.path == root / "models" / "vgg16.tv_in1k" / "model.onnx"
    assert made.source == "hf-hub:timm/x"
    assert made.pulled.startswith("20")
    written = json.loads((made.folder / "record.json").read_bytes())
    assert (written["name"], written["license"], written["tools"]) == ("vgg16.tv_in1k", "mit", {"torch": "2.15"})
    assert written["files"]["model.onnx"]["size"] == 1000
    assert written["files"]["model.onnx"]["sha256"] == hashlib.sha256(b"o" * 1000).hexdigest()
    assert made.size_bytes == 1002 + (made.folder / "record.json").stat().st_size == cache.size_bytes()
    assert os.listdir(root / "models") == ["vgg16.tv_in1k"]  # no lock and no hidden folder is left


def test_a_model_that_fails_to_be_written_leaves_nothing(root: Path) -> None:
    def interrupted() -> None:
        with cache.lock(cache.models(), "a"), cache.unpublished("a") as folder:
            (folder / "model.onnx").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(root / "models") == []


def test_a_model_is_not_hashed_when_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    put("a")
    monkeypatch.setattr(record, "sha256", lambda path: pytest.fail(f"{path} was hashed"))
    assert cache.cached("a") is not None


@pytest.mark.parametrize("step_ns", [1, 10**6, 10**9])
def test_a_copy_with_coarser_times_is_not_hashed(step_ns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put("a").path
    time_ns = path.stat().st_mtime_ns // step_ns * step_ns
    os.utime(path, ns=(time_ns, time_ns))
    monkeypatch.setattr(record, "sha256", lambda path: pytest.fail(f"{path} was hashed"))
    assert cache.cached("a") is not None


def test_a_copy_with_another_time_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    path = put("a").path
    os.utime(path, (1, 1))
    hashed = []
    monkeypatch.setattr(record, "sha256", lambda path, sha256=record.sha256: hashed.append(path.name) or sha256(path))
    assert cache.cached("a") is not None
    assert set(hashed) == {"model.onnx"}
    hashed.clear()
    assert cache.cached("a") is not None
    assert hashed == []


def change(path: Path) -> None:
    path.write_bytes(b"x" * path.stat().st_size)
    os.utime(path, (1, 1))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (change, "model.onnx was changed since it was pulled"),
        (lambda path: path.write_bytes(b""), "model.onnx was changed since it was pulled"),
        (Path.unlink, "model.onnx cannot be read (No such file or directory)"),
    ],
    ids=["changed", "cut", "gone"],
)
def test_a_damaged_model_is_refused_with_what_to_type(harm: Callable[[Path], object], words: str) -> None:
    assert cache.verify(put("a").name) == []
    harm(cache.models() / "a" / "model.onnx")
    assert cache.verify("a") == [words]
    with pytest.raises(cache.DamagedModel) as caught:
        resolve.resolve("a")
    assert str(caught.value) == f"a in the cache is damaged: {words}.\nGet it anew with: visiontool models pull a"
    assert [model.name for model in cache.all_cached()] == ["a"]
    put("a")
    assert cache.verify("a") == []
    assert resolve.resolve("a").read_bytes() == b"o" * 100


@pytest.mark.parametrize(
    ("name", "source", "again"),
    [
        (
            "vgg16.tv_in1k@256",
            "hf-hub:timm/vgg16.tv_in1k",
            "Get it anew with: visiontool models pull vgg16.tv_in1k@256",
        ),
        ("me--birds", "hf-hub:me/birds", "Then pull it again: visiontool models pull hf-hub:me/birds"),
        ("b+0123456789ab", "local-dir:/my b", "Then pull it again: visiontool models pull 'local-dir:/my b'"),
        ("nin+0123456789ab", "file w.pth", "Then pull it again: visiontool models pull nin --weights w.pth"),
        (
            "nin+0123456789ab+0123456789ab",
            "file w.pth",
            "Then pull it again: visiontool models pull nin --weights w.pth --class-names FILE",
        ),
        ("nin+0123456789ab@96", "file w", "Then pull it again: visiontool models pull nin --weights w --img-size 96"),
    ],
)
def test_a_damaged_model_that_the_catalog_does_not_know_is_pulled_from_its_source(
    name: str, source: str, again: str
) -> None:
    with cache.lock(cache.models(), name), cache.unpublished(name) as folder:
        (folder / "model.onnx").touch()
        made = cache.publish(folder, name, source=source, license="", tools={})
    remove = "" if again.startswith("Get") else f"Remove it with: visiontool models remove {name}\n"
    made.path.write_bytes(b"x")
    words = f"{name} in the cache is damaged: model.onnx was changed since it was pulled.\n{remove}{again}"
    with pytest.raises(cache.DamagedModel, match=f"^{re.escape(words)}$"):
        cache.cached(name)
    record_file = made.folder / "record.json"
    record_file.write_text(record_file.read_text().replace('"pulled"', '"pulled?"'))
    with pytest.raises(cache.DamagedModel, match=re.escape(again)):
        cache.cached(name)
    record_file.write_text("")
    if remove:
        with pytest.raises(cache.DamagedModel, match=re.escape(f"models remove {name}, then pull it again") + "$"):
            cache.cached(name)


def test_a_change_that_keeps_size_and_time_is_found_by_verify() -> None:
    path = put("a").path
    times = path.stat()
    path.write_bytes(b"x" * 100)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert cache.cached("a") is not None
    assert cache.verify("a") == ["model.onnx was changed since it was pulled"]


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "[]",
        "{",
        '{"schema": 1}',
        RECORD % "{}",
        RECORD % '{"model.onnx": 1}',
        RECORD % '{"model.onnx": {"sha256": "", "size": 1, "mtime_ns": "1"}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_record_is_no_model(text: str | None) -> None:
    path = put("a").folder / "record.json"
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(cache.DamagedModel, match=r"record.json .*\nGet it anew with: visiontool models pull a"):
        cache.cached("a")
    assert len(cache.verify("a")) == 1
    assert [(model.name, model.source) for model in cache.all_cached()] == [("a", "")]
    cache.remove("a")
    assert cache.all_cached() == []


def test_a_record_of_another_schema_is_told_as_such() -> None:
    path = put("a").folder / "record.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    assert cache.verify("a") == ["another version of visiontool wrote its record.json"]


def test_a_removed_model_is_gone_and_others_stay(root: Path) -> None:
    put("a"), put("a.b")
    cache.remove("a")
    assert os.listdir(root / "models") == ["a.b"]
    with pytest.raises(ModelError, match="no model in the cache is called 'a'"):
        cache.remove("a")


def test_trim_removes_what_was_not_used_for_longest() -> None:
    for name, used in (("a", 3000), ("b", 1000), ("c", 2000)):
        put(name, 10_000, used)
    each = cache.size_bytes() // 3
    assert cache.trim(3 * each) == []
    assert [model.name for model in cache.trim(3 * each - 1)] == ["b"]
    assert [model.name for model in cache.all_cached()] == ["a", "c"]
    resolve.resolve("c")  # which is a use
    assert [model.name for model in cache.trim(each)] == ["a"]
    assert [model.name for model in cache.trim(0)] == ["c"]
    assert cache.size_bytes() == 0


def test_trim_clears_downloads_before_models(root: Path) -> None:
    put("a", 1000)
    cache.downloads().mkdir()
    for name in ("w.pth", "x.pth", "y.pth", "z.pth"):
        (cache.downloads() / name).write_bytes(b"d" * 500)
    with cache.lock(cache.downloads(), "z.pth"):  # a process is at it
        total = cache.size_bytes()
        assert cache.trim(total - 1) == []
        assert cache.size_bytes() == total - 500
        assert [model.name for model in cache.trim(600)] == ["a"]
        assert {path.name for path in cache.downloads().glob("[a-z]*")} == {"z.pth"}


def put_features(size: int) -> None:
    cache.features().mkdir(parents=True, exist_ok=True)
    for name in ("features.sqlite", "features.sqlite-journal"):
        (cache.features() / name).write_bytes(b"f" * (size // 2))


def test_trim_removes_features_before_models(root: Path) -> None:
    put("a", 1000)
    model = cache.size_bytes()
    put_features(500)
    assert cache.size_bytes() == model + 500 == model + cache.features_bytes()
    assert cache.trim(model + 500) == []
    assert cache.features_bytes() == 500
    assert cache.trim(model + 499) == []
    assert os.listdir(root / "features") == []
    assert [removed.name for removed in cache.trim(0)] == ["a"]
    assert cache.size_bytes() == 0


def test_the_command_shows_features_and_makes_them_less(run: Callable[..., Ran]) -> None:
    put("a", 1000)
    put_features(4_500_000)
    assert "       4.5 MB  features of pictures" in run("cache").out.splitlines()
    ran = run("cache", "--max-size", "2M")
    assert ran.err == "Removed: features of pictures (4.5 MB).\n"
    assert "       0.0 MB  features of pictures" in ran.out.splitlines()
    assert "0.0 MB  in 1 network, features and what was begun" in ran.out


def test_the_hash_of_a_model_comes_from_its_record_while_it_is_as_it_was_written(tmp_path: Path) -> None:
    path = put("a").path
    written, other = hashlib.sha256(b"o" * 100).hexdigest(), hashlib.sha256(b"x" * 100).hexdigest()
    assert cache.model_sha256(path) == written
    status = path.stat()
    path.write_bytes(b"x" * 100)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cache.model_sha256(path) == written  # not read: a change that keeps size and time is for `verify`
    os.utime(path, (1, 1))
    assert cache.model_sha256(path) == other
    path.with_name("record.json").write_text("damaged")
    assert cache.model_sha256(path) == other
    (tmp_path / "model.onnx").write_bytes(b"x" * 100)
    assert cache.model_sha256(tmp_path / "model.onnx") == other


def test_what_a_killed_process_left_is_no_model_and_is_cleared(root: Path) -> None:
    code = (
        "import os, signal; from visiontool.hub import cache\n"
        "with cache.lock(cache.models(), 'a'), cache.unpublished('a') as folder:\n"
        "    (folder / 'model.onnx').write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    for clear in (lambda: cache.trim(10**9), lambda: put("a")):
        assert run_python(code).returncode == -signal.SIGKILL
        assert len(os.listdir(root / "models")) == 2  # the folder and the lock
        assert cache.all_cached() == []
        assert cache.cached("a") is None
        clear()
        assert os.listdir(root / "models") == [model.name for model in cache.all_cached()]


def test_clearing_one_model_leaves_another_whose_name_begins_alike(root: Path) -> None:
    with cache.lock(cache.models(), "a.b"), cache.unpublished("a.b") as folder:
        put("a")
        cache.trim(10**9)
        assert folder.is_dir()


def test_a_second_process_waits_for_the_first(root: Path, tmp_path: Path) -> None:
    code = (
        "import time; from pathlib import Path; from visiontool.hub import cache\n"
        "with cache.lock(cache.models(), 'a'):\n"
        f"    Path({str(tmp_path / 'held')!r}).touch(); time.sleep(0.7)\n"
        f"    Path({str(tmp_path / 'done')!r}).touch()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    waits: list[str] = []
    with cache.lock(cache.models(), "b", lambda: waits.append("b")):
        assert not (tmp_path / "done").exists()
    with cache.lock(cache.models(), "a", lambda: waits.append("a")):
        assert (tmp_path / "done").exists()
    assert process.wait() == 0
    assert waits == ["a"]
    assert os.listdir(root / "models") == []


def test_a_lock_of_a_killed_process_is_free(root: Path) -> None:
    code = (
        "import os, signal; from visiontool.hub import cache\n"
        "with cache.lock(cache.models(), 'a'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    run_python(code)
    with locks.locked_if_free(root / "models" / ".a~lock") as is_free:
        assert is_free
        with locks.locked_if_free(root / "models" / ".a~lock") as is_free_again:
            assert not is_free_again


def test_the_default_model_is_what_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.default_model() is None
    put("a")
    cache.set_default_model("a")
    assert cache.default_model() == resolve.default_model() == "a"
    assert resolve.resolve(None).parent.name == "a"
    monkeypatch.setenv("VISIONTOOL_MODEL", "lenet5")
    assert resolve.default_model() == "lenet5"
    monkeypatch.delenv("VISIONTOOL_MODEL")
    cache.set_default_model(str(tmp_path / "model.onnx"))
    (tmp_path / "model.onnx").touch()
    assert resolve.resolve(None) == tmp_path / "model.onnx"
    cache.set_default_model(None)
    cache.set_default_model(None)
    assert resolve.default_model() == resolve.DEFAULT_MODEL


def test_a_default_that_is_gone_is_told_as_such(root: Path) -> None:
    cache.set_default_model("vgg16.tv_in1k")
    with pytest.raises(
        resolve.ModelNotPulled, match=r'^vgg16.tv_in1k \("visiontool models default" says so\) is not on'
    ):
        resolve.resolve(None)
    (root / "default").write_text("../x\n")
    with pytest.raises(ModelError, match=r"default holds no name of a model.\nChoose one with: visiontool models"):
        resolve.resolve(None)


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "file" / "cache"))
    words = "the cache cannot be written .*\nSet VISIONTOOL_CACHE to a folder"
    with pytest.raises(ConversionError, match=words):
        put("a")
    with pytest.raises(ConversionError, match=words):
        cache.set_default_model("a")
    assert cache.cached("a") is None
    assert cache.all_cached() == []
    assert cache.default_model() is None
    assert cache.trim(0) == []


@needs_linux
def test_a_full_disk_names_the_variable_and_leaves_nothing(root: Path) -> None:
    put("before")
    code = (
        "import resource; from test_cache import put; from visiontool.errors import ConversionError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))  # less than record.json has\n"
        "try: put('a', 100)\n"
        "except ConversionError as error: print(error)"
    )
    ran = run_python(code, PYTHONPATH=str(ROOT / "tests"))
    words = f"{root}: the disk is full (File too large).\nSet VISIONTOOL_CACHE to a folder on a disk with room"
    assert words in ran.stdout, ran.stderr
    assert os.listdir(root / "models") == ["before"]


@needs_linux
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_a_read_only_cache_answers(tmp_path: Path) -> None:
    path = put("a").path
    os.utime(path, (1, 1))  # so that the record should be renewed, and cannot
    record_time = (path.parent / "record.json").stat().st_mtime_ns
    for folder in (path.parent, *path.parents):
        folder.chmod(folder.stat().st_mode | 0o755)
        if folder == tmp_path.parents[1]:
            break
    code = (
        "import os, json, hashlib; from visiontool import locks; from visiontool.hub import cache, resolve as store\n"
        "store.built_in_names = list\n"  # looks into the package, which may lie where only root may look
        "os.seteuid(65534)\n"
        "print(store.resolve('a')); print(cache.verify('a'), len(cache.all_cached()))\n"
        "try: cache.set_default_model('a')\n"
        "except Exception as error: print(error)\n"
        "try: cache.remove('a')\n"
        "except Exception as error: print(error)"
    )
    ran = run_python(code)
    assert ran.stdout.splitlines() == [
        str(path),
        "[] 1",
        f"{cache.root()}: the cache cannot be written (Permission denied).",
        "Set VISIONTOOL_CACHE to a folder on a disk with room that you may write to.",
        f"{cache.root()}: the cache cannot be written (Permission denied).",
        "Set VISIONTOOL_CACHE to a folder on a disk with room that you may write to.",
    ], ran.stderr
    assert (path.parent / "record.json").stat().st_mtime_ns == record_time
