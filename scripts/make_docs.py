"""Writes the generated parts of docs/: the --help of every command, and the table of the classics.

python scripts/make_docs.py            write them
python scripts/make_docs.py --check    write nothing; exit 1 where they are not fresh
"""

import re
import sys
from pathlib import Path

import click

from visiontool.cli import cli
from visiontool.hub import catalog

DOCS = Path(__file__).resolve().parent.parent / "docs"
_HELP = re.compile(r"(<!-- help: (?P<command>[\w ]+) -->\n```text\n).*?(```\n)", re.DOTALL)
_CLASSICS = re.compile(r"(<!-- table: classics -->\n).*?(<!-- end -->\n)", re.DOTALL)


def help_of(name: str) -> str:
    """What `visiontool ... --help` prints at 80 columns."""
    command: click.Command = cli
    context = cli.make_context("visiontool", [], resilient_parsing=True, terminal_width=80)
    for word in name.split()[1:]:
        assert isinstance(command, click.Group)
        found = command.get_command(context, word)
        assert found is not None, name
        command = found
        context = command.make_context(word, [], parent=context, resilient_parsing=True)
    return command.get_help(context) + "\n"


def table_of_classics() -> str:
    """The classics with their facts, oldest first."""
    lines = [
        "| name | year | paper | license | input | parameters | MACs | top-1 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in catalog.classics():
        classic = entry.classic
        assert classic is not None
        weights = "untrained" if entry.is_untrained else f"{entry.license} (`{entry.name}`)"
        cells = (
            f"`{entry.architecture}`",
            f"{classic.year}",
            f"[{classic.title}]({classic.paper})",
            weights,
            "x".join(map(str, entry.input_size)),
            f"{entry.params / 1e6:.2f}",
            "" if entry.macs is None else f"{entry.macs / 1e9:.{2 if entry.macs >= 10e6 else 4}f}",
            "" if entry.top1 is None else f"{entry.top1:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def fresh(text: str) -> str:
    """`text` with every generated block as the code has it now."""
    text = _HELP.sub(lambda match: match[1] + help_of(match["command"]) + match[3], text)
    return _CLASSICS.sub(lambda match: match[1] + table_of_classics() + match[2], text)


def main() -> int:
    """Returns the exit code."""
    code = 0
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if fresh(text) == text:
            continue
        if "--check" in sys.argv[1:]:
            print(f"{path} is not fresh; run: python scripts/make_docs.py", file=sys.stderr)
            code = 1
        else:
            path.write_text(fresh(text), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
