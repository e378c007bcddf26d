"""Which parts of a picture speak for a class, and which against it."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visiontool import runtime
from visiontool.data.loader import DEFAULT_OPTIONS, LoadOptions, batches, load
from visiontool.data.prepare import Recipe
from visiontool.errors import ModelError, PictureError, UsageError, missing_extra
from visiontool.files import on_disk
from visiontool.graph import cam, edit
from visiontool.graph.cost.layers import MapLayer, find_map
from visiontool.graph.cost.shaped_graph import ShapedGraph
from visiontool.hub.resolve import weights_in
from visiontool.images.decode import ImageSource, Limits
from visiontool.inference.classifier import Classifier

Method = Literal["auto", "cam", "occlusion", "gradcam"]
_CELLS = 14  # of occlusion's map, along each side
_MapOf = Callable[[NDArray[np.uint8], int, NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """A picture, and what each part of it adds to the logit of a class."""

    image: NDArray[np.uint8]  # (H, W, 3), as the network sees it
    map: NDArray[np.float32]  # (h, w) over all of it, in units of the logit; below 0 a place speaks against the class
    class_id: int
    label: str
    probability: float
    method: str  # "cam", "occlusion" or "gradcam"
    logit: float
    bias: float | None  # of "cam": the mean of the map plus the bias is the logit

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without the picture; with the names of a row of `predict`."""
        facts = {"label": self.label, "index": self.class_id, "probability": self.probability, "method": self.method}
        return facts | {"logit": self.logit, "bias": self.bias, "map": self.map.tolist()}


