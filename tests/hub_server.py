"""A real HTTP server on this machine, laid out as a hub of models and as torchvision's downloads are.

A hub answers for a large file with a redirect to its storage, which here is the same server under another host's name,
and tells the file's SHA-256 on the way; for a small one with its content.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Served:
    """A file; with a pause after each 64 KiB, and broken off after `cut` bytes."""

    content: bytes
    pause_s: float = 0.0
    cut: int | None = None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass
class Asked:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case


class HubServer:
    """What is served, what was asked for, and how."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.asked: list[Asked] = []
        self.tokens: dict[str, str] = {}  # repository -> the token that it wants
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage_url(self) -> str:
        """The same server, which for a client is another host."""
        return f"http://localhost:{self.port}"

    def add_to_hub(self, repository: str, file: str, content: bytes, **faults: object) -> Served:
        """A file of a repository; what is larger than 100 kB is kept in the storage."""
        served = Served(content, **faults)  # type: ignore[arg-type]
        self.files[f"/{repository}/resolve/main/{file}"] = served
        if len(content) > 100_000:
            self.files[f"/storage/{served.sha256}"] = served
        return served

    def add(self, path: str, content: bytes, **faults: object) -> Served:
        """A file at an address of its own."""
        self.files[path] = Served(content, **faults)  # type: ignore[arg-type]
        return self.files[path]

    def add_checkpoint(self, name: str, content: bytes, **faults: object) -> str:
        """A file as torchvision names it, with the first digits of its hash; gives its address."""
        path = f"/models/{name}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
        self.add(path, content, **faults)
        return self.url + path

    def requests(self, method: str = "GET", end: str = "") -> list[Asked]:
        """The requests whose path ends so, without what they ask for behind a question mark."""
        return [asked for asked in self.asked if asked.method == method and asked.path.partition("?")[0].endswith(end)]


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
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.close_connection = True
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.asked.append(Asked(self.command, self.path, headers))
        path = self.path.partition("?")[0]
        repository = "/".join(path.split("/")[1:3])
        served = self.hub.files.get(path)
        is_hub = "/resolve/" in path
        if is_hub and self.hub.tokens.get(repository, "") not in headers.get("authorization", ""):
            return self._refuse(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid credentials"})
        if served is None:
            known = any(known.startswith(f"/{repository}/") for known in self.hub.files)
            if is_hub and not known:
                return self._refuse(401, {"X-Error-Code": "RepoNotFound"})
            return self._refuse(404, {"X-Error-Code": "EntryNotFound"} if is_hub else {})
        if is_hub and len(served.content) > 100_000:
            return self._refuse(
                302,
                {
                    "Location": f"{self.hub.storage_url}/storage/{served.sha256}?signature={time.time_ns()}",
                    "X-Repo-Commit": COMMIT,
                    "X-Linked-ETag": f'"{served.sha256}"',
                    "X-Linked-Size": str(len(served.content)),
                },
            )
        return self._send(served, {"X-Repo-Commit": COMMIT} if is_hub else {})

    def _refuse(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, served: Served, headers: dict[str, str]) -> None:
        self.send_response(200)
        headers |= {"ETag": f'"{served.sha256}"', "Content-Length": str(len(served.content)), "Connection": "close"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        content = b"" if self.command == "HEAD" else served.content[: served.cut]
        with suppress(OSError):  # the client may go away
            for start in range(0, len(content), 2**16):
                self.wfile.write(content[start : start + 2**16])
                time.sleep(served.pause_s)
