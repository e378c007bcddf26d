"""Where published weights come from: an installed package, a hub in Hugging Face's layout, or an address; copies on
this disk come first.

huggingface_hub gets what is on a hub, with its own cache, token and variables. torchvision's files are taken from where
torch.hub keeps them, or else downloaded for as long as they are needed.
"""

import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from visiontool._version import __version__
from visiontool.errors import ModelError, UsageError, first_line, pip
from visiontool.files import FULL, cannot_write, sha256
from visiontool.hub import cache
from visiontool.hub.resolve import HUB, PACKAGE, WEIGHTS_FILES
from visiontool.progress import Progress, silent

OURS = "downloaded--"  # before the name of a file that is deleted after use
_GIVE_WEIGHTS = "give it with --weights FILE"
_GIVE_FOLDER = "give the folder of a copy of the repository: -m local-dir:FOLDER"
# torch.hub: the first digits of the SHA-256 stand in the file's name.
_SHA256_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[^.]+$")
_TIMEOUT_S = 30.0
_CHUNK_BYTES = 2**18


@contextmanager
def weights_file(source: str, *, offline: bool = False, progress: Progress = silent) -> Iterator[Path]:
    """The file of weights at `source`, for the block. What is downloaded from an address is deleted then.

    Args:
        source: "hf-hub:ORG/NAME", "package:NAME" or an address.
        offline: take only what is on this disk.
        progress: called with "download" and bytes; with "wait" if another process is downloading the file.

    Raises:
        ModelError: it cannot be downloaded, or may not be.
        ConversionError: the disk is full or cannot be written.
    """
    if source.startswith(HUB):
        yield _from_hub(source.removeprefix(HUB), WEIGHTS_FILES, _GIVE_WEIGHTS, offline, progress)
        return
    if source.startswith(PACKAGE):
        yield packaged_file(source)
        return
    torchs = _path_in_torch_hub(source)
    digits = match[1] if (match := _SHA256_IN_NAME.search(source)) else ""
    if torchs.is_file() and sha256(torchs).startswith(digits):
        yield torchs
        return
    if reason := _reason_offline(offline):
        raise _refused(source, reason, f"{_GIVE_WEIGHTS},\nor put it at {torchs}")
    target = cache.downloads() / (OURS + torchs.name)
    with cache.lock(target.parent, target.name, partial(progress, "wait", 0, None)):
        try:
            remedy = f"Fetch it by other means and {_GIVE_WEIGHTS},\nor put it at {torchs}"
            _download(source, target, digits, remedy, progress)
            yield target
        finally:
            with suppress(OSError):
                target.unlink()


def packaged_file(source: str) -> Path:
    """The file of weights in the package that "package:NAME" is; raises ModelError where that is not installed."""
    from importlib.util import find_spec

    package = source.removeprefix(PACKAGE)
    spec = find_spec(package.replace("-", "_"))  # of a package that is not in another: this imports nothing
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in Path(folder, "models").glob("*.pth")]
    if not files:
        raise ModelError(
            f"the weights are in the package {package}, which is not installed.\n"
            f"Install it with: {pip(f'install {package}')}"
        )
    return files[0]


def hub_file(repository: str, name: str, *, offline: bool = False, progress: Progress = silent) -> Path:
    """A file of a repository ORG/NAME of the hub in timm's format, as `weights_file`."""
    return _from_hub(repository, [name], _GIVE_FOLDER, offline, progress)


def check_offline(source: str, *, is_folder: bool = False, offline: bool = False) -> None:
    """Raises ModelError where `source`, with `is_folder` in timm's format, is not on this disk and cannot be got."""
    if not _reason_offline(offline):
        return
    if is_folder:
        for name in ("config.json", WEIGHTS_FILES[0]):
            hub_file(source.removeprefix(HUB), name, offline=True)
    else:
        with weights_file(source, offline=True):
            pass