class Features(NamedTuple):
    """A picture, and what a layer makes of it."""

    image: NDArray[np.uint8]  # (H, W, 3), as the network sees it
    maps: NDArray[np.float32]  # (C, h, w), before the activation function
    layer: MapLayer

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without the numbers of the maps."""
        facts = {"layer": self.layer.layer.name, "kind": self.layer.layer.kind}
        return facts | {"shape": self.maps.shape, "box": self.layer.box}


class Explainer:
    """A classifier whose answers are explained, by `method`, with `passes` of the network for a picture.

    Args:
        method: "cam", exact class activation maps; "occlusion", what a patch of the picture's mean color takes from the
            log-odds; "gradcam", by the gradients in torch; "auto", "cam" where it is exact, else "occlusion".

    Raises:
        UsageError: the network has no exact maps.
        ModelError: what Grad-CAM needs is missing.
    """

    def __init__(self, classifier: Classifier, method: Method = "auto") -> None:
        spec = classifier.spec
        self._classifier, self._network = classifier, classifier
        self._head: cam.Head | None = None
        if method in ("auto", "cam"):
            self._head = cam.exact_head(ShapedGraph.read(on_disk(classifier.path), spec.input.size), spec)
        self._map_of: _MapOf = _grad_cam(classifier) if method == "gradcam" else self._occlusion
        if method == "cam" and self._head is None:
            raise UsageError(
                f"{spec.name} has no exact class activation map: more than a mean and a linear layer follow its last "
                "map.\nTake --method occlusion or gradcam."
            )
        self.method = "cam" if self._head else "occlusion" if method == "auto" else method
        self.passes = {"cam": 1, "gradcam": 2}.get(self.method, 1 + len(_patches(spec.input.size)))
        if self._head is not None and self._head.source != spec.feature_map:
            self._network = _giving(classifier, self._head.source)

    def explain(self, pixels: NDArray[np.uint8], class_id: int | None = None) -> Explanation:
        """Explains a picture (H, W, 3) as the network sees it; None for its most probable class."""
        spec, head = self._classifier.spec, self._head
        if head is not None:
            features = head.features(self._network.outputs(pixels[None], head.source))
            logits = head.linear(features.mean(axis=(0, 1))) + head.bias
        else:
            (logits,) = self._logits(pixels[None])
        chosen = int(logits.argmax()) if class_id is None else class_id
        return Explanation(
            image=pixels,
            map=self._map_of(pixels, chosen, logits) if head is None else head.linear(features, chosen),
            class_id=chosen,
            label=spec.labels[chosen],
            probability=float(self._classifier.probabilities(logits)[chosen]),
            method=self.method,
            logit=float(logits[chosen]),
            bias=None if head is None else float(head.bias[chosen]),
        )

    def _logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, C); of a graph that gives probabilities, their logarithms."""
        spec = self._classifier.spec
        values = self._classifier.outputs(pixels, spec.logits)
        return np.log(np.maximum(values, np.float32(1e-30))) if spec.activation == "softmax" else values

    def _occlusion(self, pixels: NDArray[np.uint8], class_id: int, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """By how much the log-odds of the class, `log(p / (1 - p))`, fall with each place covered.

        Source: Zeiler, Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 4.2.
        """
        rows = [logits[None]]
        for patches in batches(_patches(pixels.shape[:2]), self._classifier.batch_size(None)):
            covered = np.stack([pixels] * len(patches))
            for picture, patch in zip(covered, patches, strict=True):
                picture[patch] = pixels.mean(axis=(0, 1)).round()
            rows.append(self._logits(covered))
        values = np.concatenate(rows) / np.float32(self._classifier.spec.temperature)
        if self._classifier.spec.task == "multilabel":
            return np.asarray(values[0, class_id] - values[1:, class_id]).reshape(min(_CELLS, len(pixels)), -1)
        odds = values[:, class_id] - np.logaddexp.reduce(np.delete(values, class_id, axis=1), axis=1)
        return np.asarray(odds[0] - odds[1:]).reshape(min(_CELLS, len(pixels)), -1)


def explain(
    classifier: Classifier, picture: ImageSource, class_id: int | None = None, method: Method = "auto"
) -> Explanation:
    """Explains the answer for one picture, as `Explainer`; raises PictureError where it cannot be read."""
    return Explainer(classifier, method).explain(pixels_of(classifier, picture), class_id)


def maps(
    classifier: Classifier,
    paths: Sequence[ImageSource],
    class_ids: Sequence[int | None],
    options: LoadOptions = DEFAULT_OPTIONS,
) -> Generator[Explanation | None, None, None]:
    """The exact class activation maps of any number of pictures, in order, each for its class; one pass a picture.

    None for a picture that cannot be read. With the first one, UsageError where the network has no exact maps.
    """
    explainer = Explainer(classifier, "cam")
    with closing(load(paths, _recipe(classifier, options.limits), options)) as items:
        for item, class_id in zip(items, class_ids, strict=True):
            yield None if item.pixels is None else explainer.explain(item.pixels, class_id)


def pixels_of(classifier: Classifier, picture: ImageSource) -> NDArray[np.uint8]:
    """A picture as the network sees it, (H, W, 3); raises PictureError where it cannot be read."""
    (item,) = load([picture], _recipe(classifier, DEFAULT_OPTIONS.limits))
    if item.pixels is None:
        raise PictureError(f"{item.path or 'picture'}: {item.error}")
    return item.pixels


def _recipe(classifier: Classifier, limits: Limits) -> Recipe:
    if classifier.spec.resize == "graph":  # which part of the picture a map lies over is not known
        raise UsageError(f"{classifier.path}: resizes pictures itself (export --embed-resize). Take its source model.")
    return Recipe.of(classifier.spec, limits)


def features(classifier: Classifier, picture: ImageSource, layer: str) -> Features:
    """The maps of `layer`: its name in `models show --layers`, its line there from 1 on, or "first".

    Raises UsageError where it gives no map, and as `pixels_of`.
    """
    found, pixels = find_map(on_disk(classifier.path), classifier.spec, layer), pixels_of(classifier, picture)
    (values,) = _giving(classifier, found.value).outputs(pixels[None], found.value)
    return Features(image=pixels, maps=np.moveaxis(values, [axis - 1 for axis in found.axes], (1, 2)), layer=found)


def _giving(classifier: Classifier, value: str) -> Classifier:
    """The same network, on the CPU, whose `outputs` gives one value between its layers, and nothing else."""
    content = edit.giving(on_disk(classifier.path), value)
    return Classifier.of(runtime.open_model(classifier.path, device="cpu", content=content), classifier.spec)


def _grad_cam(classifier: Classifier) -> _MapOf:
    folder = on_disk(classifier.path).parent
    if not ((folder / "config.json").is_file() and weights_in(folder).is_file()):
        raise ModelError(
            f"{classifier.path}: Grad-CAM needs config.json and model.safetensors beside the file, as runs and pulled "
            "networks have them.\nWithout: --method occlusion."
        )
    try:
        from visiontool.pytorch.grad_cam import grad_cam
    except ImportError as error:
        raise ModelError(missing_extra("train,explain", "Grad-CAM")) from error
    map_of = grad_cam(folder, classifier.spec.input)
    return lambda pixels, class_id, _: map_of(pixels, class_id)


def _patches(size: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """The patches that cover each cell of a picture (H, W) and those beside it, row by row."""
    sides = []
    for side in size:
        edges = np.linspace(0, side, min(_CELLS, side) + 1).round().astype(int).tolist()
        sides.append([slice(edges[max(at - 1, 0)], edges[: at + 3][-1]) for at in range(len(edges) - 1)])
    return [(rows, columns) for rows in sides[0] for columns in sides[1]]
