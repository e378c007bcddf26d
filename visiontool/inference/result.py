"""The answer for a picture."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class of an answer."""

    label: str
    index: int
    probability: float
    label_id: str | None = None  # WordNet id where the model has them


@dataclass(frozen=True, slots=True)
class Result:
    """The answer for one picture, or why there is none: each input has exactly one."""

    path: str | None  # as it was given; None for a picture that came as an object
    model: str
    predictions: tuple[Prediction, ...] = ()  # most probable first; empty where there is an error
    unknown: bool = False  # the best probability is below the minimum that was asked for
    error: str | None = None
    notes: tuple[str, ...] = ()  # what was done to the picture that one should know, e.g. "first frame of several"

    @property
    def status(self) -> Literal["ok", "error"]:
        """ "ok" or "error"."""
        return "ok" if self.error is None else "error"
