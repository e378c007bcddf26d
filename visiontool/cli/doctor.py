"""`visiontool doctor`: what this installation can do."""

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from visiontool.cli import exit_codes
from visiontool.cli.text import json_text, printable
from visiontool.errors import VisiontoolError, first_line
from visiontool.text import plural

if TYPE_CHECKING:
    from visiontool.doctor import Report

_COLUMN = 12
_WIDTH = 80


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def doctor(as_json: bool) -> int:
    """Show what this installation can do.

    That is versions, providers that work, GPUs and caches. It lets the built-in model answer for one
    picture. Exit code 1 where that goes wrong.
    """
    try:
        from visiontool.doctor import examine

        report = examine()
    except (ImportError, AttributeError) as error:  # half a package has some of its names
        from visiontool.runtime.installation import wheel_repair

        raise VisiontoolError(f"onnxruntime cannot be used: {first_line(error)}\n{wheel_repair()}") from None
    if as_json:
        click.echo(json_text(report.to_json(), indent=2))
    else:
        for name, text in _lines(report):
            for line in text.splitlines() or [""]:
                click.echo(_wrapped(name, printable(line)))
                name = ""
    return 0 if report.prediction.works else exit_codes.FAILED


def _lines(report: "Report") -> Iterator[tuple[str, str]]:
    versions, machine = report.versions, report.machine
    yield "visiontool", f"{versions['visiontool']}, Python {versions['python']}, {machine['system']}"
    own = ("visiontool", "python")
    packages = [f"{name} {version}" for name, version in versions.items() if version is not None and name not in own]
    yield "packages", ", ".join([*report.wheels, *packages])
    absent = [name for name, version in versions.items() if version is None]
    if absent:
        yield "", f"not installed: {', '.join(absent)}"
    features = "" if report.features is None else f"; {' '.join(report.features) or 'nothing special'}"
    yield "processor", f"{machine['processor']}, {plural(machine['cores'], 'core')}{features}"
    for number, gpu in enumerate(report.gpus):
        free = "" if gpu.free_bytes is None else f", {gpu.free_bytes / 2**30:.1f} free"
        memory = f"{gpu.memory_bytes / 2**30:.1f} GiB{free}"
        yield f"cuda:{number}", f"{gpu.name}, compute capability {gpu.compute_capability}, {memory}"
    driver = f"driver {report.driver}" if report.driver else "no NVIDIA driver answers"
    yield ("", driver) if report.gpus else ("GPU", f"none; {driver}")
    for number, (provider, reason) in enumerate(report.providers.items()):
        yield "" if number else "providers", f"{provider}: {'works' if reason is None else reason}"
    for name, place in report.caches.items():
        size = f"{place.bytes / 1e6:,.1f} MB"
        if name == "all":
            yield "cache", f"{place.path}\n{size}, {'can' if place.is_writable else 'CANNOT'} be written"
        elif place.bytes or not place.is_writable:
            yield "", f"{name}: {size}{'' if place.is_writable else ', CANNOT be written'}"
    yield "model", report.default_model
    for number, (name, value) in enumerate(report.environment.items()):
        yield "" if number else "variables", f"{name}={value}"
    for fault in report.faults:
        yield "FAULT", fault
    yield "predict", f"{'works' if report.prediction.works else 'FAILS'}: {report.prediction.said}"


def _wrapped(name: str, text: str) -> str:
    """A line of the list, broken at spaces; what has none, such as a path, stays whole to be copied."""
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=f"{name:<{_COLUMN}}",
        subsequent_indent=" " * _COLUMN,
        break_long_words=False,
        break_on_hyphens=False,
    )
