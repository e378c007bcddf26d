"""Where weights come from: copies on this disk, a hub, an address; and what is said where none of them can be."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hub_server
import pytest
from hub_server import HubServer

from visiontool import cache, sources
from visiontool import download as downloading
from visiontool.errors import ConversionError, ModelError, UsageError

huggingface_hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")
errors = pytest.importorskip("huggingface_hub.errors")

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
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    # What huggingface_hub read from the environment when it was imported.
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(downloading, "PAUSES_S", ())


def read(source: str, *, offline: bool = False) -> bytes:
    with sources.weights_file(source, offline=offline) as path:
        return path.read_bytes()


def error_of(source: str, *, offline: bool = False) -> str:
    with pytest.raises(ModelError) as caught:
        read(source, offline=offline)
    return str(caught.value)


def downloads() -> list[str]:
    return sorted(os.listdir(cache.downloads())) if cache.downloads().exists() else []


def test_weights_of_a_hub_come_and_are_gone_after_use(hub: HubServer) -> None:
    served = hub.add_to_hub("timm/x.in1k", "model.safetensors", CONTENT)
    hub.add_to_hub("timm/x.in1k", "pytorch_model.bin", OTHER)
    with sources.weights_file(SOURCE) as path:
        assert path.read_bytes() == CONTENT
        assert path.suffix == ".safetensors"
    assert downloads() == []
    # The hub learns of nothing but the file, and of no more than the program's name.
    assert [asked.path.partition("?")[0] for asked in hub.asked] == [
        "/timm/x.in1k/resolve/main/model.safetensors",
        f"/storage/{served.sha256}",
    ]
    assert {asked.headers["user-agent"].partition("/")[0] for asked in hub.asked} == {"visiontool"}


def test_a_repository_without_safetensors_gives_what_torch_saved(hub: HubServer) -> None:
    hub.add_to_hub("timm/x.in1k", "pytorch_model.bin", CONTENT)
    assert read(SOURCE) == CONTENT
    assert downloads() == []


def test_the_server_is_as_the_hub_is_for_its_own_client(hub: HubServer, tmp_path: Path) -> None:
    """That what is tested here holds for the real one too."""
    hub.add_to_hub("timm/x.in1k", "model.safetensors", CONTENT)
    hub.add_to_hub("timm/x.in1k", "config.json", b'{"a": 1}')
    path = Path(huggingface_hub.hf_hub_download("timm/x.in1k", "model.safetensors", endpoint=hub.url))
    assert path.read_bytes() == CONTENT
    path = Path(huggingface_hub.hf_hub_download("timm/x.in1k", "config.json", endpoint=hub.url))
    assert path.read_bytes() == b'{"a": 1}'
    with pytest.raises(errors.EntryNotFoundError):
        huggingface_hub.hf_hub_download("timm/x.in1k", "other.json", endpoint=hub.url)
    with pytest.raises(errors.RepositoryNotFoundError):
        huggingface_hub.hf_hub_download("timm/nothing", "config.json", endpoint=hub.url)


def test_what_other_tools_got_from_the_hub_is_used(hub: HubServer) -> None:
    hub.add_to_hub("timm/x.in1k", "model.safetensors", CONTENT)
    path = Path(huggingface_hub.hf_hub_download("timm/x.in1k", "model.safetensors", endpoint=hub.url))
    hub.asked.clear()
    assert read(SOURCE, offline=True) == CONTENT
    assert path.exists()
    assert hub.asked == []
    path.resolve().write_bytes(OTHER)  # a damaged one is not
    assert read(SOURCE) == CONTENT


def test_what_torch_got_is_used_if_its_hash_fits(hub: HubServer, tmp_path: Path) -> None:
    url = hub.add_checkpoint("alexnet-owt", CONTENT)
    copy = tmp_path / "torch" / "hub" / "checkpoints" / url.rpartition("/")[2]
    copy.parent.mkdir(parents=True)
    copy.write_bytes(CONTENT)
    assert read(url, offline=True) == CONTENT
    assert hub.asked == []
    copy.write_bytes(OTHER)
    assert read(url) == CONTENT
    assert len(hub.asked) == 1
    assert copy.read_bytes() == OTHER  # it is not ours


def test_the_hash_in_the_name_of_a_file_is_checked(hub: HubServer) -> None:
    url = hub.add_checkpoint("alexnet-owt", CONTENT)
    hub.files["/" + url.split("/", 3)[3]].change(OTHER)
    words = error_of(url)
    assert words.startswith(f"{url} cannot be downloaded: another file came than was expected")
    assert downloads() == []


@pytest.mark.parametrize("variable", ["1", "true", "ON"])
def test_offline_is_obeyed_and_says_what_can_be_done(
    variable: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "timm--x.in1k--model.safetensors"
    url = f"{hub.url}/timm/x.in1k/resolve/main/model.safetensors"
    ways_out = (
        "Go online, or fetch it on another machine and give it with --weights FILE,\n"
        f"or put it at {cache.downloads() / name}"
    )
    assert error_of(SOURCE, offline=True) == f"{url} would be downloaded, but --offline was given.\n{ways_out}"
    monkeypatch.setenv("HF_HUB_OFFLINE", variable)
    assert error_of(SOURCE) == f"{url} would be downloaded, but HF_HUB_OFFLINE is set.\n{ways_out}"
    assert "would be downloaded" in error_of(hub.url + "/models/alexnet-owt-7be5be79.pth")
    assert hub.asked == []
    (cache.downloads() / name).write_bytes(CONTENT)  # as the message says
    assert read(SOURCE) == CONTENT
    assert downloads() == [name]  # it is not ours


def test_a_time_that_is_none_is_told_before_huggingface_hub_breaks_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "soon")
    with pytest.raises(UsageError, match="^HF_HUB_DOWNLOAD_TIMEOUT is 'soon': expected a whole number"):
        read(SOURCE, offline=True)


def test_what_a_person_put_there_is_used_if_its_hash_fits(hub: HubServer) -> None:
    url = hub.add_checkpoint("alexnet-owt", CONTENT)
    name = url.rpartition("/")[2]
    assert "or put it at" in error_of(url, offline=True)
    (cache.downloads() / name).write_bytes(OTHER)
    words = f"{cache.downloads() / name}: expected what {url} gives, whose SHA-256 begins with {name[-12:-4]}.\n"
    for offline in (True, False):
        assert error_of(url, offline=offline) == f"{words}Put that file there, or remove this one."
    (cache.downloads() / name).write_bytes(CONTENT)
    assert read(url) == CONTENT
    assert downloads() == [name]
    assert hub.asked == []


def test_a_download_that_was_damaged_meanwhile_is_made_anew(hub: HubServer) -> None:
    url = hub.add_checkpoint("alexnet-owt", CONTENT)
    path = cache.downloads() / f"downloaded--{url.rpartition('/')[2]}"
    path.parent.mkdir(parents=True)
    path.write_bytes(OTHER)
    assert "would be downloaded" in error_of(url, offline=True)
    assert read(url) == CONTENT
    assert downloads() == []


@pytest.mark.parametrize("endpoint", ["http://[bad", "nonsense", "", "http://{", "http://{x}"])
def test_a_broken_endpoint_is_told(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    words = error_of(SOURCE)
    assert "in HF_ENDPOINT" in words if "{" in endpoint else "cannot be downloaded: expected an address" in words


def test_a_name_that_no_repository_has_is_told() -> None:
    with pytest.raises(ModelError, match=r"hf-hub:me/a\.\.b has no address .*\nExpected hf-hub:ORG/NAME"):
        sources.hub_files("me/a..b").__enter__()


@pytest.mark.parametrize("variables", [("", ""), ("0", ""), ("0", "1"), ("", "0")])
def test_a_variable_that_says_no_is_no(
    variables: tuple[str, str], hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zip(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"), variables, strict=True):
        monkeypatch.setenv(name, value)
    hub.add_to_hub("timm/x.in1k", "model.safetensors", CONTENT)
    assert read(SOURCE) == CONTENT


@pytest.mark.parametrize("first", [None, ""])
def test_the_older_variable_is_obeyed_where_the_other_is_not_set(
    first: str | None, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if first is not None:
        monkeypatch.setenv("HF_HUB_OFFLINE", first)
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    assert "would be downloaded, but TRANSFORMERS_OFFLINE is set.\n" in error_of(SOURCE)
    assert hub.asked == []


def test_the_rules_of_the_variables_are_huggingface_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of itself, in a process for each: it reads them when it is imported."""
    code = "from huggingface_hub import constants as c; print(c.HF_HUB_OFFLINE, c.HF_HUB_DOWNLOAD_TIMEOUT)"
    for first, second, seconds in (("0", "1", "7"), ("", "yes", " 8 "), ("on", "0", "9")):
        said = {"HF_HUB_OFFLINE": first, "TRANSFORMERS_OFFLINE": second, "HF_HUB_DOWNLOAD_TIMEOUT": seconds}
        ran = subprocess.run([sys.executable, "-c", code], env={**os.environ, **said}, capture_output=True, text=True)
        for name, value in said.items():
            monkeypatch.setenv(name, value)
        is_offline = bool(sources._offline_variable())
        assert ran.stdout.split() == [str(is_offline), f"{downloading.timeout_s():.0f}"], ran.stderr


