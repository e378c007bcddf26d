"""`visiontool` and `python -m visiontool`."""

import contextlib
import gc
import os
import sys


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    # The start makes many objects and hardly any garbage; commands turn the collector on again for the work itself.
    gc.disable()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller, as in `visiontool ... >&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    try:
        from visiontool.cli import run

        code = run()
    except KeyboardInterrupt:  # before the command line could take it
        code = 130
    try:
        sys.stdout.flush()
    except (OSError, ValueError):  # told already, where there was more to write than nothing
        code = code or 1
    with contextlib.suppress(OSError, ValueError):  # what could not be said is no failure of the work
        sys.stderr.flush()
    # Every file is closed by now. To take the interpreter and the network apart in order would cost a tenth of the
    # time of one prediction (docs/design.md).
    os._exit(code)


if __name__ == "__main__":
    main()
