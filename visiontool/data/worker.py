"""A process for work that may hang, crash or take too much memory, so that this costs one answer and no more.

docs/design.md says why it is `python -c ...`. Both send each other pickles over pipes.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

from visiontool.errors import VisiontoolError

_START = "import sys; sys.path[:] = {path!a}; from visiontool.data.worker import serve; serve()"
_DYING_S = 0.5  # between the end of its answers and its own
_END_TIMEOUT_S = 5.0  # a killed process that does not end waits in the kernel, for a disk or a server that is gone


class EndedError(Exception):
    """A process that ended instead of answering. Says how, behind a name for it: "crashed (SIGSEGV)"."""


class Worker:
    """A process that calls a function. All but `kill` is for one thread; on Linux the process dies with that thread.

    Args:
        function: what `pickle` finds by its name, or a partial of that.
        memory: bytes of address space that it may take. Its libraries compute in one thread then.
    """

    def __init__(self, function: Callable[..., Any], memory: int | None = None) -> None:
        path = [entry for entry in sys.path if isinstance(entry, str)]  # imports pass over anything else, too
        one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        try:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                [sys.executable or "", "-c", _START.format(path=path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # libtiff and others write there what an error says better.
                stderr=None if "VISIONTOOL_DEBUG" in os.environ else subprocess.DEVNULL,
                env={**os.environ, **(one_thread if memory is not None else {})},
                # Ctrl-C in the terminal is for this process, which ends its workers itself.
                process_group=0,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except OSError as error:
            raise VisiontoolError(f"no process could be started: {error}\nOpen fewer pictures at once: -j 1.") from None
        self._work = memory, function

    def start(self) -> None:
        """Waits until it is ready; a VisiontoolError where it ended before."""
        try:
            self.call(*self._work)
        except EndedError as ended:
            raise VisiontoolError(
                f"a process did not start: {sys.executable} {ended}.\nVISIONTOOL_DEBUG=1 before the command shows why."
            ) from None

    def call(self, *arguments: Any) -> Any:
        """What the function gives for `arguments`; an EndedError where the process ended before."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(arguments, self._process.stdin)
            self._process.stdin.flush()
            return pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            code = self.close(_DYING_S)
        if sys.platform == "win32" or code is None or code >= 0:
            raise EndedError(f"ended with exit status {code}")
        if code == -signal.SIGKILL:
            raise EndedError("was killed; perhaps it wanted too much memory")
        raise EndedError(f"crashed ({signal.Signals(-code).name})")

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """Kills it, also in the middle of a call; for any thread."""
        self._process.kill()

    def close(self, grace: float = 0.0) -> int | None:
        """Ends it, after `grace` seconds to end by itself. Gives its exit status."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        self._process.kill()
        # Not communicate(), which would wait for whatever else holds the other end.
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_TIMEOUT_S)
        return self._process.returncode


def serve() -> None:
    """The process: answers each call that its stdin brings, until stdin ends."""
    requests = os.fdopen(os.dup(0), "rb")
    # Left open to the very end: who reads answers sees them end with the process, and can ask how it ended.
    answers = os.fdopen(os.dup(1), "wb", closefd=False)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # so that a library that prints does not print into an answer
    warnings.simplefilter("ignore")  # which PYTHONWARNINGS may have made errors
    if sys.platform == "linux":  # dies with its parent, also in the middle of a call; elsewhere after the call
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG, prctl(2)
    memory, function = pickle.load(requests)
    with contextlib.suppress(ImportError):  # Windows
        import resource

        for limit, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, memory)):
            soft = resource.getrlimit(limit)[0]
            if value is not None and (soft == resource.RLIM_INFINITY or value < soft):
                with contextlib.suppress(ValueError, OSError):  # macOS refuses some
                    resource.setrlimit(limit, (value, value))
    # Where the machine's memory ends all the same, this process is killed and not its parent.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    answer = None
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            pickle.dump(answer, answers)
            answers.flush()
            answer = function(*pickle.load(requests))