def _download(url: str, target: Path, digits: str, remedy: str, progress: Progress) -> None:
    """Downloads `url`, whose SHA-256 begins with `digits`, to `target`."""
    request = urllib.request.Request(url, headers={"User-Agent": f"visiontool/{__version__}"})
    done = 0
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response, open(target, "wb") as file:
            total = int(response.headers.get("Content-Length") or 0) or None
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                progress("download", done, total)
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"the server answers {error.code} {error.reason}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise cannot_write(error) from None
        reason = first_line(error)
    else:
        is_cut = total is not None and done < total
        reason = f"the connection broke after {done:,} of {total:,} bytes" if is_cut else ""
    if reason:
        raise ModelError(f"{url} cannot be downloaded: {reason}.\n{remedy}")
    if not (digest := sha256(target)).startswith(digits):
        reason = f"its SHA-256 is {digest[:12]}..., not {digits}..."
        raise ModelError(f"{url} is another file than was expected ({reason}).\n{remedy}")


def _from_hub(repository: str, files: Sequence[str], remedy: str, offline: bool, progress: Progress) -> Path:
    """The first of `files` that the repository has, in the cache of huggingface_hub."""
    try:
        from huggingface_hub import constants, errors, hf_hub_download
    except ValueError as error:  # it reads numbers from its variables
        raise UsageError(f"a variable of the Hugging Face hub has no number: {error}") from None
    constants.HF_HUB_DISABLE_TELEMETRY = True  # else it first asks the hub which tools may have started this process
    offline_reason = _reason_offline(offline)
    reason = ""
    for file in files:
        try:
            return Path(
                hf_hub_download(
                    repository,
                    file,
                    library_name="visiontool",
                    library_version=__version__,
                    local_files_only=bool(offline_reason),
                    tqdm_class=_bar(progress),
                )
            )
        except errors.LocalEntryNotFoundError as error:
            reason = f"the hub cannot be reached ({first_line(error.__cause__ or error)})"
            if not offline_reason:  # to ask for the next file would wait for nothing once more
                break
        except errors.RemoteEntryNotFoundError:
            reason = f"it has no {' and no '.join(files)}"
        except errors.RepositoryNotFoundError:
            reason = "there is no such repository, or it is private: HF_TOKEN gives access"
            break
        except OSError as error:
            if error.errno in FULL:
                raise cannot_write(error) from None
            reason = first_line(error)
        except Exception as error:  # of the libraries below it, and for names that no repository has
            reason = first_line(error)
    if offline_reason:
        raise _refused(f"{HUB}{repository}", offline_reason, remedy)
    raise ModelError(f"{HUB}{repository} cannot be downloaded: {reason}.\nFetch it by other means and {remedy}.")


def _bar(progress: Progress) -> type[Any]:
    """What huggingface_hub takes for a class of progress bars."""

    class Bar(AbstractContextManager["Bar"]):
        def __init__(self, *_: object, total: int | None = None, initial: int = 0, **__: object) -> None:
            self.n, self.total = initial, total

        def update(self, n: int = 1) -> None:
            self.n += n
            progress("download", self.n, self.total)

        def close(self, *_: object) -> None:
            pass

        __exit__ = close

    return Bar


def _reason_offline(offline: bool) -> str:
    """Why the network may not be used; "" where it may."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"
    return "--offline was given" if offline else ""


def _refused(source: str, reason: str, remedy: str) -> ModelError:
    return ModelError(
        f"{source} would be downloaded, but {reason}.\nGo online, or fetch it on another machine and {remedy}"
    )


def _path_in_torch_hub(url: str) -> Path:
    """Where torch.hub keeps the file of an address (`get_dir` and `load_state_dict_from_url` of torch.hub)."""
    name = url.rpartition("/")[2]
    if not cache.is_name(name):
        raise ModelError(f"{url}: expected an address that ends in the name of a file")
    home = os.environ.get("TORCH_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
    return Path(os.path.expanduser(home), "hub", "checkpoints", name)
