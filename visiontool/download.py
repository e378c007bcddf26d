"""Downloads that outlive a broken connection and the end of the process.

What came so far is kept beside the target, with the validators (ETag or Last-Modified) of the file that it is a part
of. The rest is asked for on the condition that the server still has that file.

Source: RFC 9110, 13.1.5 (If-Range) and 14 (Range).
"""

import http.client
import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple, NoReturn
from urllib.parse import urlsplit

from visiontool import __version__, cache
from visiontool.errors import ModelError, UsageError

# A network with larger weights makes no .onnx file (2 GiB); a checkpoint of a training may hold them several times.
MAX_BYTES = 8 * 2**30
PAUSES_S = (1.0, 3.0, 9.0)  # before another try; a try that brought something begins the row anew
TIMEOUT_S = 30.0
_TIMEOUT_VARIABLE = "HF_HUB_DOWNLOAD_TIMEOUT"
_CHUNK_BYTES = 2**18
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_SHA256 = re.compile(r'"?([0-9a-f]{64})"?')
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")

Progress = Callable[[int, int | None], None]


class DownloadError(ModelError):
    """A file that could not be downloaded.

    Attributes:
        status: what the server answered, None if it did not.
    """

    def __init__(self, url: str, reason: str, status: int | None = None) -> None:
        super().__init__(f"{url} cannot be downloaded: {reason}.")
        self.status = status


