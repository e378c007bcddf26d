"""Predictor: what answers for pictures, one model or several together; and how a result is made of probabilities."""

import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence, Sized
from contextlib import closing
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, cast, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visiontool.data.loader import DEFAULT_OPTIONS, FEW, LoadOptions, StageTimes
from visiontool.errors import UsageError
from visiontool.images.decode import ImageSource
from visiontool.images.transforms import Tta
from visiontool.inference.result import Answer, Prediction, Result
from visiontool.model.class_names import find_classes
from visiontool.model.spec import ModelSpec

if TYPE_CHECKING:
    from visiontool.inference.classifier import Classifier


class Predictor(ABC):
    """A `Classifier` or an `Ensemble`.

    Attributes:
        path: its file.
        spec: its manifest.
        device: what it runs on, "cpu", "cuda:N", or another provider's name.
        provider: onnxruntime's provider that runs it, by its short name: "cpu", "cuda", "tensorrt" ...
        passed_over: why the GPU that is there is not used, where any device would do.
        assumed: for a file from another tool, or one exported from it, what neither the file nor the caller gives.
        fixed_batch: the batch size of the graph; None for any.
        competing: the class ids that a result may have, in order; those of `among`, or all.
    """

    path: Path
    spec: ModelSpec
    device: str
    provider: str
    passed_over: str | None
    assumed: tuple[str, ...]
    fixed_batch: int | None
    competing: NDArray[np.intp]

    @property
    @abstractmethod
    def members(self) -> Sequence["Classifier"]:
        """The models that answer together; of a classifier itself alone."""

    @abstractmethod
    def answers(
        self,
        images: Iterable[ImageSource],
        options: LoadOptions = DEFAULT_OPTIONS,
        *,
        tta: Tta | None = None,
        fingerprints: bool = False,
        times: StageTimes | None = None,
    ) -> Generator[Answer, None, None]:
        """The probabilities of all classes for any number of pictures, in order; taken ahead as in `predict_stream`.

        Args:
            tta: views of each picture whose probabilities are averaged: "flip", it and its mirror; "crops", its center
                and corners.
            fingerprints: whether each answer has the picture's, to find copies.

        Raises:
            UsageError: as `predict_stream`; `tta` where the graph resizes pictures itself.
        """

    @abstractmethod
    def outputs(self, pixels: NDArray[np.uint8], output: str, *, pad_to: int | None = None) -> NDArray[np.float32]:
        """One output of the graph for pixels (N, H, W, 3) uint8; H and W are the graph's, or any where it resizes.

        Raises:
            ModelError: the output has not the shape of the manifest, or onnxruntime cannot run the graph.
            UsageError: `pixels` are of another type or size.
        """

    @abstractmethod
    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Of (..., C) logits, at the model's temperature; 0 for classes that do not compete."""

    @abstractmethod
    def batch_size(self, asked: int | None) -> int:
        """`asked`; for None 8, fewer where many run at once, more on a GPU, 1 where the graph resizes pictures."""

    @overload
    def predict(  # type: ignore[overload-overlap]
        self, images: ImageSource, *, top_k: int = 5, min_probability: float = 0.0, sets: bool = False
    ) -> Result: ...

    @overload
    def predict(
        self, images: Iterable[ImageSource], *, top_k: int = 5, min_probability: float = 0.0, sets: bool = False
    ) -> list[Result]: ...

    def predict(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        top_k: int = 5,
        min_probability: float = 0.0,
        sets: bool = False,
    ) -> Result | list[Result]:
        """Classifies a picture, or several: each is what `images.open_image` takes, a path, bytes, PIL picture, array.

        One picture gives its result, an iterable of them a list of results in order. A picture that cannot be read
        gives a result with an `error`. The result of one picture that came as an object keeps a thumbnail of a few kB,
        as the network sees the picture; no other keeps pixels.
        """
        options: dict[str, Any] = {"top_k": top_k, "min_probability": min_probability, "sets": sets}
        if is_picture(images):
            self._check(**options)
            (answer,) = self.answers([images], LoadOptions(timeout=None))
            result = self._result(answer, **options)
            if answer.pixels is not None:
                from visiontool.inference.html import thumbnail

                result = replace(result, thumbnail=thumbnail(answer.pixels))
            return result
        many = isinstance(images, Sized) and len(images) > FEW
        return list(self.predict_stream(cast(Iterable[ImageSource], images), **options, isolate=many))

    def predict_stream(
        self,
        images: Iterable[ImageSource],
        *,
        top_k: int = 5,
        min_probability: float = 0.0,
        sets: bool = False,
        batch_size: int | None = None,
        workers: int | None = None,
        timeout: float | None = None,
        isolate: bool = False,
        times: StageTimes | None = None,
    ) -> Generator[Result, None, None]:
        """`predict` for any number of pictures: yields the results of a batch as soon as it is done.

        Pictures are taken from `images` ahead of the network, at most batch_size * 2 * (`runs_at_once` + 1) + workers
        of them. A picture that comes as an object may be used again for the next one, but for an `Ensemble`.

        Args:
            top_k: classes in a result, at most as many as compete.
            min_probability: below it, or below the threshold that the manifest has for its class, a result is marked
                `unknown`.
            sets: gives each result its `label_set`.
            batch_size: None for what suits the network.
            workers: files opened at the same time; None for one a core.
            timeout: seconds for opening a file, then it is an error.
            isolate: opens JPEG, PNG, WebP and BMP in worker processes too, as all other formats: what hangs, crashes or
                takes too much memory costs one result. Worth its start for more than about a hundred pictures.
            times: is added to.

        Raises:
            UsageError: a number out of range, one picture where a list of pictures is expected, or `sets` of a model
                without quantiles.
            VisiontoolError: no process could be started to open a file in.
        """
        self._check(top_k, min_probability, sets)
        options = LoadOptions(workers=workers, timeout=timeout, isolate=isolate, batch_size=batch_size)
        answers = self.answers(images, options, times=times)

        def results() -> Generator[Result, None, None]:
            with closing(answers):
                for answer in answers:
                    yield self._result(answer, top_k, min_probability, sets)

        return results()

    def _check(self, top_k: int, min_probability: float, sets: bool) -> None:
        if top_k < 1:
            raise UsageError("top_k must be at least 1")
        if not 0.0 <= min_probability <= 1.0:
            raise UsageError(f"min_probability must be from 0 to 1, not {min_probability}")
        if sets and not self.spec.decisions.quantiles:
            raise UsageError(
                f"{self.spec.name} has no quantiles to make sets with (--sets). Pictures of known classes give them:\n"
                f"visiontool evaluate {self.path} DATA --conformal 0.95 -o FILE"
            )
        if sets and len(self.competing) < len(self.spec.labels):
            raise UsageError("--sets is for all classes of the model, and --among leaves some out; give one of the two")

    def _compete_among(self, names: Sequence[str] | None) -> None:
        """Restricts what a result may have to these labels or label ids; None for all. `spec` and `path` are there."""
        spec = self.spec
        self.competing = np.arange(len(spec.labels)) if names is None else np.array(find_classes(names, spec))
        if names is not None and spec.decisions.thresholds:
            raise UsageError(
                f"{self.path}: its thresholds hold where all classes compete, and --among leaves some out.\n"
                "Take the model that it was made from."
            )

    def _softmax(self, logits: NDArray[np.floating[Any]], temperature: float) -> NDArray[np.float64]:
        """`softmax` over the classes that compete; the others get 0."""
        if len(self.competing) == logits.shape[-1]:
            return softmax(logits, temperature)
        result = np.zeros(logits.shape)
        result[..., self.competing] = softmax(logits[..., self.competing], temperature)
        return result

    def _result(self, answer: Answer, top_k: int, min_probability: float, sets: bool) -> Result:
        spec, probabilities = self.spec, answer.probabilities
        if probabilities is None:
            return Result(answer.path, spec.name, error=answer.error, notes=answer.notes)
        order = self.competing[np.argsort(-probabilities[self.competing], kind="stable")]
        ids = spec.label_ids
        predictions = tuple(
            Prediction(spec.labels[i], i, float(probabilities[i]), ids[i] if ids else None)
            for i in order[:top_k].tolist()
        )
        thresholds, label_set = spec.decisions.thresholds, None
        least = max(min_probability, thresholds[order[0]]) if thresholds else min_probability
        if sets:
            is_in = 1 - probabilities <= np.array(spec.decisions.quantiles)
            label_set = tuple(spec.labels[i] for i in order[is_in[order]].tolist())
        unknown = predictions[0].probability < least
        return Result(answer.path, spec.name, predictions, unknown, notes=answer.notes, label_set=label_set)


def softmax(logits: NDArray[np.floating[Any]], temperature: float) -> NDArray[np.float64]:
    """The probabilities of (..., C) logits.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2 (temperature scaling).
    """
    values = logits.astype(np.float64) / temperature
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]


def is_picture(images: object) -> TypeGuard[ImageSource]:
    """Whether it is one picture, and not several. An array of four axes is several."""
    kinds = (str, os.PathLike, bytes, BytesIO, Image.Image)
    return isinstance(images, kinds) or (isinstance(images, np.ndarray) and images.ndim < 4)
