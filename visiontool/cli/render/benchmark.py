"""What `visiontool benchmark` shows: the table, the JSON, and remarks."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from visiontool.cli.text import json_text, printable
from visiontool.evaluation.benchmark import Measurement
from visiontool.evaluation.benchmark.machine import machine
from visiontool.evaluation.benchmark.process import Round
from visiontool.text import plural

_COLUMNS = "{:<4}{:>6}{:>7}{:>7}{:>9}{:>11}{:>8}{:>6}{:>7}{:>7}{:>7}"
_HEAD = "            latency, ms         pictures/s      ms of a picture        peak\n" + _COLUMNS.format(
    "", "batch", "p50", "p95", "network", "end to end", "decode", "prep", "run", "MB", "noise"
)
_WIDTH = 80
_NOISY = 0.2


def table(rows: Sequence[Measurement]) -> str:
    """All rows, below the name of the network that each is of."""
    lines = [*_wrapped(_machine_line(rows)), _HEAD]
    shown: str | None = None
    for row in rows:
        if row.file.name != shown:
            shown = row.file.name
            lines += _heading([other for other in rows if other.file.name == shown])
        lines.append(_line(row))
    return "\n".join(lines)


def _machine_line(rows: Sequence[Measurement]) -> str:
    ran = _ran_on(rows)
    facts = machine(ran.device if ran else "cpu")
    texts = [
        f"{plural(facts['cores'], 'core')} of {facts['processor']}",
        *([facts["gpu"]] if facts["gpu"] else []),
        facts["system"],
        f"Python {facts['python']}",
        f"onnxruntime {facts['onnxruntime']}",
    ]
    if ran is not None:
        texts.append(f"on {ran.device}" + ("" if ran.device.startswith(ran.provider) else f" by {ran.provider}"))
    return ", ".join(texts)


def _ran_on(rows: Sequence[Measurement]) -> Round | None:
    """A round, which tells the device of all."""
    return next((row.rounds[0] for row in rows if row.rounds), None)


def _heading(rows: Sequence[Measurement]) -> list[str]:
    file = rows[0].file
    height, width = file.spec.input.size
    facts = [f"{width}x{height} pixels"]
    known = next((row.file.accuracy for row in rows if row.file.accuracy is not None), None)
    if known is not None:
        facts.append(f"top-1 {known.top1:.1%} ({known.dataset})")
    rates = [round_.opening_images_per_s for row in rows for round_ in row.rounds]
    if rates:
        facts.append(f"opening alone {_figure(sorted(rates)[len(rates) // 2])} pictures/s")
    return ["", *_wrapped(f"{file.name}: {', '.join(facts)}")]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(printable(text), _WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _line(row: Measurement) -> str:
    start = f"{row.file.spec.precision:<4}{row.batch_size:>6}"
    if not row.rounds:
        reason = (row.error or "interrupted").partition("\n")[0]
        return printable(f"{start}  not measured: {reason}")
    told = row.to_json()
    figures = (
        "latency_p50_ms",
        "latency_p95_ms",
        "network_images_per_s",
        "end_to_end_images_per_s",
        "decode_ms_per_image",
        "preprocess_ms_per_image",
        "run_ms_per_image",
    )
    peak = told["peak_memory_bytes"]
    return _COLUMNS.format(
        row.file.spec.precision,
        row.batch_size,
        *(_figure(told[name]) for name in figures),
        "?" if peak is None else f"{peak / 1e6:.0f}",
        "?" if row.noise is None else f"{row.noise:.0%}",
    )


def _figure(value: float) -> str:
    """In at most five characters up to 99,999: 0.012, 1.23, 12.3, 1234."""
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{decimals}f}"


def as_object(rows: Sequence[Measurement], said: dict[str, Any]) -> str:
    """All that was measured, as JSON.

    Args:
        said: what is told beside the machine and the rows.
    """
    ran = _ran_on(rows)
    facts = machine(ran.device if ran else "cpu")
    document = {"schema": 1, "machine": facts, **said, "rows": [row.to_json() for row in rows]}
    return json_text(document, indent=1)


def remarks(rows: Sequence[Measurement], *, pictures: str) -> Iterator[str]:
    """What one has to know to read the figures."""
    done = [row for row in rows if row.rounds]
    runs = [len(row.latencies_ms) for row in done]
    rounds = max(len(row.rounds) for row in done) if done else 0
    if runs:
        many = f"{min(runs):,}" if min(runs) == max(runs) else f"{min(runs):,} to {max(runs):,}"
        yield (
            f"Medians of {plural(rounds, 'round')}, each in a process of its own; latencies of {many} runs a line.\n"
            f"Pictures: {pictures}."
        )
    if min(runs, default=20) < 20:
        yield "With fewer than 20 runs p95 is the slowest of them; --seconds gives more."
    made = {row.file.spec.precision for row in done if row.file.is_made_here}
    if "fp16" in made:
        yield "The fp16 files were made here to be measured; whether they answer right is for: visiontool export."
    if "int8" in made:
        yield (
            f"The int8 files were made here to be measured, calibrated on {pictures}: good for their speed alone.\n"
            "What they would answer is for: visiontool export --precision int8, with pictures like yours."
        )
    unreadable = max((row.median("unreadable") for row in done), default=0.0)
    if unreadable:
        yield f"{unreadable:.0%} of the pictures cannot be read, and count as pictures all the same."
    gpu = max((row.peak("gpu_memory_bytes") or 0 for row in done), default=0)
    if gpu:
        yield f"Of the GPU's memory, up to {gpu / 1e6:,.0f} MB were taken."
    noise = max((row.noise or 0.0 for row in done), default=0.0)
    if noise > _NOISY:
        yield f"The rounds differ by up to {noise:.0%}: something else is running here, or --seconds is too small."