def download(
    url: str,
    target: Path,
    *,
    sha256: str = "",
    authorization: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Downloads `url` to `target`, from where an earlier call stopped; a `target` that is there is left alone.

    The caller sees to it that no other process works on `target`.

    Args:
        sha256: the digest that the file must have, or its first digits; "" for what the server says, if it does.
        authorization: a header for the server of `url`, which no other server gets.
        progress: called with the bytes so far and those of the whole file, None where the server does not say.

    Raises:
        DownloadError: the server has no such file, cannot be reached, or sends another file than was expected.
        ConversionError: the disk is full or cannot be written.
        UsageError: HF_HUB_DOWNLOAD_TIMEOUT says no time.
    """
    if os.path.exists(target):
        return
    if not _is_web(url):
        raise DownloadError(url, "expected an address that begins with http:// or https://")
    partial = _Partial(url, target)
    pauses = iter(PAUSES_S)
    begun = partial.size()
    while True:
        size = partial.size()
        try:
            told = _receive(partial, authorization, progress)
            break
        except _BrokenError as error:
            if partial.size() > size:
                pauses = iter(PAUSES_S)
            pause = next(pauses, None)
            if pause is None or (error.is_unreachable and partial.size() <= begun):
                raise DownloadError(url, str(error)) from None
            time.sleep(pause)
    partial.finish(sha256 or told)


def timeout_s() -> float:
    """How long a server may say nothing: what HF_HUB_DOWNLOAD_TIMEOUT says, as huggingface_hub reads it, else 30 s.

    Raises:
        UsageError: it says something else.
    """
    said = os.environ.get(_TIMEOUT_VARIABLE, "0")
    if not re.fullmatch(r"\s*[0-9]{1,6}\s*", said):
        raise UsageError(f"{_TIMEOUT_VARIABLE} is {said!r}: expected a whole number of seconds")
    return float(said) or TIMEOUT_S


class _BrokenError(Exception):
    """A try that failed, as another may not."""

    def __init__(self, reason: str, *, is_unreachable: bool = False) -> None:
        super().__init__(reason)
        self.is_unreachable = is_unreachable


class _Validators(NamedTuple):
    """What tells one state of a file on a server from another."""

    url: str
    etag: str
    last_modified: str
    total: int | None

    @property
    def condition(self) -> str:
        """The value of If-Range; "" where the server gave nothing that is sure enough."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified

    def fit(self, part: "_Validators") -> bool:
        """Whether the answer with a part is of this state; it may leave out what was not asked about."""
        return self.condition in (part.etag, part.last_modified) and self.total in (None, part.total)


class _Partial:
    """The part of a file that is there, and what it is a part of."""

    def __init__(self, url: str, target: Path) -> None:
        self.url = url
        self._target = target
        self._path = target.with_name(target.name + cache.PARTIAL)
        self._validators = target.with_name(target.name + cache.VALIDATORS)

    def size(self) -> int:
        """Bytes that came so far, also those that cannot be used."""
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def validators(self) -> _Validators | None:
        """What the bytes are a part of; None where nothing can be added to them."""
        try:
            validators = _Validators(*json.loads(self._validators.read_bytes()))
            is_usable = validators.url == self.url and bool(validators.condition) and self.size() > 0
            return validators if is_usable else None
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def open(self, validators: _Validators, *, append: bool) -> IO[bytes]:
        """The file, to write on at its end, or anew."""
        try:
            file = open(self._path, "ab" if append else "wb", buffering=0)  # noqa: SIM115
            self._validators.write_text(json.dumps(validators))
        except OSError as error:
            raise cache.cannot_write(error) from None
        return file

    def forget(self) -> None:
        """Deletes what came."""
        self._path.unlink(missing_ok=True)
        self._validators.unlink(missing_ok=True)

    def finish(self, sha256: str) -> None:
        """Gives the file its name if its digest begins with `sha256`."""
        got = cache.sha256(self._path)
        if not got.startswith(sha256):
            self.forget()
            raise DownloadError(
                self.url, f"another file came than was expected (its SHA-256 is {got[:12]}..., not {sha256[:12]}...)"
            )
        try:
            self._path.replace(self._target)
        except OSError as error:
            raise cache.cannot_write(error) from None
        self.forget()


def _receive(partial: _Partial, authorization: str | None, progress: Progress | None) -> str:
    """One try to get all that is missing; gives the SHA-256 of the whole file if the server tells it."""
    had = partial.validators()
    redirects, timeout = _Redirects(), timeout_s()
    request = urllib.request.Request(partial.url, headers={"User-Agent": f"visiontool/{__version__}"})
    if authorization:
        request.add_unredirected_header("Authorization", authorization)
    if had:
        request.add_header("Range", f"bytes={partial.size()}-")
        request.add_header("If-Range", had.condition)
    try:
        with urllib.request.build_opener(redirects).open(request, timeout=timeout) as response:
            _save(response, partial, had, progress)
    except urllib.error.HTTPError as error:
        error.close()
        _refused(partial, error)
    except urllib.error.URLError as error:
        raise _BrokenError(_words(error.reason), is_unreachable=True) from None
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(f"the connection broke ({_words(error)})") from None
    except ValueError as error:
        raise DownloadError(
            partial.url, f"its address, or the one that the server leads to, is none ({error})"
        ) from None
    return redirects.sha256


def _refused(partial: _Partial, error: urllib.error.HTTPError) -> NoReturn:
    reason = f"the server answers {error.code} {error.reason}"
    if error.code == 416:  # there is no such range, so the file is another than the one that was begun
        partial.forget()
        raise _BrokenError(reason)
    if error.code in _TRY_AGAIN:
        raise _BrokenError(reason)
    raise DownloadError(partial.url, reason, error.code)


def _save(
    response: http.client.HTTPResponse, partial: _Partial, had: _Validators | None, progress: Progress | None
) -> None:
    headers = response.headers
    append = response.status == 206
    start, total = _extent(headers, append)
    validators = _Validators(partial.url, headers.get("ETag", ""), headers.get("Last-Modified", ""), total)
    if append and (start != partial.size() or had is None or not had.fit(validators)):
        partial.forget()
        raise _BrokenError("the server sends a part of another file")
    if total is not None and total > MAX_BYTES:
        raise DownloadError(partial.url, f"it has more than {MAX_BYTES:,} bytes")
    if headers.get("Content-Encoding", "identity") != "identity":
        raise DownloadError(partial.url, f"the server sends it as {headers['Content-Encoding']}, unasked")
    with partial.open(had if append and had else validators, append=append) as file:
        done = start
        while total is None or done < total:
            if progress is not None:
                progress(done, total)
            chunk = response.read1(_CHUNK_BYTES if total is None else min(_CHUNK_BYTES, total - done))
            if not chunk:
                break
            _write(file, chunk)
            done += len(chunk)
            if done > MAX_BYTES:
                partial.forget()
                raise DownloadError(partial.url, f"it has more than {MAX_BYTES:,} bytes")
    if total is not None and done < total:
        raise _BrokenError(f"the connection broke after {done:,} of {total:,} bytes")
    if progress is not None:
        progress(done, total)


def _extent(headers: http.client.HTTPMessage, is_part: bool) -> tuple[int, int | None]:
    """Where the content begins in the file, and how many bytes the whole file has."""
    if is_part:
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        return (_number(found[1]), _number(found[2])) if found else (-1, None)
    length = headers.get("Content-Length", "")
    return 0, _number(length) if length.isdecimal() else None


def _number(digits: str) -> int:
    """The number; where it has more digits than that of any bytes (`int` refuses thousands), one that is too large."""
    return int(digits) if len(digits) < 19 else sys.maxsize


def _write(file: IO[bytes], chunk: bytes) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise cache.cannot_write(error) from None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects within the web, never to an unprotected connection, and takes no secret to another server.

    Attributes:
        sha256: of the whole file, as a hub tells it on the way to its storage (X-Linked-ETag); else "".
    """

    max_redirections = 5

    def __init__(self) -> None:
        self.sha256 = ""

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> IO[bytes] | None:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError:  # it leads to no address, and urllib leaves the answer open
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if not _is_web(newurl) or (old.scheme == "https" and new.scheme != "https"):
            fp.close()
            raise DownloadError(req.full_url, f"the server leads to {newurl}, expected https://")
        if found := _SHA256.fullmatch(headers.get("X-Linked-ETag", "")):
            self.sha256 = found[1]
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        authorization = req.unredirected_hdrs.get("Authorization")
        if request is not None and authorization and (old.scheme, old.netloc) == (new.scheme, new.netloc):
            request.add_unredirected_header("Authorization", authorization)
        return request


def _is_web(url: str) -> bool:
    try:
        return urlsplit(url).scheme in ("http", "https")
    except ValueError:
        return False


def _words(error: object) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not valid: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return f"no answer for {timeout_s():.0f} s"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return str(error) or type(error).__name__
