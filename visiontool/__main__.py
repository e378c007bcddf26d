"""`visiontool` and `python -m visiontool`."""

import gc
import os
import sys


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    # The start makes many objects and hardly any garbage; `cli` turns the collector on again for the work itself.
    gc.disable()
    from visiontool.cli import run

    code = run()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = code or 1
    # Every file is closed by now. To take the interpreter and the network apart in order would cost a tenth of the
    # time of one prediction (docs/design.md).
    os._exit(code)


if __name__ == "__main__":
    main()
