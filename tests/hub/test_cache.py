"""The cache of pulled models: a folder is whole or not there, and what was changed is not taken for a model."""

import hashlib
import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from visiontool import files
from visiontool.errors import ConversionError, ModelError
from visiontool.hub import cache, resolve


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(name: str, size: int = 100, used: float | None = None, source: str = "hf-hub:timm/x") -> cache.Cached:
    """A model in the cache whose model.onnx has `size` bytes, last used at `used` seconds since 1970."""
    with cache.lock(cache.models(), name), cache.unpublished(name) as folder:
        (folder / "model.onnx").write_bytes(b"o" * size)
        (folder / "config.json").write_bytes(b"{}")
        model = cache.publish(folder, name, source)
    if used is not None:
        os.utime(model.folder, (used, used))
    return model


@pytest.mark.skipif(sys.platform != "linux", reason="other rules for folders")
@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"VISIONTOOL_CACHE": "/a/b"}, "/a/b"),
        ({"VISIONTOOL_CACHE": "~/b", "HOME": "/home/x"}, "/home/x/b"),
        ({"VISIONTOOL_CACHE": "", "XDG_CACHE_HOME": "/xdg"}, "/xdg/visiontool"),
        ({"VISIONTOOL_CACHE": "", "XDG_CACHE_HOME": "relative", "HOME": "/home/x"}, "/home/x/.cache/visiontool"),
        ({"VISIONTOOL_CACHE": "", "HOME": "/Users/x", "platform": "darwin"}, "/Users/x/Library/Caches/visiontool"),
    ],
)
def test_the_cache_is_where_the_platform_keeps_caches(variables, expected, monkeypatch):
    monkeypatch.setattr(sys, "platform", variables.pop("platform", "linux"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert files.cache_root() == Path(expected)


def test_without_a_home_folder_only_what_needs_the_cache_fails(monkeypatch):
    monkeypatch.delenv("VISIONTOOL_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as it answers where nobody has a home
    with pytest.raises(ModelError, match=r"no home folder is known to keep models in. Set VISIONTOOL_CACHE"):
        files.cache_root()
    assert resolve.resolve(None).parent.name == resolve.DEFAULT_MODEL


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "-x", "a/b", "a\\b", "a\0", "a b", "a~b", "x.", "é", "x" * 201]
)
def test_what_leads_elsewhere_is_no_name(name):
    assert not cache.is_name(name)
    assert cache.cached(name) is None
    for action in (cache.remove, cache.verify):
        with pytest.raises(ModelError, match="no model in the cache is called"):
            action(name)


def test_a_published_model_is_there_with_its_record(root):
    assert cache.cached("vgg16.tv_in1k@256") is None
    model = put("vgg16.tv_in1k@256", 1000)
    assert model == cache.cached("vgg16.tv_in1k@256")
    assert model.path == root / "models" / "vgg16.tv_in1k@256" / "model.onnx"
    assert model.source == "hf-hub:timm/x"
    record = json.loads((model.folder / "record.json").read_bytes())
    assert record["source"] == model.source
    assert record["files"]["model.onnx"]["size"] == 1000
    assert record["files"]["model.onnx"]["sha256"] == hashlib.sha256(b"o" * 1000).hexdigest()
    assert model.size_bytes == 1002 + (model.folder / "record.json").stat().st_size == cache.size_bytes()
    assert os.listdir(root / "models") == ["vgg16.tv_in1k@256"]  # no lock and no hidden folder is left


def test_a_model_is_hashed_once_where_its_time_is_another(monkeypatch):
    path = put("a").path
    hashed: list[str] = []

    def sha256(path: Path) -> str:
        hashed.append(path.name)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(cache, "sha256", sha256)
    for step_ns in (1, 10**6, 10**9):  # a copy may have coarser times
        time_ns = path.stat().st_mtime_ns // step_ns * step_ns
        os.utime(path, ns=(time_ns, time_ns))
        assert cache.cached("a") is not None
    assert hashed == []
    os.utime(path, (1, 1))
    for _ in range(2):
        assert cache.cached("a") is not None
    assert hashed == ["model.onnx"]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: path.write_bytes(b""), "model.onnx was changed since it was pulled"),
        (Path.unlink, "model.onnx cannot be read (No such file or directory)"),
    ],
    ids=["changed", "gone"],
)
def test_a_damaged_model_is_refused_with_what_to_type(harm, words):
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


DIGITS = "0123456789ab"


