"""Where weights come from: copies on this disk, a hub, an address; and the errors where none of them can be."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import hub_server
import pytest
from hub_server import HubServer
from huggingface_hub import constants, errors

from visiontool.errors import ModelError
from visiontool.hub import cache, sources

CONTENT = os.urandom(200_000)
OTHER = os.urandom(200_000)
SOURCE = "hf-hub:timm/x.in1k"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server.running() as hub:
        yield hub


@pytest.fixture(autouse=True)
def _nothing_of_the_user(tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, folder in (("VISIONTOOL_CACHE", "cache"), ("TORCH_HOME", "torch")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    # What huggingface_hub read from the environment when it was imported.
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))


def read(source: str, *, offline: bool = False) -> bytes:
    with sources.weights_file(source, offline=offline) as path:
        return path.read_bytes()


def error_of(source: str, *, offline: bool = False) -> str:
    with pytest.raises(ModelError) as caught:
        read(source, offline=offline)
    return str(caught.value)


def downloads() -> list[str]:
    return sorted(os.listdir(cache.downloads())) if cache.downloads().exists() else []


def test_a_hub_gives_weights_once_and_keeps_them_in_its_own_cache(hub):
    hub.add_to_hub("timm/x.in1k", "model.safetensors", CONTENT)
    hub.add_to_hub("timm/x.in1k", "pytorch_model.bin", OTHER)
    steps: list[tuple[str, int, int | None]] = []
    with sources.weights_file(SOURCE, progress=lambda *step: steps.append(step)) as path:
        assert path.read_bytes() == CONTENT
        assert path.suffix == ".safetensors"
    assert steps[-1] == ("download", len(CONTENT), len(CONTENT))
    assert all(SOURCE[7:] in asked.path or "/storage/" in asked.path for asked in hub.asked)  # nothing is reported
    assert hub.asked[0].headers["user-agent"].startswith("visiontool/")
    assert read(SOURCE, offline=True) == CONTENT
    sources.check_offline(SOURCE, offline=True)
    assert downloads() == []


def test_a_repository_gives_both_files_or_what_torch_saved(hub):
    hub.add_to_hub("timm/x.in1k", "pytorch_model.bin", OTHER)
    assert read(SOURCE) == OTHER
    hub.add_to_hub("me/birds", "config.json", b"{}")
    hub.add_to_hub("me/birds", "model.safetensors", CONTENT)
    config, weights = (sources.hub_file("me/birds", name) for name in ("config.json", "model.safetensors"))
    assert (config.read_bytes(), weights.read_bytes()) == (b"{}", CONTENT)


def test_a_private_repository_needs_a_token(hub, monkeypatch):
    hub.add_to_hub("timm/x.in1k", "model.safetensors", CONTENT)
    hub.tokens["timm/x.in1k"] = "hf_secret"
    assert error_of(SOURCE) == (
        f"{SOURCE} cannot be downloaded: there is no such repository, or it is private: HF_TOKEN gives access.\n"
        "Fetch it by other means and give it with --weights FILE."
    )
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert read(SOURCE) == CONTENT


def test_an_address_gives_a_file_for_the_block_and_torchs_copy_is_used_if_its_hash_fits(hub, tmp_path):
    url = hub.add_checkpoint("alexnet-owt", CONTENT)
    copy = tmp_path / "torch" / "hub" / "checkpoints" / url.rpartition("/")[2]
    copy.parent.mkdir(parents=True)
    copy.write_bytes(CONTENT)
    assert read(url, offline=True) == CONTENT
    assert hub.asked == []
    copy.write_bytes(OTHER)
    with sources.weights_file(url) as path:
        assert path.read_bytes() == CONTENT
        assert path.parent == cache.downloads()
    assert hub.asked[0].headers["user-agent"].startswith("visiontool/")
    assert downloads() == []
    assert copy.read_bytes() == OTHER  # it is not ours


@pytest.mark.parametrize(
    ("content", "cut", "words"),
    [
        (None, None, "cannot be downloaded: the server answers 404 Not Found."),
        (OTHER, None, "is another file than was expected (its SHA-256 is"),
        (CONTENT, 100_000, "cannot be downloaded: the connection broke after 100,000 of 200,000 bytes."),
    ],
)
def test_what_cannot_be_downloaded_names_a_way_out(hub, tmp_path, content, cut, words):
    url = hub.add_checkpoint("alexnet-owt", CONTENT)
    served = hub.files.pop(url.removeprefix(hub.url))
    if content is not None:
        hub.files[url.removeprefix(hub.url)] = replace(served, content=content, cut=cut)
    place = tmp_path / "torch" / "hub" / "checkpoints" / url.rpartition("/")[2]
    error = error_of(url)
    assert words in error
    assert error.startswith(url)
    assert error.endswith(f"Fetch it by other means and give it with --weights FILE,\nor put it at {place}")
    assert "[Errno 111] Connection refused" in error_of(url.replace(str(hub.port), "1"))
    assert "expected an address that ends in the name of a file" in error_of(f"{hub.url}/")
    assert downloads() == []
    with pytest.raises(ModelError, match=r"hf-hub:me/a\.\.b cannot be downloaded: .*\n.*-m local-dir:FOLDER"):
        sources.hub_file("me/a..b", "config.json")  # a name that no repository has


def test_a_hub_that_cannot_be_reached_is_not_asked_for_the_next_file(monkeypatch):
    asked = []

    def fail(repository, file, **_):
        asked.append(file)
        raise errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    assert "cannot be downloaded: the hub cannot be reached (no network)." in error_of(SOURCE)
    assert asked == ["model.safetensors"]


@pytest.mark.parametrize("by_variable", [False, True])
def test_offline_is_obeyed_and_says_what_can_be_done(hub, tmp_path, monkeypatch, by_variable):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", by_variable)
    url = hub.add_checkpoint("alexnet-owt", CONTENT)
    place = tmp_path / "torch" / "hub" / "checkpoints" / url.rpartition("/")[2]
    reason = "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set" if by_variable else "--offline was given"
    for source, is_folder, remedy in (
        (SOURCE, False, "it with --weights FILE"),
        (url, False, f"it with --weights FILE,\nor put it at {place}"),
        ("hf-hub:me/birds", True, "the folder of a copy of the repository: -m local-dir:FOLDER"),
    ):
        with pytest.raises(ModelError) as caught:
            sources.check_offline(source, is_folder=is_folder, offline=not by_variable)
        go = "Go online, or fetch it on another machine and give"
        assert str(caught.value) == f"{source} would be downloaded, but {reason}.\n{go} {remedy}"
    assert "would be downloaded" in error_of(url, offline=not by_variable)
    assert hub.asked == []
