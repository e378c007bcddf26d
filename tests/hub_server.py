"""A real HTTP server on this machine, laid out as a hub of models and as torchvision's downloads are.

A hub answers for a large file with a redirect to its storage, which here is the same server under another host's name,
and sends the file's SHA-256 on the way; for a small one with its content.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import NamedTuple

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LARGE_BYTES = 100_000


@dataclass
class Served:
    """A file, broken off after `cut` bytes."""

    content: bytes
    cut: int | None = None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]  # names in lower case


@dataclass
class HubServer:
    """The files, and the requests that came."""

    port: int = 0
    files: dict[str, Served] = field(default_factory=dict)
    asked: list[Request] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict)  # repository -> the token that it needs

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add_to_hub(self, repository: str, file: str, content: bytes) -> Served:
        """A file of a repository; a large one is kept in the storage."""
        served = self.files[f"/{repository}/resolve/main/{file}"] = Served(content)
        if len(content) > _LARGE_BYTES:
            self.files[f"/storage/{served.sha256}"] = served
        return served

    def add_checkpoint(self, name: str, content: bytes) -> str:
        """A file as torchvision names it, with the first digits of its hash; gives its address."""
        path = f"/models/{name}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
        self.files[path] = Served(content)
        return self.url + path

    def requests(self) -> list[Request]:
        """The requests for content."""
        return [asked for asked in self.asked if asked.method == "GET"]


@contextmanager
def running() -> Iterator[HubServer]:
    """A server that runs for the block."""
    hub = HubServer()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.port = server.server_port
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.close_connection = True
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.asked.append(Request(self.command, self.path, headers))
        path = self.path.partition("?")[0]
        repository = "/".join(path.split("/")[1:3])
        served = self.hub.files.get(path)
        is_hub = "/resolve/" in path
        known = any(known.startswith(f"/{repository}/") for known in self.hub.files)
        has_token = self.hub.tokens.get(repository, "") in headers.get("authorization", "")
        if is_hub and not (known and has_token):
            self._answer(401, {"X-Error-Code": "RepoNotFound"})
        elif served is None:
            self._answer(404, {"X-Error-Code": "EntryNotFound"} if is_hub else {})
        elif is_hub and len(served.content) > _LARGE_BYTES:
            location = f"http://localhost:{self.hub.port}/storage/{served.sha256}?signature=1"
            size, tag = str(len(served.content)), f'"{served.sha256}"'
            linked = {"Location": location, "X-Linked-ETag": tag, "X-Linked-Size": size}
            self._answer(302, {"X-Repo-Commit": COMMIT, **linked})
        else:
            self._answer(200, {"X-Repo-Commit": COMMIT} if is_hub else {}, served)

    def _answer(self, status: int, headers: dict[str, str], served: Served | None = None) -> None:
        self.send_response(status)
        if served is not None:
            headers |= {"ETag": f'"{served.sha256}"', "Content-Length": str(len(served.content))}
        for name, value in {"Content-Length": "0", "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if served is not None and self.command == "GET":
            with suppress(OSError):  # the client may go away
                self.wfile.write(served.content[: served.cut])
