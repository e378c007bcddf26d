"""A process for each measurement: peaks of memory do not mix, and a crash costs one row."""

import os

from visiontool.data.worker import EndedError, Worker
from visiontool.errors import DataError, DeviceError, ModelError, UsageError, VisiontoolError, first_line
from visiontool.evaluation.benchmark.measuring import Round, Task, measure

_OF_ALL = (DeviceError, UsageError, DataError)  # what one process cannot do for these, no other can


def measured(task: Task) -> Round:
    """`measure` in a process of its own.

    Raises:
        DeviceError, UsageError, DataError: as `measure`.
        ModelError: anything else that keeps this one task from being done.
    """
    worker = Worker(_answer)
    try:
        worker.start()
        answer = worker.call(task)
    except EndedError as ended:
        raise ModelError(f"its process {ended}") from None
    finally:
        worker.close()
    if isinstance(answer, VisiontoolError):
        raise answer
    round_: Round = answer
    return round_


def _answer(task: Task) -> Round | VisiontoolError:
    try:
        return measure(task)
    except _OF_ALL as error:
        return error
    except Exception as error:
        if "VISIONTOOL_DEBUG" in os.environ and not isinstance(error, VisiontoolError):
            raise
        told = str(error) if isinstance(error, VisiontoolError) else f"{type(error).__name__}: {first_line(error)}"
        return ModelError(told)
