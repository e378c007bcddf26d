"""What `visiontool finetune` shows: what a run would do, what one came to, and a sheet of views."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from visiontool.cli.output.target import telling
from visiontool.cli.text import json_text, printable, say
from visiontool.errors import DataError, UsageError
from visiontool.text import plural

if TYPE_CHECKING:
    from visiontool.evaluation.metrics import ClassMetrics, Metrics
    from visiontool.images.decode import Limits
    from visiontool.training.finetune import Run, Settings
    from visiontool.training.plan import Plan

_WORST = 3
_LONGEST_LABEL = 30
_PREVIEWED = 6  # pictures
_COLUMNS = 8


def show_plan(plan: "Plan", wanted: "Settings", *, as_json: bool, quiet: bool) -> None:
    """Prints what a run would do; what is odd about the data goes to stderr, unless `quiet`."""
    data, spec = plan.data, plan.spec
    if as_json:
        facts: dict[str, Any] = {
            "data": str(data.root),
            "labels": data.labels,
            "pictures": plan.splits,
            "ignored": dict(data.ignored),
            "model": spec.name,
            "device": plan.device,
            "views": wanted.views,
            "backbone_passes": plan.passes,
            "memory_bytes": plan.memory_bytes,
            "seconds": round(plan.seconds, 1),
        }
        click.echo(json_text(facts))
        return
    height, width = spec.input.size
    lines = [
        ("Data", f"{data.root}: {plural(len(data.samples), 'picture')}, {plural(len(data.labels), 'class')}"),
        ("Classes", _listed(data.labels)),
        ("Ignored", ", ".join(f"{count:,} {what}" for what, count in data.ignored.items()) or "nothing"),
        ("Split", ", ".join(f"{count:,} {split}" for split, count in plan.splits.items())),
        ("Model", f"{spec.name}, {width}x{height} pixels, crop mode {spec.crop_mode}, on {plan.device}"),
        ("Views", f"{wanted.views} of each training picture; {plan.passes:,} pictures through the backbone at most"),
        ("Memory", f"{plan.memory_bytes / 1e6:,.1f} MB for the embeddings"),
        ("Time", f"about {_duration(plan.seconds)} with nothing cached"),
    ]
    click.echo("\n".join(f"{name:<9}{printable(text)}" for name, text in lines))
    if not quiet:
        for note in data.notes:
            say(note[:1].upper() + note[1:])


def show_run(run: "Run") -> None:
    """Tells on stderr how good the run is, and what to type next."""
    measured = run.metrics
    low, high = measured.interval
    known, every = measured.classes, len(measured.per_class)
    over = f" over the {known:,} of {every:,} classes that have pictures here" if known < every else ""
    by = " of val" if run.folds is None else f", in {run.folds} folds"
    lines = [
        ("Accuracy", f"{measured.accuracy:.1%}, {low:.1%} to {high:.1%} with 95 % confidence"),
        ("Judged by", f"{plural(measured.pictures, 'picture')}{by}; {run.splits.get('train', 0):,} for training"),
        ("Macro-F1", f"{measured.macro_f1:.3f}{over}"),
        ("Calibration", f"error {measured.ece:.3f}"),
    ]
    worst = sorted(_recognized(measured), key=lambda one: one[1] / one[0].pictures)[:_WORST]
    for place, (one, found) in enumerate(worst):
        text = f"{_short(one.label)}: {found:,} of {one.pictures:,} recognized"
        lines.append(("Worst" if place == 0 else "", text))
    confused = _most_confused(measured.confusion, [one.label for one in measured.per_class])
    if confused:
        lines.append(("Confused", confused))
    say("\n".join(f"{name:<12}{printable(text)}" for name, text in lines))
    say(f"Next: visiontool predict -m {_quoted(run.folder)} PICTURE")


def write_preview(file: Path, wanted: "Settings", *, model: "str | Path | None", limits: "Limits") -> None:
    """Draws the views of some pictures of the data.

    Raises:
        UsageError: the file is no PNG by its name.
        DataError, ModelError: as `finetune`; of pictures those that would be drawn.
    """
    if file.suffix.lower() != ".png":
        raise UsageError(f"--preview-augment {file}: expected the name of a PNG file")
    from visiontool.data.loader import load
    from visiontool.data.prepare import Recipe
    from visiontool.images import augment
    from visiontool.training.finetune import open_model, read_data

    views = augment.views(min(wanted.views, _COLUMNS), wanted.augment, wanted.seed)
    classifier = open_model(wanted, None if model is None else Path(model), limits)
    samples = [sample for sample in read_data(wanted, classifier).samples if sample.split in (None, "train")]
    recipe = Recipe.of(classifier.spec, limits, tuple(views))
    count = min(_PREVIEWED, len(samples))
    some = [samples[place * len(samples) // count] for place in range(count)]
    rows = []
    opened_all = list(load([sample.path for sample in some], recipe))
    for sample, opened in zip(some, opened_all, strict=True):
        if opened.pixels is not None:
            rows.append((sample.name, [*opened.pixels]))
        elif wanted.on_bad != "skip":
            skip = "--on-bad skip leaves out pictures that cannot be read."
            raise DataError(f"{sample.path}: {opened.error}\n{skip}")
    if not rows:
        raise DataError(f"{wanted.data}: there is no picture for training to draw, or none that can be read")
    sheet = augment.sheet(rows, [_heading(view) for view in views])
    with telling(str(file)):
        sheet.save(file)


def _heading(view: Any) -> str:
    return "as it is" if view.is_plain else "mirror" if view.is_mirror else f"random {view.number}"


def _recognized(measured: "Metrics") -> "list[tuple[ClassMetrics, int]]":
    """Each class that has pictures, and how many of these were recognized."""
    found = measured.confusion.diagonal().tolist()
    return [(one, hits) for one, hits in zip(measured.per_class, found, strict=True) if one.pictures]


def _most_confused(confusion: Any, labels: Sequence[str]) -> str:
    """The two classes that are taken for each other most."""
    wrong = confusion.copy()
    for index in range(len(labels)):
        wrong[index, index] = 0
    count = int(wrong.max())
    if count == 0:
        return ""
    truth, taken = divmod(int(wrong.argmax()), len(labels))
    return f"{_short(labels[truth])} taken for {_short(labels[taken])}: {plural(count, 'picture')}"


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"


def _listed(labels: Sequence[str]) -> str:
    some = ", ".join(map(_short, labels[:5]))
    return some if len(labels) <= 5 else f"{some} and {len(labels) - 5:,} more"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _quoted(folder: Path) -> str:
    import shlex

    near = Path(os.path.relpath(folder))
    return shlex.quote(str(near if len(str(near)) < len(str(folder)) else folder))
