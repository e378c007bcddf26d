"""How far two models may differ that should answer alike, by what they are.

A bound is about what cannot be helped (the rounding of a number type), with room for another processor; it is not a
wish. Each has its source beside it. docs/verify.md shows the same table, and a test compares the two.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visiontool.inference.classifier import Classifier

MANY = 200
"""Pictures from which on a share of them says something: of fewer, one that changes its answer is half a point."""
FEW_CHANGED = 1
"""Answers that may change among fewer pictures than `MANY`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What B may differ by from A; None where nothing is asked.

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
    # Torch and onnxruntime are asked for the first two whenever a network is converted (`training.parity`); two files
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


def gate_for(a: "Classifier", b: "Classifier") -> Gate:
    """The gate for B, to be judged by A: of all that they are, what may differ most counts."""
    kinds = [_precision(a, b)]
    if a.spec.resize != b.spec.resize:
        kinds.append("resize in the graph")
    return _loosest([GATES[kind] for kind in kinds])


def _precision(a: "Classifier", b: "Classifier") -> str:
    precisions = {a.spec.precision, b.spec.precision}
    lowest = next(name for name in ("int8", "fp16", "fp32") if name in precisions)
    return "fp32 off the CPU" if lowest == "fp32" and {a.device, b.device} != {"cpu"} else lowest


def _loosest(gates: list[Gate]) -> Gate:
    """Of each bound the one that lets most pass."""
    values: dict[str, Any] = {}
    for field in fields(Gate):
        bounds = [getattr(gate, field.name) for gate in gates]
        asked = [bound for bound in bounds if bound is not None]
        if field.name == "agreement":  # where none is named, no answer may change that A is sure of
            values[field.name] = min(asked, default=None)
        else:
            values[field.name] = None if len(asked) < len(bounds) else (min if field.name == "cosine" else max)(asked)
    return Gate(**values)
