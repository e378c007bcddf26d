"""The page of a check: each finding with its pictures, in one HTML file with all that it needs inside."""

from collections import Counter
from contextlib import closing
from pathlib import Path

from visiontool.checking import Checked
from visiontool.data.loader import DEFAULT_OPTIONS, LoadOptions, load
from visiontool.data.prepare import Recipe
from visiontool.evaluation.benchmark.machine import machine
from visiontool.evaluation.report import render
from visiontool.evaluation.report.content import uri
from visiontool.inference.html import SIDE, thumbnail
from visiontool.text import plural

_MOST_SHOWN = 24  # pictures of a finding


def write(file: Path, checked: Checked, options: LoadOptions = DEFAULT_OPTIONS) -> None:
    """Writes the page; `options` say how the pictures are opened. What cannot be opened is shown by its name."""
    data, path_of = checked.data, {sample.name: sample for sample in checked.data.samples}
    shown = dict.fromkeys(suspect.name for one in checked.findings for suspect in one.suspects[:_MOST_SHOWN])
    recipe = Recipe({"size": (SIDE, SIDE), "crop_mode": "border", "crop_pct": 1.0}, SIDE, options.limits, whole=True)
    with closing(load([path_of[name].path for name in shown], recipe, options)) as opened:
        pictures = {
            name: None if picture.pixels is None else uri("jpeg", thumbnail(picture.pixels))
            for name, picture in zip(shown, opened, strict=True)
        }
    labels = {sample.name: data.label_of(sample) for sample in data.samples}
    counts = Counter(finding.severity for finding in checked.findings)
    render(
        file,
        Path(__file__).parent / "findings.html.jinja",
        title=f"Check of {data.root.name}",
        findings=[(finding, finding.suspects[:_MOST_SHOWN]) for finding in checked.findings],
        counts=[(kind, counts[kind]) for kind in ("serious", "warning", "note")],
        pictures=pictures,
        labels=labels,
        data={
            "Folder": str(data.root),
            "Pictures": plural(len(data.samples), "picture"),
            "Classes": plural(len(data.labels), "class"),
            "Splits": ", ".join(
                f"{count:,} {name or 'none'}" for name, count in Counter(each.split for each in data.samples).items()
            ),
            "Ignored": ", ".join(f"{count:,} {kind}" for kind, count in data.ignored.items()) or "nothing",
        },
        facts={name: str(value) for name, value in machine().items()},
    )
