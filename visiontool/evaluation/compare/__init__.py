"""Whether a model answers as another does: both on the same pictures, through the code that users run.

A is the measure and B is judged: an export by its source, a file on one device by the same file on another.
"""

from collections.abc import Sequence
from contextlib import closing

from visiontool.data.loader import TIMEOUT_S
from visiontool.data.loader import batches as batches_of
from visiontool.errors import DataError, GateError
from visiontool.evaluation.compare import run_both
from visiontool.evaluation.compare.comparison import Comparison, Side
from visiontool.evaluation.compare.gates import gate_for
from visiontool.evaluation.compare.layers import first_difference
from visiontool.evaluation.compare.manifests import differences, label_differences
from visiontool.evaluation.compare.run_both import Pair, Unreadable
from visiontool.evaluation.compare.tally import Tally
from visiontool.hub.cache import MODEL_FILE
from visiontool.images.decode import DEFAULT_LIMITS, Limits
from visiontool.inference.classifier import Classifier
from visiontool.progress import Progress, silent
from visiontool.runtime.alike import BATCHES
from visiontool.training.pictures import Pictures

__all__ = ["BATCHES", "Comparison", "check", "compare", "first_difference"]

_EMBEDDED = 256  # pictures whose embeddings are compared, since each costs both networks another run
_KEPT_BYTES = 64 * 2**20  # of pixels, for batches and speed


def compare(
    a: Classifier,
    b: Classifier,
    pictures: Pictures,
    *,
    batches: Sequence[int] = BATCHES,
    limits: Limits = DEFAULT_LIMITS,
    timeout: float = TIMEOUT_S,
    progress: Progress = silent,
) -> Comparison:
    """Compares B with A on pictures, each prepared for each of the two by what its own file says.

    However many pictures there are, memory holds some tens of them. Pictures that cannot be read are left out.

    Args:
        batches: the sizes that the logits of B must not depend on.
        limits, timeout: as `Classifier.predict_stream` takes them.
        progress: called with "compare" and how many pictures of all are done.

    Raises:
        DataError: none of the pictures can be read.
        GateError: the two know another number of classes, so there is nothing to compare.
        ModelError: one of the two cannot be run.
    """
    if len(a.spec.labels) != len(b.spec.labels):
        (first,) = label_differences(a.spec, b.spec)
        raise GateError(f"{_called(b)} cannot answer as {_called(a)} does, it knows other classes: {first}")
    gate = gate_for(a, b)
    tally = Tally(a, b, gate.sure)
    stream = run_both.pairs(a, b, pictures.paths, limits, timeout)
    with closing(stream):
        kept = _see(a, b, pictures, stream, tally, max(batches), progress)
    worst = tally.worst
    if worst is None:
        raise DataError(f"{pictures.origin}: none of the pictures can be read\n{tally.first_unreadable}")
    pixels_a, pixels_b = [pair.a for pair in kept], [pair.b for pair in kept]
    speeds = run_both.images_per_s(a, b, (pixels_a, pixels_b))
    accuracies = tally.accuracies if pictures.targets is not None else (None, None)
    sides = [
        Side(
            name=model.spec.name,
            path=str(model.path),
            device=model.device,
            precision=model.spec.precision,
            size_bytes=model.path.stat().st_size,
            images_per_s=speed,
            accuracy=accuracy,
            worst_answer=answer,
        )
        for model, speed, accuracy, answer in zip((a, b), speeds, accuracies, (worst.a, worst.b), strict=True)
    ]
    return Comparison(
        a=sides[0],
        b=sides[1],
        origin=pictures.origin,
        pictures=tally.pictures,
        unreadable=tally.unreadable,
        no_numbers=tally.no_numbers,
        agreement=tally.agreement,
        changed=tally.changed,
        sure_changed=tally.sure_changed,
        max_probability_difference=tally.max_probability,
        worst=worst.path,
        relative_l2=tally.relative_l2,
        max_absolute=tally.max_absolute,
        largest_logit=tally.largest_logit,
        embedding_cosine=tally.cosine,
        batch_difference=run_both.batch_difference(b, pixels_b, batches),
        batches=tuple(batches),
        gate=gate,
        said=tuple(differences(a.spec, b.spec)),
    )


def check(a: Classifier, b: Classifier, comparison: Comparison) -> None:
    """Passes a comparison without faults.

    Raises:
        GateError: it has some; names the worst picture, its two answers, and the first layer that differs.
    """
    faults = comparison.faults
    if not faults:
        return
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    answers = " became ".join(side.worst_answer.told() for side in (comparison.a, comparison.b))
    worst = f"The worst picture is {comparison.worst}: {answers}.\n" if comparison.differs else ""
    layer = first_difference(a, b, comparison.worst) or "their layers cannot be matched by name"
    raise GateError(
        f"{_called(b)} does not answer as {_called(a)} does: {faults[0]}{more}\n{worst}{layer[:1].upper()}{layer[1:]}."
    )


def _see(
    a: Classifier,
    b: Classifier,
    pictures: Pictures,
    stream: run_both.Stream,
    tally: Tally,
    most_kept: int,
    progress: Progress,
) -> list[Pair]:
    """Has both see all pictures; gives the first few of these."""
    total = len(pictures.paths)
    step = -(-total // _EMBEDDED)
    kept: list[Pair] = []
    done = 0
    for some in batches_of(stream, run_both.at_once(a, b)):
        pairs = [item for item in some if isinstance(item, Pair)]
        for item in some:
            if isinstance(item, Unreadable):
                tally.leave_out(item.path, item.error)
        if pairs:
            targets = None if pictures.targets is None else [pictures.targets[pair.place] for pair in pairs]
            logits_a, logits_b = run_both.both(a, b, pairs, (a.spec.logits, b.spec.logits))
            tally.add([pair.path for pair in pairs], logits_a, logits_b, targets)
            embedded = [pair for pair in pairs if pair.place % step == 0]
            if embedded and a.spec.embedding is not None and b.spec.embedding is not None:
                tally.add_embeddings(*run_both.both(a, b, embedded, (a.spec.embedding, b.spec.embedding)))
        for pair in pairs:
            if len(kept) < most_kept and (not kept or sum(map(_bytes, [*kept, pair])) <= _KEPT_BYTES):
                kept.append(pair)
        done += len(some)
        progress("compare", done, total)
    return kept


def _bytes(pair: Pair) -> int:
    return pair.a.nbytes + pair.b.nbytes


def _called(model: Classifier) -> str:
    return model.spec.name if model.path.name == MODEL_FILE else model.path.name
