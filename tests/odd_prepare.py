"""What happens to a picture goes by its name here. In a module of its own, which worker processes import."""

import ctypes
import os
import signal
import time
import warnings
from pathlib import Path

from visiontool.data import prepare as real
from visiontool.data.prepare import Prepared

# The start of a program whose workers do what this module says.
IN_A_PROGRAM = f"""
import os, signal, sys, threading, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import odd_prepare
from visiontool.data import loader
loader.prepare = odd_prepare.prepare
"""


def prepare(path, recipe, *, plain_only=False):
    match os.path.basename(path).split(".")[0]:
        case "hang":
            time.sleep(1000)
        case "segv":
            ctypes.string_at(0)
        case "sigkill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "print":
            os.write(1, b"noise" * 1000)
            print("noise", flush=True)
            warnings.warn("noise", stacklevel=1)
            assert os.read(0, 100) == b""
        case "pid":
            return Prepared(path, error=str(os.getpid()))
    return real.prepare(path, recipe, plain_only=plain_only)
