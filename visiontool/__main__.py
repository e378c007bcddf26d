"""`visiontool` and `python -m visiontool`."""

import contextlib
import gc
import os
import sys


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    # The start makes some 50,000 objects that stay: to walk them again and again takes a twentieth of its time.
    gc.set_threshold(100_000)
    _open_closed_streams()
    try:
        from visiontool import cli

        code = cli.main()
    except KeyboardInterrupt:  # before the command line could take it
        code = 130
    try:
        sys.stdout.flush()
    except (OSError, ValueError):  # reported already, where there was more to write than nothing
        code = code or 1
    with contextlib.suppress(OSError, ValueError):  # a message that is lost is no failure of the work
        sys.stderr.flush()
    # Every file is closed by now. To take the interpreter and the network apart in order would cost a tenth of the
    # time of one prediction (docs/design.md).
    os._exit(code)


def _open_closed_streams() -> None:
    """Opens os.devnull for the streams that the caller closed (`visiontool ... >&-`): for stdout one that fails.

    Else the next file that is opened would get the number of one of them, and what is meant for stderr would go into
    it. Rows that go nowhere are a failure, as with a full disk.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor == 1 else os.O_RDWR)  # takes the lowest free number: this one
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "w"))  # noqa: SIM115


if __name__ == "__main__":
    main()