def test_a_failed_download_names_the_address_the_place_and_the_option(hub: HubServer) -> None:
    url = hub.url + "/models/alexnet-owt-7be5be79.pth"
    assert error_of(url) == (
        f"{url} cannot be downloaded: the server answers 404 Not Found.\n"
        "Fetch it by other means and give it with --weights FILE,\n"
        f"or put it at {cache.downloads() / 'alexnet-owt-7be5be79.pth'}"
    )


def test_a_private_repository_wants_a_token(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_to_hub("timm/x.in1k", "model.safetensors", CONTENT)
    hub.tokens["timm/x.in1k"] = "hf_secret"
    words = error_of(SOURCE)
    assert "model.safetensors cannot be downloaded: the server answers 401 Unauthorized.\n" in words
    assert "If it is private, set HF_TOKEN." in words
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.asked.clear()
    assert read(SOURCE) == CONTENT
    assert [asked.headers.get("authorization") for asked in hub.asked] == ["Bearer hf_secret", None]


def test_a_download_is_kept_where_the_work_on_it_was_interrupted(hub: HubServer) -> None:
    url = hub.add_checkpoint("alexnet-owt", CONTENT)

    def use(error: BaseException) -> None:
        with sources.weights_file(url):
            raise error

    with pytest.raises(KeyboardInterrupt):
        use(KeyboardInterrupt())
    assert downloads() == [f"downloaded--{url.rpartition('/')[2]}"]
    hub.asked.clear()
    assert read(url) == CONTENT
    assert hub.asked == []
    with pytest.raises(ConversionError):
        use(ConversionError("these are not weights"))
    assert downloads() == []


def test_both_files_of_a_repository_come(hub: HubServer) -> None:
    hub.add_to_hub("me/birds", "config.json", b"{}")
    hub.add_to_hub("me/birds", "model.safetensors", CONTENT)
    with sources.hub_files("me/birds") as (config, weights):
        assert (config.read_bytes(), weights.read_bytes()) == (b"{}", CONTENT)
    assert downloads() == []
    with pytest.raises(ModelError, match=r"401 .*\n.*give the folder of a copy .*: -m local-dir:FOLDER"):
        sources.hub_files("me/nothing").__enter__()
