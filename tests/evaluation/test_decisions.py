"""Thresholds and conformal quantiles: what they promise, and the copies of models that they are written into."""

import numpy as np
import pytest
from conftest import BLUE, GREEN, RED, save_picture
from hypothesis import given, settings
from hypothesis import strategies as st

from visiontool import Classifier, ConversionError, Ensemble
from visiontool.evaluation.decisions import NEVER, answered, conformal_quantile, covered, thresholds, write
from visiontool.inference.ensemble import Combination
from visiontool.model.spec import Decisions, ModelSpec


def drawn(random, pictures, classes, digits=9):
    """Probabilities of which the true class is drawn: a calibrated model."""
    probabilities = random.dirichlet(np.full(classes, 0.5), pictures).round(digits)
    cumulated = probabilities.cumsum(axis=1) / probabilities.sum(axis=1, keepdims=True)
    return probabilities, (random.random((pictures, 1)) > cumulated).sum(axis=1)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.5, 0.8, 0.95, 1.0]), st.integers(1, 200), st.sampled_from([1, 9]))
def test_each_class_reaches_the_precision_where_it_was_set_and_no_lower_threshold_would(seed, wanted, count, digits):
    probabilities, class_ids = drawn(np.random.default_rng(seed), count, 3, digits)
    least = thresholds(probabilities, class_ids, wanted)
    answers, best = probabilities.argmax(axis=1), probabilities.max(axis=1)
    for class_id, threshold in enumerate(least):
        right, values = class_ids[answers == class_id] == class_id, best[answers == class_id]
        if threshold < NEVER:
            assert right[values >= threshold].mean() >= wanted
        for lower in values[values < threshold]:
            assert right[values >= lower].mean() < wanted
    precision, share = answered(probabilities, class_ids, least)
    assert (np.isnan(precision) and share == 0) or precision >= wanted - 1e-9


@pytest.mark.parametrize(("pictures", "classes", "each"), [(40, 4, False), (400, 4, True)])
def test_sets_hold_the_true_class_of_new_pictures_as_often_as_asked(pictures, classes, each):
    random = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        quantiles = conformal_quantile(*drawn(random, pictures, classes), 0.9)
        assert quantiles.shape == ((classes,) if each else (1,))
        shares.append(covered(*drawn(random, 200, classes), quantiles)[0])
    assert 0.9 - 0.01 < np.mean(shares) < 0.9 + (0.04 if each else 0.03)


def test_too_few_pictures_give_sets_of_all_classes():
    probabilities, class_ids = np.array([[0.9, 0.1]] * 8), np.zeros(8, int)
    assert conformal_quantile(probabilities, class_ids, 0.9).tolist() == [1.0]
    assert covered(probabilities, class_ids, np.array([1.0])) == (1.0, 2.0)


def test_a_copy_decides_and_answers_as_before(color_model, tmp_path):
    decisions = Decisions(precision=0.9, thresholds=(0.5, 0.6, NEVER), coverage=0.9, quantiles=(0.5,))
    pictures = [
        save_picture(tmp_path / name, color) for name, color in (("r.png", RED), ("g.png", GREEN), ("b.png", BLUE))
    ]
    model = Classifier(color_model)
    together = Ensemble([model, model], Combination("average", (0.5, 0.5)), "two")
    for source, name in ((model, "copy.onnx"), (together, "two.json")):
        write(source, tmp_path / name, decisions)
        copy = Ensemble.load(tmp_path / name) if name == "two.json" else Classifier(tmp_path / name)
        assert copy.spec.decisions == decisions
        results = copy.predict(pictures, sets=True)
        assert [result.unknown for result in results] == [False, True, True]  # 0.576 each
        assert [result.label_set for result in results] == [("red",), ("green",), ("blue",)]
        assert [result.predictions for result in results] == [result.predictions for result in source.predict(pictures)]
        assert [result.unknown for result in copy.predict(pictures, min_probability=0.58)] == [True] * 3
    assert ModelSpec.from_json(Classifier(tmp_path / "copy.onnx").spec.to_json()).decisions == decisions
    assert "decisions" not in model.spec.to_json()
    with pytest.raises(ConversionError, match="cannot be written"):
        write(model, tmp_path / "no" / "copy.onnx", decisions)
