"""A process of its own that opens pictures, so that one that hangs, crashes or wants too much memory costs one row.

Pillow's security handbook asks for it, and beside that a process has no share in this one's interpreter lock. The
worker is `python -c ...`, neither a fork (this process has threads) nor multiprocessing (which would run the caller's
script again). It reads paths from its stdin, each after its length, and answers on its stdout with JSON, after its
length, and the pixels of a picture that was read, or of its views. Hostile pictures are opened there, so nothing that
comes from it is evaluated, and it cannot make this process take more memory than an honest answer does.
"""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from visiontool.errors import VisiontoolError
from visiontool.prepare import Prepared, Recipe, prepare

if TYPE_CHECKING:
    from visiontool.look import Look

_START = "import sys; sys.path[:] = {path!a}; from visiontool.isolate import serve; serve({parent})"
_START_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 5.0  # a killed process that does not end waits in the kernel, for a disk or a server that is gone
_DYING_S = 0.5  # between the end of its answers and its own
_READY = b"ready\n"
_LONGEST_ERROR = 2000  # characters; a damaged file may have anything in it that an error then quotes
_LONGEST_ANSWER = 2**16
# What a worker may take beside the interpreter: the hungriest decoder, that of JPEG 2000, holds a pixel in 4 channels
# of 4 bytes, and what it gives is converted, laid over white and turned.
_MEMORY_BASE = 2**30
_MEMORY_PER_PIXEL = 32
_DIGEST_BYTES, _THUMBNAIL_BYTES, _COLOR_BYTES = 16, 256, 3  # of a Look


