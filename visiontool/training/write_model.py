"""The model of a run: written behind the same backbone, opened again as users open it, and compared."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visiontool._version import __version__
from visiontool.errors import ConversionError
from visiontool.graph.head import with_head
from visiontool.images.decode import Limits
from visiontool.inference.classifier import Classifier
from visiontool.model.spec import ModelSpec
from visiontool.training.embed_dataset import Embedded
from visiontool.training.head import Head

MODEL_FILE = "model.onnx"

_CHECKED = 16  # pictures
_TOLERANCE = 1e-4  # of the largest logit
_LEAST = 1e-2  # taken for the largest logit where all are smaller: where nothing tells the classes apart, all are zero


def write_model(
    folder: Path,
    base: Classifier,
    spec: ModelSpec,
    seen: Embedded,
    judged: NDArray[np.intp],
    head: Head,
    limits: Limits,
) -> ModelSpec:
    """Writes the model of the run.

    Args:
        base: the model with the backbone.
        spec: what the new one says of itself; temperature, tools and parity are filled in here.
        judged: indices of pictures to compare the file on.

    Returns:
        The spec as written.

    Raises:
        ConversionError: the file gives other logits than the head on the embeddings it was solved with.
    """
    some = judged[np.linspace(0, len(judged) - 1, min(_CHECKED, len(judged)), dtype=np.intp)]
    spec = replace(
        spec,
        temperature=head.temperature,
        tools={**base.spec.tools, "visiontool": __version__},
        parity={
            "reference": "the head on embeddings of the backbone",
            "pictures": len(some),
            "allowed_relative": _TOLERANCE,
        },
    )
    file = folder / MODEL_FILE
    spec = with_head(base.path, file, head.weight, head.bias, spec)
    written = Classifier.load(file, device=base.device, provider=base.provider, limits=limits)
    logits = written.logits([seen.data.samples[index].path for index in some.tolist()])
    expected = seen.embeddings[some, 0] @ head.weight.T + head.bias
    difference = float(np.abs(logits - expected).max() / max(np.abs(expected).max(), _LEAST))
    if not difference <= _TOLERANCE:
        file.unlink()
        raise ConversionError(
            f"{file}: gives other logits than its head on the embeddings, by {difference:.1e} of the largest.\n"
            f"Allowed are {_TOLERANCE:.0e}. Please report it, with the name of the model ({base.spec.name})."
        )
    return spec
