"""Where published weights come from: a hub in Hugging Face's layout, or an address; copies on this disk come first.

huggingface_hub names the address, gives the token and knows its cache; it does not download here. Its own downloads
begin anew when a process ends (huggingface/huggingface_hub#4196), compare no hash, and would keep a second copy.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

from visiontool import cache
from visiontool.download import DownloadError, download, timeout_s
from visiontool.errors import ConversionError, ModelError
from visiontool.store import HUB, WEIGHTS_FILES

OURS = "downloaded--"  # before the name of what was downloaded here, so that a person's file is never deleted
_CONFIG = "config.json"
_GIVE_WEIGHTS = "give it with --weights FILE"
_GIVE_FOLDER = "give the folder of a copy of the repository: -m local-dir:FOLDER"
_SHA256 = re.compile(r"[0-9a-f]{64}")
# torch.hub: the first digits of the SHA-256 stand in the file's name.
_SHA256_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[^.]+$")

Progress = Callable[[int, int | None], None]
Waiting = Callable[[], None]


class _Wanted(NamedTuple):
    """A file of a publisher."""

    url: str
    name: str  # in the folder of downloads, where a person may have put it
    sha256: str  # or its first digits; "" where it is not known before the download
    copy: Path | None  # a good one on this disk, which another program keeps
    is_on_hub: bool

    @property
    def place(self) -> Path:
        return cache.downloads() / self.name

    @property
    def downloaded(self) -> Path:
        return cache.downloads() / (OURS + self.name)


@contextmanager
def weights_file(
    source: str, *, offline: bool = False, progress: Progress | None = None, waiting: Waiting | None = None
) -> Iterator[Path]:
    """The file of weights that `source` names, for the block.

    What had to be downloaded is deleted at the end of the block, and kept if the block was interrupted.

    Args:
        source: "hf-hub:ORG/NAME", or an address.
        offline: take only what is on this disk.
        waiting: called once if another process is downloading it.

    Raises:
        ModelError: it cannot be downloaded, or may not be; the message says what else can be done.
        ConversionError: the cache cannot be written.
    """
    with _first(_weights_of(source), _GIVE_WEIGHTS, offline, progress, waiting) as path:
        yield path


@contextmanager
def hub_files(
    repository: str, *, offline: bool = False, progress: Progress | None = None, waiting: Waiting | None = None
) -> Iterator[tuple[Path, Path]]:
    """config.json and model.safetensors of a repository ORG/NAME of the hub, as `weights_file`."""
    with (
        _first([_on_hub(repository, _CONFIG)], _GIVE_FOLDER, offline, None, waiting) as config,
        _first([_on_hub(repository, WEIGHTS_FILES[0])], _GIVE_FOLDER, offline, progress, waiting) as weights,
    ):
        yield config, weights


def check_offline(source: str, *, is_folder: bool = False, offline: bool = False) -> None:
    """Nothing where the network may be used, or what `source` names is on this disk.

    Args:
        is_folder: `hub_files` is to give it, not `weights_file`.

    Raises:
        ModelError: it would have to be downloaded.
    """
    if not _is_offline(offline):
        return
    if is_folder:
        repository = source.removeprefix(HUB)
        needed, remedy = [[_on_hub(repository, file)] for file in (_CONFIG, WEIGHTS_FILES[0])], _GIVE_FOLDER
    else:
        needed, remedy = [_weights_of(source)], _GIVE_WEIGHTS
    for choices in needed:
        if (_on_disk(choices) or _begun(choices)) is None:
            _refuse_offline(choices[0], remedy)


def _weights_of(source: str) -> list[_Wanted]:
    """What may be the weights that `source` names, the best first."""
    if source.startswith(HUB):
        return [_on_hub(source.removeprefix(HUB), file) for file in WEIGHTS_FILES]
    return [_at_address(source)]


@contextmanager
def _first(
    choices: list[_Wanted], remedy: str, offline: bool, progress: Progress | None, waiting: Waiting | None
) -> Iterator[Path]:
    """The first of `choices` that there is, for the block."""
    with ExitStack() as held:
        path = _on_disk(choices)
        if path is None and _is_offline(offline):
            path = _begun(choices) or _refuse_offline(choices[0], remedy)
        elif path is None:
            path = _fetched(choices, remedy, progress, waiting, held)
        try:
            yield path
        except ConversionError:  # perhaps because of what was downloaded: the next try shall not begin with it
            _forget(path)
            raise
        _forget(path)


def _is_offline(offline: bool) -> bool:
    return offline or _offline_variable() != ""


def _offline_variable() -> str:
    """The variable that forbids the network, by huggingface_hub's rule: the first of these that is set decides."""
    variable = next(filter(os.environ.get, ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")), "")
    return variable if os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE") else ""


def _on_disk(choices: list[_Wanted]) -> Path | None:
    """The first of `choices` that another program keeps on this disk, or a person has put there.

    Raises:
        ModelError: a person put another file there than was expected.
    """
    for wanted in choices:
        if wanted.copy is not None:
            return wanted.copy
        if os.path.exists(wanted.place):
            if not _begins(wanted.place, wanted.sha256):
                raise ModelError(
                    f"{wanted.place}: expected what {wanted.url} gives, whose SHA-256 begins with {wanted.sha256}.\n"
                    "Put that file there, or remove this one."
                )
            return wanted.place
    return None


def _begun(choices: list[_Wanted]) -> Path | None:
    """What an interrupted pull downloaded."""
    return next((wanted.downloaded for wanted in choices if _begins(wanted.downloaded, wanted.sha256)), None)


def _refuse_offline(wanted: _Wanted, remedy: str) -> NoReturn:
    variable = _offline_variable()
    why = f"{variable} is set" if variable else "--offline was given"
    put = ""
    with suppress(OSError):  # nothing can be put into a cache that cannot be written
        wanted.place.parent.mkdir(parents=True, exist_ok=True)
        put = f",\nor put it at {wanted.place}"
    raise ModelError(
        f"{wanted.url} would be downloaded, but {why}.\nGo online, or fetch it on another machine and {remedy}{put}"
    )


def _fetched(
    choices: list[_Wanted], remedy: str, progress: Progress | None, waiting: Waiting | None, held: ExitStack
) -> Path:
    """The first of `choices` that the server has, downloaded; `held` holds it against other processes."""
    for number, wanted in enumerate(choices, 1):
        target = wanted.downloaded
        held.enter_context(cache.lock(target.parent, target.name, waiting))
        if not _begins(target, wanted.sha256):  # what an interrupted pull left may be damaged by now
            with suppress(OSError):
                target.unlink(missing_ok=True)
        try:
            authorization = _authorization() if wanted.is_on_hub else None
            download(wanted.url, target, sha256=wanted.sha256, authorization=authorization, progress=progress)
        except DownloadError as error:
            if error.status == 404 and number < len(choices):
                continue
            fetch = "If it is private, set HF_TOKEN. Else fetch" if error.status in (401, 403) else "Fetch"
            raise ModelError(f"{error}\n{fetch} it by other means and {remedy},\nor put it at {wanted.place}") from None
        return target
    raise ValueError("no choices")


def _forget(path: Path) -> None:
    if path.parent == cache.downloads() and path.name.startswith(OURS):
        with suppress(OSError):
            path.unlink()


def _at_address(url: str) -> _Wanted:
    """A file of torchvision's kind, whose name has its hash; torch.hub may have it already.

    Source: torch.hub, `get_dir` and `load_state_dict_from_url`.
    """
    name = url.rpartition("/")[2]
    if not cache.is_name(name):
        raise ModelError(f"{url}: expected an address that ends in the name of a file")
    found = _SHA256_IN_NAME.search(name)
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or os.path.join(caches, "torch")
    copy = Path(os.path.expanduser(home), "hub", "checkpoints", name)
    digits = found[1] if found else ""
    return _Wanted(url, name, digits, copy if digits and _begins(copy, digits) else None, is_on_hub=False)


def _on_hub(repository: str, file: str) -> _Wanted:
    """A file of a repository of the hub; large ones lie in the hub's cache under their hash."""
    timeout_s()  # huggingface_hub reads the same variable when it is imported, and breaks where it is no number
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    try:
        url = hf_hub_url(repository, file)
        found = try_to_load_from_cache(repository, file)
    except (ValueError, LookupError) as error:  # no name of a repository, or braces in HF_ENDPOINT
        raise ModelError(
            f"{HUB}{repository} has no address ({error}).\n"
            f"Expected {HUB}ORG/NAME, and in HF_ENDPOINT, where it is set, the address of a hub."
        ) from None
    copy = Path(found) if isinstance(found, str) else None
    if copy is not None:
        kept_as = os.path.basename(os.path.realpath(copy))
        if not _begins(copy, kept_as if _SHA256.fullmatch(kept_as) else ""):
            copy = None
    name = f"{repository.replace('/', '--')}--{file}"
    return _Wanted(url, name, "", copy, is_on_hub=True)  # the server tells the hash


def _begins(path: Path, digits: str) -> bool:
    """Whether there is a file that can be read, and whose SHA-256 begins with `digits`."""
    try:
        return cache.sha256(path).startswith(digits)
    except OSError:
        return False


def _authorization() -> str | None:
    """The user's token for the hub, if there is one.

    Not by huggingface_hub's `build_hf_headers`: it asks the hub what tool the process may have been started by.
    """
    from huggingface_hub import constants, get_token

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return f"Bearer {token}" if token else None