class Worker:
    """A process that prepares one picture at a time, and another one when it died. All but `kill` is for one thread,
    and on Linux the process dies with that thread.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_over = False

    def start(self) -> None:
        """Starts the process where none is running; `prepare` does it too.

        Raises:
            VisiontoolError: it does not start.
        """
        self._running()

    def prepare(self, path: str | os.PathLike[str]) -> Prepared:
        """`prepare.prepare`, with an error for a picture that kills the process.

        Raises:
            VisiontoolError: the process does not start.
        """
        name = os.fspath(path)
        try:
            request = os.fsencode(name)
        except UnicodeEncodeError:  # no file has such a name, and this says so
            return prepare(name, self._recipe)
        process = self._running()
        start = time.perf_counter()
        try:
            return self._ask(process, request)._replace(path=name)
        except (OSError, EOFError):
            error = _why_ended(self._end(_DYING_S))
        except (ValueError, RecursionError):
            self._end()
            error = "crashed the decoder (its answer is damaged)"
        return Prepared(name, error=error, decode_s=time.perf_counter() - start)

    def kill(self) -> None:
        """Kills the process, also in the middle of a picture, and no other is started; for any thread."""
        with self._lock:
            self._is_over = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """Kills the process and lets go of it."""
        self.kill()
        self._end()

    def _end(self, grace: float = 0.0) -> int | None:
        """Ends the process, after `grace` seconds to die by itself. Gives its exit status."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
        process.kill()
        # Not communicate(), which would wait for whatever else holds the other end.
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_TIMEOUT_S)
        return process.returncode

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        process = self._popen()
        with self._lock:
            self._process = process
            if self._is_over:
                process.kill()
        timer = threading.Timer(_START_TIMEOUT_S, process.kill)
        timer.daemon = True
        try:
            timer.start()
            recipe = pickle.dumps(self._recipe)
            _send(process.stdin, len(recipe).to_bytes(4, "little") + recipe)
            if _read(process.stdout, len(_READY)) == _READY:
                return process
        except (OSError, EOFError, RuntimeError):  # RuntimeError: the system gives no thread for the timer
            pass
        finally:
            timer.cancel()
        raise VisiontoolError(
            f"a process to open pictures in did not start ({sys.executable}, exit status {self._end()}).\n"
            "VISIONTOOL_DEBUG=1 before the command shows why. From Python, isolate=False does without."
        )

    def _popen(self) -> "subprocess.Popen[bytes]":
        # Of an application that has a Python inside, `sys.executable` may be itself: it would start once more.
        if not sys.executable or getattr(sys, "frozen", False):
            raise VisiontoolError("there is no Python (sys.executable) to open pictures in; isolate=False needs none.")
        path = [entry for entry in sys.path if isinstance(entry, str)]  # imports pass over anything else, too
        # Ctrl-C in the terminal is for the run, which ends its workers itself.
        alone: dict[str, Any] = {"process_group": 0}
        if sys.platform == "win32":
            alone = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        try:
            process: subprocess.Popen[bytes] = subprocess.Popen(
                [sys.executable, "-c", _START.format(path=path, parent=os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # libtiff and others write there what a row says better.
                stderr=None if "VISIONTOOL_DEBUG" in os.environ else subprocess.DEVNULL,
                bufsize=0,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                **alone,
            )
        except OSError as error:
            raise VisiontoolError(
                f"no process could be started to open pictures in: {error}\nOpen fewer at once: -j 1."
            ) from None
        return process

    def _ask(self, process: "subprocess.Popen[bytes]", path: bytes) -> Prepared:
        """Raises OSError or EOFError where the process dies, ValueError or RecursionError for an odd answer."""
        _send(process.stdin, len(path).to_bytes(4, "little") + path)
        size = int.from_bytes(_read(process.stdout, 4), "little")
        if size > _LONGEST_ANSWER:
            raise ValueError(size)
        match json.loads(_read(process.stdout, size)):
            case [None | str() as error, [*notes], float(decode_s), float(fit_s), *rest] if all(
                isinstance(note, str) for note in notes
            ):
                prepared = Prepared(None, None, error, tuple(notes), decode_s, fit_s)
            case _:
                raise ValueError
        views, most = self._recipe.views, self._recipe.limits.max_pixels
        height, width = self._recipe.fit_options["size"]
        if error is None and views:
            prepared = prepared._replace(look=_checked_look(rest, most))
        elif error is None and self._recipe.whole:
            height, width = _checked_size(rest, most)
        elif rest:
            raise ValueError
        if error is not None:
            return prepared
        pixels = np.empty((len(views), height, width, 3) if views else (height, width, 3), np.uint8)
        _read_into(process.stdout, pixels.data.cast("B"))
        return prepared._replace(pixels=pixels)


def _checked_size(answer: list[Any], max_pixels: int) -> tuple[int, int]:
    """(height, width). Raises ValueError where it is none."""
    match answer:
        case [int(height), int(width)] if bool not in (type(height), type(width)) and min(height, width) > 0:
            if height * width <= max_pixels:
                return height, width
    raise ValueError(f"{answer} is no size of a picture")


def _checked_look(answer: list[Any], max_pixels: int) -> "Look":
    """Raises ValueError where it is none."""
    from visiontool.look import Look

    match answer:
        case [int(width), int(height), str(pixels), str(thumbnail), str(color)] if (
            bool not in (type(width), type(height)) and min(width, height) > 0 and width * height <= max_pixels
        ):
            digest = _from_hex(pixels, _DIGEST_BYTES).hex()
            return Look(width, height, digest, _from_hex(thumbnail, _THUMBNAIL_BYTES), _from_hex(color, _COLOR_BYTES))
    raise ValueError


def _from_hex(text: str, size: int) -> bytes:
    data = bytes.fromhex(text)
    if len(data) != size or data.hex() != text:  # fromhex takes spaces and capitals, too
        raise ValueError
    return data


def _why_ended(code: int | None) -> str:
    if sys.platform == "win32" or code is None or code >= 0:
        return f"crashed the decoder (exit status {code})"
    if code == -signal.SIGKILL:
        return "the process that opened it was killed; perhaps it wanted too much memory"
    with contextlib.suppress(ValueError):  # a number without a name
        return f"crashed the decoder ({signal.Signals(-code).name})"
    return f"crashed the decoder (signal {-code})"


def serve(parent: int) -> None:
    """The worker: prepares each picture that its stdin names, until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(parent)
    # Left open to the very end: who reads answers sees them end with the process, and can ask how it ended.
    requests = os.fdopen(os.dup(0), "rb", buffering=0, closefd=False)
    answers = os.fdopen(os.dup(1), "wb", buffering=0, closefd=False)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # so that a library that prints does not print into an answer
    recipe: Recipe = pickle.loads(_read(requests, int.from_bytes(_read(requests, 4), "little")))
    _limit_memory(_MEMORY_BASE + _MEMORY_PER_PIXEL * recipe.limits.max_pixels)
    _say_nothing()
    _send(answers, _READY)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            path = os.fsdecode(_read(requests, int.from_bytes(_read(requests, 4), "little")))
            prepared = prepare(path, recipe)
            error = prepared.error and prepared.error[:_LONGEST_ERROR]
            rest = [part.hex() if isinstance(part, bytes) else part for part in prepared.look or ()]
            if recipe.whole and prepared.pixels is not None:
                rest = [*prepared.pixels.shape[:2]]
            answer = json.dumps([error, prepared.notes, prepared.decode_s, prepared.fit_s, *rest]).encode()
            _send(answers, len(answer).to_bytes(4, "little") + answer)
            if prepared.pixels is not None:
                _send(answers, prepared.pixels.data.cast("B"))


def _die_with(parent: int) -> None:
    """Has this process killed when its parent dies, also in the middle of a picture."""
    if sys.platform != "linux":  # it ends after its picture, with its stdin
        return
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG, prctl(2)
    if os.getppid() != parent:  # it died before
        os._exit(1)


def _limit_memory(size: int) -> None:
    """Takes care that a picture that wants more memory than `size` gets an error, and that others are not hurt."""
    with contextlib.suppress(ImportError):  # Windows
        import resource

        for limit, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, size)):
            soft = resource.getrlimit(limit)[0]
            if soft == resource.RLIM_INFINITY or value < soft:
                with contextlib.suppress(ValueError, OSError):  # macOS refuses some
                    resource.setrlimit(limit, (value, value))
    # Where the machine's memory ends all the same, this process is killed and not the run.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _say_nothing() -> None:
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.disable()


def _send(stream: Any, data: bytes | memoryview) -> None:
    left = memoryview(data)
    while left:
        left = left[stream.write(left) :]


def _read(stream: Any, size: int) -> bytes:
    buffer = bytearray(size)
    _read_into(stream, memoryview(buffer))
    return bytes(buffer)


def _read_into(stream: Any, left: memoryview) -> None:
    """Fills `left`.

    Raises:
        EOFError: the stream ended before.
    """
    while left:
        size = stream.readinto(left)
        if not size:
            raise EOFError
        left = left[size:]
