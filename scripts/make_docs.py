"""Writes the generated parts of docs/: the --help of every command into docs/cli.md.

python scripts/make_docs.py            write them
python scripts/make_docs.py --check    write nothing; exit 1 where they are not fresh
"""

import re
import sys
from pathlib import Path

import click

from visiontool.cli import cli

DOCS = Path(__file__).resolve().parent.parent / "docs"
_BLOCK = re.compile(r"(<!-- help: (?P<command>[\w ]+) -->\n```text\n).*?(```\n)", re.DOTALL)


def help_of(name: str) -> str:
    """What `visiontool ... --help` prints at 80 columns."""
    command: click.Command = cli
    context = cli.make_context("visiontool", [], resilient_parsing=True, terminal_width=80)
    for word in name.split()[1:]:
        command = cli.commands[word]
        context = command.make_context(word, [], parent=context, resilient_parsing=True)
    return command.get_help(context) + "\n"


def fresh(text: str) -> str:
    """`text` with every help block as the code has it now."""
    return _BLOCK.sub(lambda match: match[1] + help_of(match["command"]) + match[3], text)


def main() -> int:
    """Returns the exit code."""
    path = DOCS / "cli.md"
    text = path.read_text(encoding="utf-8")
    if fresh(text) == text:
        return 0
    if "--check" in sys.argv[1:]:
        print(f"{path} is not fresh; run: python scripts/make_docs.py", file=sys.stderr)
        return 1
    path.write_text(fresh(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
