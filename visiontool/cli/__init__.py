"""The command line: one file a command; here their group, the exit codes, and how errors are reported.

Commands import anything heavy inside their bodies, so that every --help answers at once.
"""

import contextlib
import errno
import os
import warnings
from importlib import import_module
from typing import Any

import click

from visiontool._version import __version__
from visiontool.cli.text import printable, say
from visiontool.errors import ConversionError, DataError, GateError, ModelError, UsageError, VisiontoolError

# The exit codes of every command; docs/cli.md explains them.
FAILED = 1
REFUSED = 6  # a check failed
SOME_FAILED = 7
INTERRUPTED = 130  # 128 + SIGINT, as shells count
_CODES = ((UsageError, 2), (DataError, 3), (ModelError, 4), (ConversionError, 5), (GateError, REFUSED))

# Each is the function of that name in the module of that name, imported when it is needed.
# fmt: off
COMMANDS = (
    "predict", "finetune", "search", "check", "evaluate", "explain", "embed", "export", "verify", "benchmark", "models",
    "cache", "doctor",
)
# fmt: on
# What people type who come from another tool; the names stay out of --help.
_ALIASES = {"topk": "top-k", "conf": "min-probability", "imgsz": "img-size", "neighbors": "neighbours"}
_SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda token: _ALIASES.get(token, token),
}


class _Group(click.Group):
    """Imports a command when it is asked for, and helps those who forget it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"visiontool.cli.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if not os.path.exists(args[0]):
                raise
            raise click.UsageError(f"{error.message} Type: visiontool predict {args[0]}", ctx) from None


@click.group(cls=_Group, invoke_without_command=True, context_settings=_SETTINGS)
@click.version_option(__version__, "-V", "--version", prog_name="visiontool")
@click.pass_context
def cli(context: click.Context) -> None:
    """Classify pictures with classic networks.

    \b
    visiontool predict img.jpg          what is on a picture
    visiontool predict photos/ --json   a folder, as JSON
    visiontool finetune mydata/         a model for your own classes
    visiontool models                   the networks it knows
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line, reports errors on stderr in one to three lines, and returns the exit code."""
    try:
        with warnings.catch_warnings():  # They are about code; what a user should know is in rows and the log.
            if "VISIONTOOL_DEBUG" not in os.environ:
                warnings.simplefilter("ignore")
                # Some libraries put filters of their own before that one.
                warnings.showwarning = lambda *_, **__: None
            result: Any = cli.main(arguments, prog_name="visiontool", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        with contextlib.suppress(OSError):
            error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        say("Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has enough
        return FAILED
    except VisiontoolError as error:
        say(f"Error: {error}")
        return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EBADF):  # full; closed (__main__.py)
            say(f"Error: the output cannot be written: {error.strerror}")
            return FAILED
        if "VISIONTOOL_DEBUG" in os.environ:
            raise
        say(f"Error: {type(error).__name__}: {printable(str(error))}")
        say("This was not foreseen. VISIONTOOL_DEBUG=1 before the command shows where it happened.")
        return FAILED
    return result if isinstance(result, int) else 0
