"""The page of an evaluation: one HTML file with all that it needs inside, to look at, to print and to hand on.

`content` says what is on it; page.html.jinja, page.css and page.js say how it looks.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from visiontool._version import __version__
from visiontool.data.loader import DEFAULT_OPTIONS, LoadOptions
from visiontool.evaluation.evaluate import Evaluation
from visiontool.evaluation.report import content
from visiontool.evaluation.report.content import Curve
from visiontool.files import replacing
from visiontool.inference.classifier import Classifier

__all__ = ["Curve", "render", "write"]

_HERE = Path(__file__).parent


def write(
    file: Path,
    evaluations: Sequence[Evaluation],
    *,
    title: str,
    facts: Mapping[str, str],
    data: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    curves: Mapping[str, Curve] | None = None,
    models: Sequence[Classifier | None],
    options: LoadOptions = DEFAULT_OPTIONS,
) -> None:
    """Writes the page of one evaluation, or of several models on the same data, to `file`.

    Args:
        facts: settings and versions, a row each.
        data: what is to be said of the data beside what the evaluations know: its splits, what could not be read.
        notes: sentences below the summary, such as what the comparison of two models says.
        curves: of the training, by their captions.
        models: for each evaluation, what gives exact maps for its errors; None for no maps.
        options: how the pictures of the errors are opened. One that cannot be opened any more is shown without it.
    """
    classes = max(len(evaluation.spec.labels) for evaluation in evaluations)
    sections = [
        {**content.section_of(evaluation, classes), "errors": content.worst_errors(evaluation, model, options)}
        for evaluation, model in zip(evaluations, models, strict=True)
    ]
    render(
        file,
        _HERE / "page.html.jinja",
        title=title,
        sections=sections,
        facts=facts,
        data={**content.data_facts(evaluations[0]), **(data or {})},
        notes=notes,
        curves={caption: content.plot_of(curve) for caption, curve in (curves or {}).items()},
    )


def render(file: Path, template: Path, **values: object) -> None:
    """Writes a page: a template that extends base.html.jinja, with `title`, `data`, `facts` and what else it needs."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    css, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    loader = FileSystemLoader([template.parent, _HERE])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = content.percent
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") for text in (css, script)]
    page = environment.get_template(template.name).render(
        css=css, script=script, hashes=hashes, version=__version__, **values
    )
    with replacing(file) as unfinished:
        # A label or a path may hold what is no character, half of one of UTF-16.
        unfinished.write_bytes(page.encode("utf-8", "replace"))
