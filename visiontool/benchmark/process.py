"""A process for each measurement: peaks of memory do not mix, and a crash costs one row.

The process reads a task from its stdin and writes what it measured to its stdout, both a line of JSON. It ends when
its stdin does, so also when its parent is killed.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any

from visiontool import errors
from visiontool.benchmark.measuring import Round, Task, measure
from visiontool.errors import DataError, DeviceError, ModelError, UsageError, VisiontoolError, first_line

_START = "import sys; sys.path[:] = {path!a}; from visiontool.benchmark.process import serve; serve()"
_OF_ALL = (DeviceError, UsageError, DataError)  # what one process cannot do for these, no other can


def measured(task: Task) -> Round:
    """`measure` in a process of its own.

    Raises:
        DeviceError, UsageError, DataError: as `measure`.
        ModelError: anything else that keeps this one task from being done.
    """
    process = _popen()
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with contextlib.suppress(BrokenPipeError):  # it did not start; its exit status is told
            process.stdin.write(json.dumps(task._asdict()).encode() + b"\n")
            process.stdin.flush()
        answer = process.stdout.read()
        code = process.wait()
    finally:
        process.kill()  # where Ctrl-C interrupted this
        process.wait()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                stream.close()
    if code:
        raise ModelError(_why_ended(code))
    told: dict[str, Any] = json.loads(answer)
    if "error" not in told:
        return Round(**told)
    kind: type[VisiontoolError] = getattr(errors, told["kind"])
    raise (kind if issubclass(kind, _OF_ALL) else ModelError)(told["error"])


def _popen() -> "subprocess.Popen[bytes]":
    path = [entry for entry in sys.path if isinstance(entry, str)]  # imports pass over anything else, too
    # Ctrl-C in the terminal is for the parent, which ends this process.
    alone: dict[str, Any] = {"process_group": 0}
    if sys.platform == "win32":
        alone = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    try:
        return subprocess.Popen(
            [sys.executable, "-c", _START.format(path=path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **alone
        )
    except OSError as error:
        raise VisiontoolError(f"no process could be started to measure in: {error}") from None


def _why_ended(code: int) -> str:
    if sys.platform == "win32" or code > 0:
        return f"its process ended with exit status {code}"
    if code == -signal.SIGKILL:
        return "its process was killed; perhaps it wanted too much memory"
    with contextlib.suppress(ValueError):  # a number without a name
        return f"its process crashed ({signal.Signals(-code).name})"
    return f"its process crashed (signal {-code})"


def serve() -> None:
    """The process: does the one task that its stdin names."""
    answers = os.dup(1)
    os.dup2(2, 1)  # so that a library that prints does not print into the answer
    task = Task(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    _give_way()
    _say_nothing()
    try:
        answer = measure(task)._asdict()
    except VisiontoolError as error:
        answer = {"error": str(error), "kind": type(error).__name__}
    except Exception as error:
        if "VISIONTOOL_DEBUG" in os.environ:
            raise
        answer = {"error": f"{type(error).__name__}: {first_line(error)}", "kind": "ModelError"}
    with open(answers, "w") as file:
        json.dump(answer, file)
    os._exit(0)  # what still runs of the last pictures need not be waited for


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(1)


def _give_way() -> None:
    """Where the machine's memory ends, this process is killed and no other."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _say_nothing() -> None:
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.disable()
