"""The weights of a network among all tensors of a file, and what does not fit."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from visiontool.hub.state_dict import candidates, faults, not_finite
from visiontool.hub.weights import read_weights


@pytest.fixture
def tensors(tmp_path):
    arrays = {"conv.weight": np.ones((2, 3), "f4"), "conv.bias": np.array([1, np.inf], "f2"), "steps": np.array(7)}
    save_file(arrays, tmp_path / "w.safetensors")
    return read_weights(tmp_path / "w.safetensors")


def test_sets_of_tensors_are_found_however_nested_in_timms_order(tensors):
    prefixed = {f"module.{name}": tensor for name, tensor in tensors.items()}
    content = {"epoch": 3, "state_dict": prefixed, "model_ema": {"net": tensors}, "optimizer": {0: tensors}}
    found = {candidate.place: candidate for candidate in candidates(content, 3)}
    assert found.keys() == {"state_dict", "state_dict.module", "model_ema.net"}
    assert found["state_dict.module"].tensors == found["model_ema.net"].tensors == tensors
    assert found["model_ema.net"].rank < found["state_dict"].rank == found["state_dict.module"].rank
    (fallback,) = candidates({"state_dict": tensors, "other": {}}, 100)
    assert (fallback.place, fallback.tensors) == ("", tensors)


def test_a_name_of_a_thousand_dots_costs_no_time_and_a_mapping_too_deep_is_left_out(tensors):
    tensor = tensors["steps"]
    deep = {"a": {"b": {"c": {"d": {"e": {"x": tensor}}}}}}
    assert candidates({"." * 100_000 + str(number): tensor for number in range(100)}, 200)[0].tensors.keys()
    assert [candidate.tensors for candidate in candidates(deep, 1)] == [{}]


def test_faults_are_listed_and_counters_of_batch_normalization_never_are():
    expected = {"a.weight": (2, 3), "a.bias": (2,), "n.weight": (4,), "n.num_batches_tracked": ()}
    assert faults(expected, {**expected, "m.num_batches_tracked": ()}) == ("", 0)
    assert faults(expected, {name: expected[name] for name in ("a.weight", "a.bias", "n.weight")}) == ("", 0)
    got = {"a.weight": (3, 2), "n.weight": (4,), **{f"more.{number}": () for number in range(5)}, "x" * 999: ()}
    assert faults(expected, got) == (
        "missing: a.bias; left over: more.0, more.1, more.2 and 3 more; of another shape: a.weight (3, 2) for (2, 3)",
        8,
    )
    assert len(faults({}, {"x" * 999: ()})[0]) < 150


def test_numbers_that_are_not_finite_are_named(tensors):
    assert not_finite(tensors) == ["conv.bias"]
