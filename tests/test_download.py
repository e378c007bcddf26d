"""Downloads from a real server that breaks off, changes its files, and worse."""

import errno
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hub_server
import pytest
from conftest import ROOT
from hub_server import HubServer

from visiontool import download as downloading
from visiontool.download import DownloadError, download
from visiontool.errors import ConversionError, ModelError, UsageError

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes
OTHER = bytes(range(255, -1, -1)) * 4000


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server.running() as hub:
        yield hub


@pytest.fixture(autouse=True)
def _no_pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "downloads").mkdir()
    return tmp_path / "downloads" / "file.pth"


def error_of(url: str, target: Path, **options: Any) -> str:
    with pytest.raises(DownloadError) as caught:
        download(url, target, **options)
    return str(caught.value)


def leave_half(hub: HubServer, target: Path, path: str = "/file.pth") -> int:
    """What a download leaves that breaks off in the middle, four times; gives how many bytes."""
    served = hub.files[path]
    knew, served.knows_ranges = served.knows_ranges, False
    served.cuts = [500_000] * 4
    with pytest.raises(DownloadError):
        download(hub.url + path, target)
    served.knows_ranges = knew
    hub.asked.clear()
    return target.with_name("file.pth.partial").stat().st_size


def test_a_file_comes_whole_and_nothing_else_is_left(hub: HubServer, target: Path) -> None:
    hub.add("/file.pth", CONTENT)
    seen: list[tuple[int, int | None]] = []
    download(hub.url + "/file.pth", target, progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert os.listdir(target.parent) == ["file.pth"]
    assert seen[0] == (0, 1_024_000)
    assert seen[-1] == (1_024_000, 1_024_000)
    assert seen == sorted(seen)
    assert [asked.headers.get("range") for asked in hub.asked] == [None]


def test_a_file_that_is_there_is_not_asked_for(hub: HubServer, target: Path) -> None:
    target.write_bytes(b"mine")
    download(hub.url + "/file.pth", target)
    assert target.read_bytes() == b"mine"
    assert hub.asked == []


def test_a_broken_connection_is_taken_up_where_it_broke(hub: HubServer, target: Path) -> None:
    hub.add("/file.pth", CONTENT, cuts=[300_000, 0, 400_000])
    seen: list[int] = []
    download(hub.url + "/file.pth", target, progress=lambda done, _: seen.append(done))
    assert target.read_bytes() == CONTENT
    ranges = [asked.headers.get("range") for asked in hub.asked]
    assert ranges == [None, "bytes=300000-", "bytes=300000-", "bytes=700000-"]
    assert {asked.headers.get("if-range") for asked in hub.asked[1:]} == {hub.files["/file.pth"].etag}
    assert seen == sorted(seen)


def test_another_run_goes_on_where_a_killed_one_stopped(hub: HubServer, target: Path) -> None:
    hub.add("/file.pth", CONTENT, chunk_bytes=20_000, pause_s=0.02)
    code = (
        "import sys; from pathlib import Path; from visiontool.download import download\n"
        "download(sys.argv[1], Path(sys.argv[2]))"
    )
    partial = target.with_name("file.pth.partial")
    process = subprocess.Popen([sys.executable, "-c", code, hub.url + "/file.pth", target], cwd=ROOT)
    while not (partial.exists() and partial.stat().st_size > 100_000):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists()
    came = partial.stat().st_size
    assert 100_000 < came < 1_024_000
    assert partial.read_bytes() == CONTENT[:came]
    download(hub.url + "/file.pth", target)
    assert target.read_bytes() == CONTENT
    assert hub.asked[-1].headers["range"] == f"bytes={came}-"
    assert os.listdir(target.parent) == ["file.pth"]


@pytest.mark.parametrize("faults", [{"validators": ("Last-Modified",)}, {"validators_of_parts": ("ETag",)}])
def test_one_validator_is_enough_to_go_on(faults: dict[str, Any], hub: HubServer, target: Path) -> None:
    hub.add("/file.pth", CONTENT, cuts=[300_000], **faults)
    download(hub.url + "/file.pth", target)
    assert target.read_bytes() == CONTENT
    assert hub.asked[1].headers["range"] == "bytes=300000-"
    assert len(hub.asked) == 2


@pytest.mark.parametrize(
    "faults",
    [{"validators": ()}, {"knows_ranges": False}, {"headers": {"ETag": 'W/"weak"'}, "validators": ("ETag",)}],
    ids=["nothing to know it by", "no ranges", "weak ETag"],
)
def test_what_cannot_be_gone_on_with_is_begun_anew(faults: dict[str, Any], hub: HubServer, target: Path) -> None:
    hub.add("/file.pth", CONTENT, cuts=[300_000], **faults)
    download(hub.url + "/file.pth", target)
    assert target.read_bytes() == CONTENT
    assert len(hub.asked) == 2
    if faults.get("knows_ranges", True):
        assert hub.asked[1].headers.get("range") is None


@pytest.mark.parametrize("knows_conditions", [True, False])
@pytest.mark.parametrize("other", [OTHER, OTHER[:600_000], OTHER[:100]], ids=["same size", "shorter", "much shorter"])
def test_a_file_that_changed_meanwhile_is_begun_anew(
    knows_conditions: bool, other: bytes, hub: HubServer, target: Path
) -> None:
    served = hub.add("/file.pth", CONTENT, knows_conditions=knows_conditions)
    assert leave_half(hub, target) == 500_000
    served.change(other)
    download(hub.url + "/file.pth", target)
    assert target.read_bytes() == other
    assert hub.asked[0].headers["range"] == "bytes=500000-"
    assert os.listdir(target.parent) == ["file.pth"]


def test_a_partial_file_of_another_address_is_not_gone_on_with(hub: HubServer, target: Path) -> None:
    hub.add("/file.pth", CONTENT)
    hub.add("/other.pth", OTHER)
    leave_half(hub, target)
    download(hub.url + "/other.pth", target)
    assert target.read_bytes() == OTHER
    assert hub.asked[0].headers.get("range") is None


@pytest.mark.parametrize("text", ["", "[]", "{", '["a", "b", "c"]', "[1, 2, 3, 4]"])
def test_damaged_notes_of_a_partial_file_mean_to_begin_anew(text: str, hub: HubServer, target: Path) -> None:
    hub.add("/file.pth", CONTENT)
    leave_half(hub, target)
    target.with_name("file.pth.validators").write_text(text)
    download(hub.url + "/file.pth", target)
    assert target.read_bytes() == CONTENT
    assert hub.asked[0].headers.get("range") is None


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again(status: int, hub: HubServer, target: Path) -> None:
    hub.add("/file.pth", CONTENT, statuses=[status, status])
    download(hub.url + "/file.pth", target)
    assert target.read_bytes() == CONTENT
    assert len(hub.asked) == 3


def test_a_server_that_stays_in_trouble_is_asked_four_times(hub: HubServer, target: Path) -> None:
    hub.add("/file.pth", CONTENT, statuses=[503] * 9)
    words = error_of(hub.url + "/file.pth", target)
    assert words == f"{hub.url}/file.pth cannot be downloaded: the server answers 503 Service Unavailable."
    assert len(hub.asked) == 4


@pytest.mark.parametrize(("status", "words"), [(404, "404 Not Found"), (403, "403 Forbidden"), (401, "401")])
def test_a_refusal_is_final(status: int, words: str, hub: HubServer, target: Path) -> None:
    hub.add("/file.pth", CONTENT, statuses=[status] * 2)
    with pytest.raises(DownloadError, match=f"the server answers {words}") as caught:
        download(hub.url + "/file.pth", target)
    assert caught.value.status == status
    assert isinstance(caught.value, ModelError)
    assert len(hub.asked) == 1
    assert os.listdir(target.parent) == []


def test_a_server_that_is_not_there_is_told_at_once(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "PAUSES_S", (60.0,))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "cannot be downloaded: Connection refused." in error_of(f"http://127.0.0.1:{port}/file.pth", target)


@pytest.mark.parametrize(("said", "seconds"), [("1", 1), (" 45 ", 45), ("0", 30), (None, 30)])
def test_how_long_a_server_may_say_nothing_is_as_huggingface_hub_reads_it(
    said: str | None, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_DOWNLOAD_TIMEOUT", raising=False)
    if said is not None:
        monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", said)
    assert downloading.timeout_s() == seconds


@pytest.mark.parametrize("said", ["", "soon", "2.5", "-1", "9999999"])
def test_a_time_that_is_none_names_the_variable(
    said: str, hub: HubServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("/file.pth", CONTENT)
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", said)
    with pytest.raises(UsageError, match=f"^HF_HUB_DOWNLOAD_TIMEOUT is {said!r}: expected a whole number of seconds$"):
        download(hub.url + "/file.pth", target)
    assert hub.asked == []


@pytest.mark.slow
def test_a_server_that_says_nothing_for_the_time_of_the_variable_is_given_up(
    hub: HubServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    monkeypatch.setattr(downloading, "PAUSES_S", ())
    hub.add("/file.pth", CONTENT, pause_s=1.4)
    assert "the connection broke (no answer for 1 s)" in error_of(hub.url + "/file.pth", target)


def test_a_server_that_says_nothing_is_given_up(hub: HubServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(downloading, "PAUSES_S", ())
    hub.add("/file.pth", CONTENT, pause_s=0.5)
    assert "the connection broke (no answer for 0 s)" in error_of(hub.url + "/file.pth", target)
    assert target.with_name("file.pth.partial").stat().st_size == 2**16


@pytest.mark.parametrize("sha256", [hashlib.sha256(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()[:8]])
def test_the_hash_is_checked(sha256: str, hub: HubServer, target: Path) -> None:
    served = hub.add("/file.pth", CONTENT)
    download(hub.url + "/file.pth", target, sha256=sha256)
    assert target.read_bytes() == CONTENT
    target.unlink()
    served.change(OTHER)
    words = error_of(hub.url + "/file.pth", target, sha256=sha256)
    assert "another file came than was expected" in words
    assert hashlib.sha256(OTHER).hexdigest()[:12] in words
    assert sha256[:8] in words
    assert os.listdir(target.parent) == []


def test_the_hash_that_a_hub_tells_is_checked(hub: HubServer, target: Path) -> None:
    served = hub.add_to_hub("timm/x", "model.safetensors", CONTENT)
    url = hub.url + "/timm/x/resolve/main/model.safetensors"
    hub.files[f"/storage/{served.sha256}"] = hub_server.Served(OTHER)
    assert "another file came than was expected" in error_of(url, target)
    hub.files[f"/storage/{served.sha256}"] = served
    download(url, target)
    assert target.read_bytes() == CONTENT


def test_a_partial_file_from_a_hub_is_gone_on_with(hub: HubServer, target: Path) -> None:
    hub.add_to_hub("timm/x", "model.safetensors", CONTENT, cuts=[300_000])
    download(hub.url + "/timm/x/resolve/main/model.safetensors", target)
    assert target.read_bytes() == CONTENT
    assert [asked.headers.get("range") for asked in hub.requests(end=hashlib.sha256(CONTENT).hexdigest())] == [
        None,
        "bytes=300000-",
    ]


def test_a_file_of_unknown_length_comes_whole(hub: HubServer, target: Path) -> None:
    hub.add("/file.pth", CONTENT, sends_length=False)
    seen: list[tuple[int, int | None]] = []
    download(hub.url + "/file.pth", target, progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (1_024_000, None)


@pytest.mark.parametrize("sends_length", [True, False])
def test_a_file_that_is_too_large_is_refused(
    sends_length: bool, hub: HubServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "MAX_BYTES", 1_000_000)
    hub.add("/file.pth", CONTENT, sends_length=sends_length)
    assert "1,000,000" in error_of(hub.url + "/file.pth", target)
    assert not target.exists()


@pytest.mark.parametrize("digits", ["9" * 30, "9" * 5000])
def test_numbers_that_no_file_has_are_refused(digits: str, hub: HubServer, target: Path) -> None:
    served = hub.add("/file.pth", CONTENT)
    leave_half(hub, target)
    served.headers = {"Content-Range": f"bytes {digits}-{digits}/{digits}"}
    download(hub.url + "/file.pth", target)
    assert target.read_bytes() == CONTENT
    assert [asked.headers.get("range") for asked in hub.asked] == ["bytes=500000-", None]  # anew
    served.headers = {"Content-Length": digits}
    target.unlink()
    assert f"it has more than {downloading.MAX_BYTES:,} bytes" in error_of(hub.url + "/file.pth", target)


@pytest.mark.parametrize("url", ["http://[::1", "http://127.0.0.1:x/", "http://127.0.0.1:99999/", "http://a..b/c"])
def test_an_address_that_is_none_is_told(url: str, hub: HubServer, target: Path) -> None:
    error_of(url, target)
    hub.add("/file.pth", b"", redirect=url)
    assert error_of(hub.url + "/file.pth", target).startswith(f"{hub.url}/file.pth cannot be downloaded: ")


def test_content_in_another_encoding_is_refused(hub: HubServer, target: Path) -> None:
    hub.add("/file.pth", CONTENT, headers={"Content-Encoding": "gzip"})
    assert "the server sends it as gzip, unasked" in error_of(hub.url + "/file.pth", target)
    assert {asked.headers["accept-encoding"] for asked in hub.asked} == {"identity"}


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x", "/etc/hostname", ""])
def test_only_the_web_is_asked_and_followed(url: str, hub: HubServer, target: Path) -> None:
    assert "begins with http:// or https://" in error_of(url, target)
    if "://" in url:
        hub.add("/file.pth", b"", redirect=url)
        assert url in error_of(hub.url + "/file.pth", target)
    assert os.listdir(target.parent) == []


def test_redirects_in_a_circle_end(hub: HubServer, target: Path) -> None:
    hub.add("/file.pth", b"", redirect="/file.pth")
    error_of(hub.url + "/file.pth", target)
    assert len(hub.asked) < 20


def test_the_token_is_for_the_hub_and_not_for_its_storage(hub: HubServer, target: Path) -> None:
    hub.add_to_hub("timm/x", "model.safetensors", CONTENT)
    hub.add("/moved", b"", redirect="/timm/x/resolve/main/model.safetensors")
    download(hub.url + "/moved", target, authorization="Bearer secret")
    told = [(asked.path.split("/")[1], asked.headers.get("authorization")) for asked in hub.asked]
    assert told == [("moved", "Bearer secret"), ("timm", "Bearer secret"), ("storage", None)]
    assert hub.asked[2].headers["host"].startswith("localhost")


@pytest.mark.parametrize("harm", [lambda folder: folder.rmdir(), lambda folder: (folder.rmdir(), folder.touch())])
def test_a_disk_that_cannot_be_written_names_the_variable(
    harm: Callable[[Path], object], hub: HubServer, target: Path
) -> None:
    hub.add("/file.pth", CONTENT)
    harm(target.parent)
    with pytest.raises(ConversionError, match="the cache cannot be written .*\nSet VISIONTOOL_CACHE to a folder"):
        download(hub.url + "/file.pth", target)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of file sizes")
def test_a_full_disk_is_told_and_what_came_is_kept(hub: HubServer, target: Path) -> None:
    hub.add("/file.pth", CONTENT)
    code = (
        "import resource, sys; from pathlib import Path; from visiontool.download import download\n"
        "from visiontool.errors import ConversionError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "try: download(sys.argv[1], Path(sys.argv[2]))\n"
        "except ConversionError as error: print(error)"
    )
    arguments = [sys.executable, "-c", code, hub.url + "/file.pth", str(target)]
    ran = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert f"the disk is full ({os.strerror(errno.EFBIG)}).\nSet VISIONTOOL_CACHE" in ran.stdout, ran.stderr
    assert len(hub.asked) == 1  # not taken for a broken connection
    download(hub.url + "/file.pth", target)
    assert target.read_bytes() == CONTENT
    assert hub.asked[1].headers["range"] == "bytes=300000-"
