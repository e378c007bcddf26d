"""What is shown of a comparison of two models: by `verify` on stdout, by `export` on stderr."""

import os
import textwrap

from visiontool.cli.text import printable
from visiontool.evaluation.compare import Comparison
from visiontool.evaluation.compare.gates import FEW_CHANGED, MANY
from visiontool.text import plural

_WIDTH = 80
_KEY, _COLUMN = 12, 33  # characters, with a space between columns


def show_comparison(comparison: Comparison) -> list[str]:
    """Lines of at most 80 characters: the two models, by how much B differs and may differ, and what follows."""
    a, b = comparison.a, comparison.b
    left_out = f"; {comparison.unreadable:,} that cannot be read left out" if comparison.unreadable else ""
    lines = [
        _line("", "A", "B"),
        _line(
            "Model", *(side.name if len(side.name) <= _COLUMN else f"{side.name[: _COLUMN - 1]}…" for side in (a, b))
        ),
        _line("File", _near(a.path), _near(b.path)),
        _line("Runs as", *(f"{side.precision} on {side.device}" for side in (a, b))),
        _line("Size", *(f"{side.size_bytes / 1e6:,.1f} MB" for side in (a, b))),
        _line("Speed", *(f"{_rate(side.images_per_s)} pictures/s, network alone" for side in (a, b))),
    ]
    if a.accuracy is not None and b.accuracy is not None:
        lines.append(_line("Accuracy", f"{a.accuracy:.1%}", f"{b.accuracy:.1%}"))
    lines += [
        "",
        *_wrapped("Pictures", f"{comparison.pictures:,}: {comparison.origin}{left_out}"),
        _line("", "B differs by", "allowed"),
        *(_line(*row) for row in _rows(comparison)),
    ]
    if comparison.differs:
        lines += _wrapped("Worst", _near(comparison.worst))
        lines += _wrapped("", f"A: {a.worst_answer}; B: {b.worst_answer}")
    lines.append("")
    faults = comparison.faults
    if not faults:
        return [*lines, "B answers as A does."]
    lines.append(f"B does not answer as A does; {plural(len(faults), 'fault')}:")
    return [*lines, *(line for fault in faults for line in _wrap(fault, "- ", "  "))]


def _rows(comparison: Comparison) -> list[tuple[str, str, str]]:
    """What B differs by, and the bound of it."""
    gate, cosine = comparison.gate, comparison.embedding_cosine
    rows = [
        ("Top-1", f"{comparison.changed:,} of {comparison.pictures:,}", _changes_allowed(comparison)),
        ("Probability", f"{comparison.max_probability_difference:.2g}", _bound(gate.probability)),
        ("Logit", f"{comparison.max_absolute:.2g}", _bound(comparison.max_absolute_allowed)),
        ("All logits", f"{comparison.relative_l2:.2g} of their size", _bound(gate.relative_l2)),
    ]
    if cosine is not None:
        allowed = None if gate.cosine is None else 1 - gate.cosine
        rows.append(("Embedding", f"{max(0.0, 1 - cosine):.2g} (1 - cosine)", _bound(allowed)))
    batches = ", ".join(map(str, comparison.batches))
    return [*rows, ("Batches", f"{comparison.batch_difference:.2g} (of {batches})", _bound(gate.batch))]


def _changes_allowed(comparison: Comparison) -> str:
    gate = comparison.gate
    if gate.agreement is None:
        return "none that A is sure of"
    if comparison.pictures >= MANY:
        return f"{1 - gate.agreement:.1%}"
    return f"{FEW_CHANGED}, and none that A is sure of"


def _bound(value: float | None) -> str:
    return "any" if value is None else f"{value:.2g}"


def _rate(images_per_s: float) -> str:
    return f"{images_per_s:,.{1 if images_per_s < 100 else 0}f}"


def _line(key: str, *cells: str) -> str:
    return " ".join([key.ljust(_KEY), *(_cut(printable(cell)).ljust(_COLUMN) for cell in cells)]).rstrip()


def _cut(text: str) -> str:
    """`text`, or its end, which tells files apart."""
    return text if len(text) <= _COLUMN else f"…{text[1 - _COLUMN :]}"


def _wrapped(key: str, text: str) -> list[str]:
    return _wrap(text, f"{key:<{_KEY}} ", " " * (_KEY + 1))


def _wrap(text: str, first: str, others: str) -> list[str]:
    return textwrap.wrap(
        printable(text), _WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False
    )


def _near(path: str) -> str:
    """The path as it is shorter: as it stands, or from the working folder on."""
    try:
        return min(path, os.path.relpath(path), key=len)
    except ValueError:  # on another drive
        return path
