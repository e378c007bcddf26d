"""What `check` prints and writes: lines for people, JSON, and a list of pictures for people and programs to edit."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visiontool.cli.output.rows import cell
from visiontool.cli.text import printable, shortened, wrapped
from visiontool.files import replacing
from visiontool.text import plural

if TYPE_CHECKING:
    from visiontool.checking import Checked

COLUMNS = ("path", "label", "split", "check", "severity", "score", "reason", "cluster", "suggested", "exclude")
_SHOWN = 5  # pictures of a finding
_NAME, _INDENT = 36, " " * 10


def lines_of(checked: "Checked") -> list[str]:
    """The findings in lines of at most 80 characters, and a line that counts them."""
    lines: list[str] = []
    for finding in checked.findings:
        lines += wrapped(finding.title, f"{finding.severity:<10}", _INDENT)
        for suspect in finding.suspects[:_SHOWN]:
            name = shortened(printable(suspect.name), _NAME, keep_end=True)
            lines += wrapped(suspect.reason, f"{_INDENT}  {name:<{_NAME}} ", " " * (13 + _NAME))
        if len(finding.suspects) > _SHOWN:
            lines.append(f"{_INDENT}  and {len(finding.suspects) - _SHOWN:,} more")
        lines += [*wrapped(finding.advice, _INDENT, _INDENT), ""]
    counts = [sum(one.severity == kind for one in checked.findings) for kind in ("serious", "warning", "note")]
    found = f"{counts[0]} serious, {plural(counts[1], 'warning')}, {plural(counts[2], 'note')}"
    data = checked.data
    of = f"{plural(len(data.samples), 'picture')}, {plural(len(data.labels), 'class')}"
    return [*lines, f"{found}: {printable(str(data.root))}, {of}."]


def to_json(checked: "Checked") -> dict[str, Any]:
    """All findings with all their pictures."""
    return {
        "schema": 1,
        "data": str(checked.data.root),
        "pictures": len(checked.data.samples),
        "labels": checked.data.labels,
        "serious": checked.is_serious,
        "findings": [
            {**one._asdict(), "suspects": [suspect._asdict() for suspect in one.suspects]} for one in checked.findings
        ],
    }


def write_list(file: Path, checked: "Checked") -> None:
    """Writes a line for each picture of each finding; those whose `exclude` is "yes" are left out by finetune."""
    samples = {sample.name: sample for sample in checked.data.samples}
    # Names as their bytes, as in a run's splits.csv, so that they are found again.
    with replacing(file) as part, open(part, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for finding in checked.findings:
            for one in finding.suspects:
                sample = samples[one.name]
                label, cluster = checked.data.label_of(sample), "" if one.cluster is None else one.cluster
                facts = (finding.check, finding.severity, one.score, one.reason, cluster, one.suggested)
                cells = (label, sample.split or "", *facts, "yes" if one.exclude else "")
                writer.writerow([sample.name, *map(cell, cells)])
