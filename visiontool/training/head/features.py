"""What a head sees of a picture: the embedding, perhaps with the outputs of earlier stages, as it is or transformed."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Transform = Literal["none", "power"]
_LEAST = 1e-12  # taken for the length of a vector of zeros


class Features(NamedTuple):
    """How features are made of the outputs of a backbone; `graph.head` writes the same as operators."""

    widths: tuple[int, ...]  # of the outputs that are used: the embedding, then those of stages, the last first
    transform: Transform = "none"

    @property
    def is_embedding(self) -> bool:
        """Whether they are the embedding as it is."""
        return len(self.widths) == 1 and self.transform == "none"

    def __str__(self) -> str:
        stages = "embedding" if len(self.widths) == 1 else f"outputs of {len(self.widths)} stages"
        return f"the {stages}" if self.transform == "none" else f"the {self.transform}-transformed {stages}"

    def of(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """(..., F) of outputs (..., D), of which those of further stages are left out.

        "power" takes signed square roots and then gives each output of the network a length of 1.

        Source: Hu et al. 2021, "Leveraging the feature distribution in transfer-based few-shot learning" (PT-MAP),
            arXiv:2006.03806, section 3.1, with an exponent of 1/2.
        """
        used = outputs[..., : sum(self.widths)]
        if self.transform == "none":
            return used
        parts = np.split(np.sign(used) * np.sqrt(np.abs(used)), np.cumsum(self.widths)[:-1], axis=-1)
        lengths = (np.linalg.norm(part, axis=-1, keepdims=True) for part in parts)
        return np.concatenate(
            [part / np.maximum(length, _LEAST) for part, length in zip(parts, lengths, strict=True)], axis=-1
        )


def candidates(widths: tuple[int, ...], transform: Transform | None, stages: int | None) -> list[Features]:
    """The features to choose from, where None leaves it open, those of fewer stages first.

    Outputs of several stages as they are were never better than transformed ones: their scales differ.
    """
    counts = range(1, len(widths) + 1) if stages is None else (stages,)
    found = [Features(widths[:count], transform or "power") for count in counts]
    return [Features(widths[:1]), *found] if transform is None and counts[0] == 1 else found
