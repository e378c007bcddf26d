"""How far two models may differ that should answer alike: their numbers, and their manifests.

A bound is the rounding of a number type, with room for another processor. Each has its source beside it. docs/verify.md
shows the same table, and a test compares the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest
from typing import Any

from visiontool.inference.classifier import Classifier
from visiontool.model.spec import ModelSpec
from visiontool.text import short_repr

MANY = 200  # pictures from which on shares of them are judged: of fewer, one changed answer is half a point
FEW_CHANGED = 1  # answers that may change among fewer pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What B may differ by from A; None where nothing is bounded.

    `agreement` and `accuracy_drop` are asked of `MANY` pictures. Of fewer, `FEW_CHANGED` answers may change, and none
    that A is sure of.
    """

    relative_l2: float | None = None  # length of the difference of all logits, as a share of the length of A's
    max_absolute: float | None = None  # of one logit, up to logits of 100; beyond that it grows with them
    probability: float | None = None  # of one probability
    cosine: float | None = None  # of an embedding and that of A, at least
    agreement: float | None = None  # share of pictures with the same answer, at least; None: all that A is sure of
    sure: float = 0.2  # A is sure where its two largest probabilities are further apart
    accuracy_drop: float | None = None  # share of the pictures
    batch: float = 1e-5  # relative L2 of B's logits at two batch sizes
    layer: float = 1e-4  # relative L2 of the values between two layers beyond which these differ


GATES = {
    # Torch and onnxruntime are asked for the first two whenever a network is converted (`pytorch.parity`); two files
    # for one runtime are no further apart. 1e-3 of a logit can do so much to a probability at a temperature of 0.5. A
    # tie may go either way, nothing else, however many the pictures are.
    "fp32": Gate(relative_l2=1e-5, max_absolute=1e-3, probability=1e-3, cosine=0.99999, sure=1e-3),
    # A GPU may compute with TF32, which has 10 bits of mantissa, as fp16 has. Not measured here.
    "fp32 off the CPU": Gate(relative_l2=5e-3, probability=0.01, cosine=0.999, agreement=0.995, batch=5e-3, layer=0.02),
    # Half a percent is for ties. Measured with SqueezeNet 1.1, ResNet-18 and LeNet-5 on up to 100 pictures: no answer
    # changed; 0.0013 of a probability, 1e-6 of a cosine and 6e-4 of the logits at most. Eight families with random
    # weights: 2e-6 of a cosine, 4e-3 of the logits, and 2e-4 between batches. A mean 0.05 off moves logits by 0.03.
    "fp16": Gate(relative_l2=0.02, probability=0.01, cosine=0.999, agreement=0.995, batch=5e-3, layer=0.02),
    # Quantized well, networks lose a point at most (Wu et al. 2020, "Integer Quantization for Deep Learning
    # Inference"). Measured with the same networks: 3 of 100 answers changed, and logits moved by 0.012 to 0.023; those
    # of six families with random weights by up to 0.034; with the mean and std of another network by 0.26 to 0.99.
    "int8": Gate(relative_l2=0.1, agreement=0.97, accuracy_drop=0.01, batch=5e-3, layer=0.1),
    # Pixels that are one level off here and there. Measured with SqueezeNet 1.1 and ResNet-18 on 120 photographs, of up
    # to 3,000 pixels: 3e-4 of the logits, 0.0024 of a probability, and 7e-6 of a cosine at most, and no answer changed.
    "resize in the graph": Gate(relative_l2=5e-3, probability=0.01, cosine=0.999, agreement=0.995, layer=0.02),
}


def gate_for(a: Classifier, b: Classifier) -> Gate:
    """The gate for B, to be judged by A: the loosest of all that apply."""
    precisions = {a.spec.precision, b.spec.precision}
    kind: str = next(name for name in ("int8", "fp16", "fp32") if name in precisions)
    if kind == "fp32" and {a.device, b.device} != {"cpu"}:
        kind = "fp32 off the CPU"
    gates = [GATES[kind]]
    if a.spec.resize != b.spec.resize:
        gates.append(GATES["resize in the graph"])
    loosest: dict[str, Any] = {}
    for field in fields(Gate):
        bounds = [getattr(gate, field.name) for gate in gates]
        given = [bound for bound in bounds if bound is not None]
        if field.name == "agreement":  # without one, no answer may change that A is sure of
            loosest[field.name] = min(given, default=None)
        else:
            loosest[field.name] = None if len(given) < len(bounds) else (min if field.name == "cosine" else max)(given)
    return Gate(**loosest)


def manifest_differences(a: ModelSpec, b: ModelSpec) -> list[str]:
    """Differences of two manifests that change what a user sees, a line each."""
    lines = label_differences(a, b)
    if a.task != b.task:
        lines.append(f"the task is {a.task} in A, {b.task} in B, so the probabilities are others")
    if a.temperature != b.temperature:
        lines += [f"the temperature is {a.temperature:g} in A, {b.temperature:g} in B, so the probabilities are others"]
    return lines + preprocessing_differences(a, b)


def label_differences(a: ModelSpec, b: ModelSpec) -> list[str]:
    """The first label that differs, and the first id where both have ids."""
    lines = _first_difference("label", a.labels, b.labels)
    if not lines and a.label_ids is not None and b.label_ids is not None:
        lines = _first_difference("label id", a.label_ids, b.label_ids)
    return lines


def preprocessing_differences(a: ModelSpec, b: ModelSpec) -> list[str]:
    """What is done otherwise with a picture on its way to the network.

    That the one is resized by its graph and the other before it is no difference here, nor another layout, type or
    order of colors of the same pixels; what that costs shows in the answers.
    """
    pairs: list[tuple[str, object, object]] = [
        ("input size", a.input.size, b.input.size),
        ("crop mode", a.crop_mode, b.crop_mode),
        ("crop_pct", a.crop_pct, b.crop_pct),
        ("interpolation", a.interpolation, b.interpolation),
    ]
    if (a.input.dtype == "uint8") == (b.input.dtype == "uint8"):  # else one may normalize inside, the other outside
        for name in ("mean", "std"):
            # One number for all channels, or one each.
            of_a, of_b = ((getattr(spec.input, name) * 3)[:3] for spec in (a, b))
            pairs.append((name, of_a, of_b))
    return [f"the {name} is {_text(one)} in A, {_text(other)} in B" for name, one, other in pairs if one != other]


def _first_difference(kind: str, a: Sequence[str], b: Sequence[str]) -> list[str]:
    differing = [i for i, (one, other) in enumerate(zip_longest(a, b)) if one != other]
    if not differing:
        return []
    first = differing[0]
    one, other = (short_repr(names[first]) if first < len(names) else "none" for names in (a, b))
    more = f"; {len(differing):,} differ" if len(differing) > 1 else ""
    return [f"{kind} {first} is {one} in A, {other} in B{more}"]


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(f"{number:g}" for number in value) + ")"
    return f"{value:g}" if isinstance(value, float) else str(value)
