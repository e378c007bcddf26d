"""`visiontool` and `python -m visiontool`."""

import sys


def main() -> None:
    """Runs the command line and exits with its code."""
    from visiontool.cli import run

    sys.exit(run())


if __name__ == "__main__":
    main()
