"""Classifier: a model file, ready to answer."""

import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Self, cast, overload

import numpy as np
from numpy.typing import NDArray

from visiontool import runtime
from visiontool.data.loader import DEFAULT_OPTIONS, LoadOptions, StageTimes, batches, load, map_ahead
from visiontool.data.prepare import Prepared, Recipe
from visiontool.errors import ModelError, PictureError, UsageError
from visiontool.files import IN_MEMORY
from visiontool.hub import resolve
from visiontool.images import transforms
from visiontool.images.decode import DEFAULT_LIMITS, ImageSource, Limits, is_picture, listed
from visiontool.images.transforms import VIEWS, Tta
from visiontool.inference.network import Network, sigmoid, softmax, with_activation
from visiontool.inference.result import Answer, Result, result_of
from visiontool.model.class_names import find_classes
from visiontool.model.spec import MANIFEST_KEY, CropMode, ModelSpec
from visiontool.text import on_one_line, plural

if TYPE_CHECKING:
    from visiontool.model.foreign import Description

DEFAULT_BATCH_SIZE = 8
_MOST_AT_ONCE = 64  # pictures in all runs together, unless asked for: each takes memory for its activations


class Classifier:
    """An opened model.

    Args:
        model: path of an .onnx file, a folder with a model.onnx, or a name; None for the default model.
        device: "auto", "cpu", "cuda" or "cuda:N".
        provider: "cpu", "cuda", "tensorrt" or another of onnxruntime's, that or an error; None for what suits the
            device (docs/gpu.md).
        threads: of one batch on the CPU; 0 for all physical cores. `predict_stream` runs as many batches at once as
            there are cores for them: 1 is the best for many pictures, 0 for few.
        crop_mode: instead of the model's own.
        description: what the manifest of a file from another tool would say.
        limits: above which a picture is not decoded.
        engine_batch: the largest batch that TensorRT builds its engine for (docs/gpu.md).
        among: labels or label ids of the classes that compete; None for all.

    Attributes:
        device: what it runs on, "cpu", "cuda:N", or another provider's name.
        provider: onnxruntime's provider that runs it, by its short name: "cpu", "cuda", "tensorrt" ...
        passed_over: why the GPU that is there is not used, where any device would do.
        runs_at_once: the batches at the same time that fill the machine.
        fixed_batch: the batch size of the graph; None for any.
        assumed: for a file from another tool, or one exported from it, what neither the file nor the caller gives.
        competing: the class ids that a result may have, in order.

    Raises:
        ModelError: no such model, or a file that is broken, unsafe or lacks what is needed.
        DeviceError: the device or the provider cannot be used.
        UsageError: arguments that contradict each other or the file.
    """

    _members: "tuple[Classifier, ...]" = ()  # of an ensemble

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        device: str = "auto",
        provider: str | None = None,
        threads: int = 0,
        crop_mode: CropMode | None = None,
        description: "Description | None" = None,
        limits: Limits = DEFAULT_LIMITS,
        engine_batch: int | None = None,
        among: Sequence[str] | None = None,
    ) -> None:
        if crop_mode is not None and crop_mode not in transforms.CROP_MODES:
            raise UsageError(f"crop_mode {crop_mode!r} is none of {', '.join(transforms.CROP_MODES)}")
        on: dict[str, Any] = {"device": device, "provider": provider, "threads": threads, "engine_batch": engine_batch}
        path = resolve.resolve(model)
        content = IN_MEMORY.get(path)
        opened = runtime.open_model(path, **on, content=content)
        manifest = opened.scan.metadata.get(MANIFEST_KEY)
        assumed: tuple[str, ...] = ()
        if manifest is None:
            from visiontool.model.foreign import describe

            spec, assumed = describe(path, opened.scan, opened.inputs, opened.outputs, description, crop_mode)
            spec = with_activation(opened, spec, description)
        elif description is not None and (options := description.options()):
            raise UsageError(f"{path}: the file says this of itself; leave out {', '.join(options)}")
        try:
            if manifest is not None:
                spec = ModelSpec.from_json(manifest)
                assumed = tuple(text for text in spec.assumed if crop_mode is None or text != spec.crop_mode)
            spec.check_graph(opened.inputs, opened.outputs, opened.scan.final_operators)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None
        if crop_mode not in (None, spec.crop_mode) and spec.resize == "graph":
            raise UsageError(
                f"{path}: resizes pictures itself, with crop mode {spec.crop_mode}. For another take the model that it "
                f"was made from: -m {spec.name} --crop-mode {crop_mode}"
            )
        spec = replace(spec, crop_mode=crop_mode) if crop_mode else spec
        again = model if content else os.path.abspath(path)
        others = {"crop_mode": crop_mode, "description": description, "limits": limits, "among": among}
        self._use(opened, spec, assumed, {"model": again, **on, **others})

    @classmethod
    def load(cls, model: str | os.PathLike[str] | None = None, **arguments: Any) -> Self:
        """The same as `Classifier(model, ...)`."""
        return cls(model, **arguments)

    @classmethod
    def of(cls, opened: runtime.OpenModel, spec: ModelSpec, *, threads: int = 0) -> Self:
        """A classifier of a model that was opened before, used as `spec` says, whatever its file says."""
        classifier = cls.__new__(cls)
        classifier._use(opened, spec, (), {"threads": threads})
        return classifier

    def _use(
        self, opened: runtime.OpenModel, spec: ModelSpec, assumed: tuple[str, ...], arguments: dict[str, Any]
    ) -> None:
        self.path = opened.path
        self.spec = spec
        self.device = opened.device
        self.provider = opened.provider
        self.passed_over = opened.passed_over
        self.threads: int = arguments.get("threads", 0)
        self.assumed = assumed
        self._opened = opened
        self._network = Network(opened, spec, self.threads)
        self.runs_at_once = self._network.runs_at_once
        self.fixed_batch = self._network.fixed_batch
        self._recipe = Recipe.of(spec, arguments.get("limits", DEFAULT_LIMITS))
        self._arguments = arguments  # to make it again
        among: Sequence[str] | None = arguments.get("among")
        if among is not None and spec.decisions.thresholds and spec.task == "classify":
            raise UsageError(
                f"{spec.name}: its thresholds hold where all classes compete, and --among leaves some out.\n"
                "Take the model that it was made from."
            )
        every = np.arange(len(spec.labels))
        self.competing = every if among is None else np.array(find_classes(among, spec))
        self._added = np.where(np.isin(every, self.competing), 0, -np.inf)  # to logits: the others get 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as the path of the model file and the arguments, with which it is opened again."""
        if self._arguments.keys() == {"threads"}:
            raise TypeError("a Classifier that Classifier.of made cannot be pickled or copied")
        return partial(type(self), **self._arguments), ()

    def __repr__(self) -> str:
        height, width = self.spec.input.size
        classes = plural(len(self.spec.labels), "class")
        name = f"{type(self).__name__} {on_one_line(self.spec.name)}"
        return f"<{name}: {classes}, {width}x{height} pixels, on {self.device}>"

    @property
    def members(self) -> "Sequence[Classifier]":
        """The models that answer together; of a classifier itself alone."""
        return self._members or (self,)

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
        if not is_picture(images):
            return list(self.predict_stream(cast(Iterable[ImageSource], images), **options, isolate=None))
        self._check(**options)
        (answer,) = self.answers([images], LoadOptions(timeout=None))
        result = result_of(answer, self.spec, self.competing, **options)
        if answer.pixels is None:
            return result
        from visiontool.inference.html import thumbnail

        return replace(result, thumbnail=thumbnail(answer.pixels))

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
        isolate: bool | None = False,
        times: StageTimes | None = None,
    ) -> Generator[Result, None, None]:
        """`predict` for any number of pictures: yields the results of a batch as soon as it is done.

        Pictures are taken from `images` ahead of the network, at most batch_size * 2 * (`runs_at_once` + 1) + workers
        of them. A picture that comes as an object may be used again for the next one, but for an `Ensemble`.

        Args:
            top_k: classes in a result, at most as many as compete.
            min_probability: below it, or below the threshold that the manifest has for its class, a result is marked
                `unknown`, or of several labels a picture, one is not given.
            sets: gives each result its `label_set`.
            batch_size: None for what suits the network.
            workers: files opened at the same time; None for one a core.
            timeout: seconds for opening a file, then it is an error.
            isolate: opens JPEG, PNG, WebP and BMP in worker processes too, as all other formats: what hangs, crashes or
                takes too much memory costs one result. Worth its start for more than about a hundred pictures; None
                does so for a list of more than 64.
            times: is added to.

        Raises:
            UsageError: a number out of range, one picture where a list of pictures is expected, or `sets` of a model
                without quantiles.
            VisiontoolError: no process could be started to open a file in.
        """
        self._check(top_k, min_probability, sets)
        answers = self.answers(images, LoadOptions(DEFAULT_LIMITS, workers, timeout, batch_size, isolate), times=times)

        def results() -> Generator[Result, None, None]:
            with closing(answers):
                for answer in answers:
                    yield result_of(answer, self.spec, self.competing, top_k, min_probability, sets)

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
        if tta is not None and self.spec.resize == "graph":
            raise UsageError(f"{self.path}: resizes pictures itself (export --embed-resize); leave out --tta")
        batch_size = self.batch_size(options.batch_size)
        if batch_size < 1 or (options.workers is not None and options.workers < 1):
            raise UsageError("batch_size and workers must be at least 1")
        if options.timeout is not None and not options.timeout > 0:
            raise UsageError(f"timeout must be above 0 seconds, not {options.timeout}")
        views = VIEWS[tta] if tta else 1
        batch_size = max(1, batch_size // views)
        recipe = self._recipe._replace(tta=tta, fingerprint=fingerprints)
        items = load(listed(images), recipe, options, ahead=batch_size * (1 + self.runs_at_once))
        return self._answers(items, batch_size, views, times or StageTimes())

    def _answers(
        self, items: Generator[Prepared, None, None], batch_size: int, views: int, times: StageTimes
    ) -> Generator[Answer, None, None]:
        with closing(items):  # now, and not when the last reference goes: an exception of the network holds on to it
            grouped = batches(items, batch_size)
            first = next(grouped, [])
            pad_to = len(first) * views

            def logits_of(batch: list[Prepared]) -> Sequence[NDArray[np.float32]]:
                readable = [item for item in batch if item.pixels is not None]
                return list(self._network.outputs_of(readable, self.spec.logits, pad_to)) if readable else []

            # While a GPU runs, the processor puts the next batch together.
            at_once = self.runs_at_once + (self._opened.bound is not None)
            for batch, logits in map_ahead(logits_of, chain([first], grouped), at_once, times):
                rows = iter(logits)
                for item in batch:
                    times.decode_s += item.decode_s
                    times.preprocess_s += item.fit_s
                    row, error, probabilities = next(rows) if item.error is None else None, item.error, None
                    if row is not None and not np.isfinite(row).all():
                        error = "the network's answer is not a number"
                    elif row is not None:
                        of_views = self.probabilities(row)
                        probabilities = of_views if views == 1 else of_views.mean(axis=0)
                    pixels = item.pixels if item.path is None else None
                    yield Answer(item.path, probabilities, error, item.fingerprint, item.notes, pixels)

    def batch_size(self, asked: int | None) -> int:
        """`asked`; for None 8, fewer where many run at once, more on a GPU, 1 where the graph resizes pictures."""
        if asked is not None:
            return asked
        if self.spec.resize == "graph":
            return 1
        if self._opened.bound is not None:
            from visiontool.runtime.gpu import usual_batch

            return usual_batch(self.spec.input.size)
        return max(1, min(DEFAULT_BATCH_SIZE, _MOST_AT_ONCE // self.runs_at_once))

    def assignment(self) -> dict[str, int]:
        """How many nodes of the graph, as onnxruntime runs it, each provider has; the most first."""
        return runtime.assignment(self._opened)

    def logits(self, images: Iterable[ImageSource]) -> NDArray[np.float32]:
        """(N, C), before temperature and softmax.

        Raises:
            PictureError: a picture cannot be read.
        """
        return self._outputs_of(images, self.spec.logits)

    def embed(self, images: Iterable[ImageSource]) -> NDArray[np.float32]:
        """The input of the network's last layer, (N, D).

        Raises:
            ModelError: the model file has no embedding output.
            PictureError: a picture cannot be read.
        """
        return self._outputs_of(images, self.embedding_output())

    def embedding_output(self) -> str:
        """The name of the graph's output that gives embeddings; raises ModelError where there is none."""
        if self.spec.embedding is None:
            raise ModelError(
                f"{self.spec.name}: the file has no embedding output, the input of the last layer.\n"
                "Take a network that has one, as every name in the list of visiontool models has."
            )
        return self.spec.embedding

    def embedding_width(self) -> int:
        """D, the length of an embedding."""
        return self.embed([np.zeros((8, 8, 3), np.uint8)]).size

    def outputs(self, pixels: NDArray[np.uint8], output: str, *, pad_to: int | None = None) -> NDArray[np.float32]:
        """One output of the graph for pixels (N, H, W, 3) uint8; H and W are the graph's, or any where it resizes.

        Raises:
            ModelError: the output has not the shape of the manifest, or onnxruntime cannot run the graph.
            UsageError: `pixels` are of another type or size.
        """
        return self._network.outputs(pixels, output, pad_to=pad_to)

    def probabilities(self, logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Of (..., C) logits, at the model's temperature; 0 for classes that do not compete."""
        values = logits.astype(np.float64)
        if self.spec.activation == "softmax":  # the graph gives probabilities already
            values = np.log(np.maximum(values, 1e-30))
        values += self._added
        return softmax(values, self.spec.temperature) if self.spec.task == "classify" else sigmoid(values)

    def _outputs_of(self, images: Iterable[ImageSource], output: str) -> NDArray[np.float32]:
        chunks: list[NDArray[np.float32]] = []
        size = self.batch_size(None)
        options = LoadOptions(timeout=None, isolate=False)
        with closing(load(listed(images), self._recipe, options, ahead=size)) as items:
            for batch in batches(items, size):
                for item in batch:
                    if item.error is not None:
                        raise PictureError(f"{item.path or 'picture'}: {item.error}")
                chunks.append(self._network.outputs_of(batch, output, pad_to=size if chunks else None))
        if chunks:
            return np.concatenate(chunks)
        shape = next(port.shape for port in self._opened.outputs if port.name == output)
        return np.zeros((0, shape[1] if isinstance(shape[1], int) else 0), np.float32)