@pytest.mark.parametrize(
    ("name", "source", "arguments"),
    [
        ("vgg16.tv_in1k@256", "hf-hub:timm/vgg16", "vgg16.tv_in1k@256"),
        ("me--birds", "hf-hub:me/birds", "hf-hub:me/birds"),
        (f"b+{DIGITS}", "local-dir:/my b", "'local-dir:/my b'"),
        (f"nin+{DIGITS}", "file w.pth", "nin --weights w.pth"),
        (f"nin+{DIGITS}+{DIGITS}@96", "file w", "nin --weights w --img-size 96 --class-names FILE"),
    ],
)
def test_a_damaged_model_is_pulled_from_its_source(name, source, arguments):
    first, _, second = cache.remedy(name, source).rpartition("\n")
    assert first == ("" if name.startswith("vgg") else f"Remove it with: visiontool models remove {name}")
    assert second.endswith(f": visiontool models pull {arguments}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "its record.json cannot be read (No such file or directory)"),
        ("{", "its record.json is not what visiontool writes"),
        ("[]", "its record.json is not what visiontool writes"),
        ('{"schema": 1, "source": "", "files": {}}', "its record.json is not what visiontool writes"),
        ('{"schema": 2, "source": ""}', "another version of visiontool wrote its record.json"),
    ],
)
def test_a_damaged_record_is_no_model(text, words):
    path = put("a").folder / "record.json"
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(cache.DamagedModel, match=r"record.json.*\nGet it anew with: visiontool models pull a"):
        cache.cached("a")
    assert cache.verify("a") == [words]
    assert [(model.name, model.source) for model in cache.all_cached()] == [("a", "")]
    put("a.b")
    cache.remove("a")
    assert os.listdir(cache.models()) == ["a.b"]


def test_trim_removes_features_and_then_what_was_not_used_for_longest(root):
    for name, used in (("a", 3000), ("b", 1000), ("c", 2000)):
        put(name, 10_000, used)
    each = cache.size_bytes() // 3
    cache.features().mkdir(parents=True)
    (cache.features() / "features.sqlite").write_bytes(b"f" * 500)
    assert (cache.size_bytes(), cache.features_bytes()) == (3 * each + 500, 500)
    assert cache.trim(3 * each + 500) == []
    assert cache.trim(3 * each + 499) == []
    assert os.listdir(root / "features") == []
    assert [model.name for model in cache.trim(3 * each - 1)] == ["b"]
    assert [model.name for model in cache.all_cached()] == ["a", "c"]
    resolve.resolve("c")  # which is a use
    assert [model.name for model in cache.trim(each)] == ["a"]
    assert [model.name for model in cache.trim(0)] == ["c"]
    assert cache.size_bytes() == 0


def test_trim_clears_what_no_process_is_writing():
    cache.downloads().mkdir(parents=True)
    for name in ("left.pth", "running.pth"):
        (cache.downloads() / name).write_bytes(b"d" * 500)
    with (
        cache.lock(cache.downloads(), "running.pth"),
        cache.lock(cache.models(), "a.b"),
        cache.unpublished("a.b") as folder,
    ):
        put("a")
        assert cache.trim(10**9) == []
        assert {path.name for path in cache.downloads().glob("[a-z]*")} == {"running.pth"}
        assert folder.is_dir()


def test_what_a_killed_process_left_is_no_model_and_is_cleared(root):
    for clear in (lambda: cache.trim(10**9), lambda: put("a")):
        folder = files.hidden(root / "models" / "a")
        folder.mkdir(parents=True)
        (folder / "model.onnx").touch()
        (root / "models" / ".a~lock").touch()
        assert cache.all_cached() == []
        assert cache.cached("a") is None
        clear()
        assert os.listdir(root / "models") == [model.name for model in cache.all_cached()]


def test_the_hash_of_a_model_comes_from_its_record_while_it_is_as_it_was_written(tmp_path):
    path = put("a").path
    recorded, other = hashlib.sha256(b"o" * 100).hexdigest(), hashlib.sha256(b"x" * 100).hexdigest()
    status = path.stat()
    path.write_bytes(b"x" * 100)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert files.model_sha256(path) == recorded  # not read: a change that keeps size and time is for `verify`
    assert cache.cached("a") is not None
    assert cache.verify("a") == ["model.onnx was changed since it was pulled"]
    os.utime(path, (1, 1))
    assert files.model_sha256(path) == other
    path.with_name("record.json").write_text("damaged")
    assert files.model_sha256(path) == other
    (tmp_path / "model.onnx").write_bytes(b"x" * 100)
    assert files.model_sha256(tmp_path / "model.onnx") == other


def test_a_second_holder_of_a_lock_waits_for_the_first(root):
    with ExitStack() as stack:
        stack.enter_context(cache.lock(cache.models(), "a"))
        with cache.lock(cache.models(), "b", pytest.fail):
            pass
        with cache.lock(cache.models(), "a", stack.close):  # called as soon as it waits
            pass
    assert os.listdir(root / "models") == []


def test_the_default_model_is_what_was_chosen(tmp_path, monkeypatch):
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
    cache.set_default_model("vgg16.tv_in1k")
    with pytest.raises(resolve.ModelNotPulled, match=r'^vgg16.tv_in1k \("visiontool models default" says so\) is not'):
        resolve.resolve(None)
    cache.set_default_model(None)
    cache.set_default_model(None)
    assert resolve.default_model() == resolve.DEFAULT_MODEL


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "file" / "cache"))
    for write in (put, cache.set_default_model):
        with pytest.raises(ConversionError, match="the cache cannot be written .*\nSet VISIONTOOL_CACHE to a folder"):
            write("a")
    assert cache.cached("a") is None
    assert cache.all_cached() == []
    assert cache.default_model() is None
    assert cache.trim(0) == []


def test_a_read_only_cache_answers(monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = put("a").path
    os.utime(path, (1, 1))  # so that the record should be renewed, and cannot
    monkeypatch.setattr(cache, "write_file", refuse)
    monkeypatch.setattr(os, "utime", refuse)
    assert resolve.resolve("a") == path
