"""Labels that are likely wrong, by confident learning on logits of pictures that the head has not seen."""

from collections.abc import Iterator

import numpy as np
from threadpoolctl import threadpool_limits

from visiontool.checking.finding import Finding, Looked, Suspect
from visiontool.text import plural
from visiontool.training.head.features import candidates
from visiontool.training.head.logistic import Balancing
from visiontool.training.head.select import HeldOut, TrainingSet, best_gaussian
from visiontool.training.label_errors import are_serious, held_out_logits, label_errors


def check_labels(looked: Looked, seed: int) -> Iterator[Finding]:
    """Pictures whose label is likely wrong; nothing where pictures have several. `seed` draws the folds."""
    data = looked.data
    present, class_ids = np.unique(looked.class_ids, return_inverse=True)
    if data.is_multilabel or len(present) < 2:
        return
    balancing = Balancing.of("none", np.bincount(class_ids))
    held_out = HeldOut.of(class_ids, looked.groups, balancing, seed)
    if not len(held_out.judged):
        return
    options = [kind.of(looked.embeddings) for kind in candidates(looked.embeddings.shape[1:], None, 1)]
    with threadpool_limits(1, user_api="blas"):  # as in `training.head.solve`
        sets = (TrainingSet.of(each[:, None], class_ids, balancing, is_rotated=False)[0] for each in options)
        choices = [best_gaussian(each, held_out, lambda: None) for each in sets]
    best = int(np.argmin([held_out.mean(choice.losses)[0] for choice in choices]))
    shrinkage = choices[best].path[choices[best].chosen].strength
    logits = held_out_logits(options[best], class_ids, looked.groups, shrinkage, seed)
    judged = np.flatnonzero(~np.isnan(logits[:, 0]))
    which, scores, probabilities = label_errors(logits[judged], class_ids[judged])
    suspects: list[Suspect] = []
    for row in which.tolist():
        sample, other = data.samples[judged[row]], data.labels[present[probabilities[row].argmax()]]
        reason = f"labelled {data.labels[sample.class_id]}, looks like {other} ({probabilities[row].max():.0%})"
        suspects.append(Suspect(sample.name, float(scores[row]), reason, suggested=other))
    if suspects:
        is_serious = are_serious(len(suspects), len(judged))
        title = f"{plural(len(suspects), 'label')} of {len(judged):,} {'are likely' if is_serious else 'may be'} wrong"
        advice = "Look at them, the first ones first; put right or leave out what is wrong."
        yield Finding("label", "serious" if is_serious else "warning", title, advice, tuple(suspects))
