"""Ensemble: several models that answer together, and the small JSON file that says how (docs/model-file.md)."""

import json
import os
from collections.abc import Generator, Iterable, Sequence, Sized
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import tee
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from visiontool.data.loader import DEFAULT_OPTIONS, LoadOptions
from visiontool.errors import ConversionError, ModelError
from visiontool.files import MODEL_FILE, cache_root, model_sha256, write_file
from visiontool.hub import resolve
from visiontool.images.decode import ImageSource, listed
from visiontool.inference.classifier import Classifier
from visiontool.inference.network import softmax
from visiontool.inference.result import Answer
from visiontool.model.class_names import read_text
from visiontool.model.spec import MANIFEST_KEY, SCHEMA, UNDECIDED, Decisions, JsonFields, ModelSpec
from visiontool.text import some

Kind = Literal["average", "vote", "weighted", "stacking", "greedy"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SUFFIX = ".json"
LEAST = 1e-30  # a member's probability is taken for this at least, since logarithms follow
STACKED_LEAST = 1e-12  # for stacking, where a larger logarithm would outweigh all others
TIE = 1e-3  # weight of the mean probability beside the votes, which orders equal ones; float32 must still hold it
_MAX_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Combination:
    """How the probabilities of members become those of the ensemble."""

    kind: Kind
    weights: tuple[float, ...]  # (M,), which add up to 1; equal but for "weighted" and "greedy"
    # For stacking: coefficients (C, M * C) of the logarithms of the members' probabilities, and intercept (C,).
    stacker: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def logits(self, probabilities: Sequence[NDArray[np.floating[Any]]]) -> NDArray[np.float64]:
        """(..., C), the logarithms of the ensemble's probabilities, of the members' (..., C); all in one order."""
        given = np.stack(probabilities).astype(np.float64)
        if self.stacker is not None:
            features = np.concatenate([*np.log(np.maximum(given, STACKED_LEAST))], axis=-1)
            together = softmax(features @ self.stacker[0].T + self.stacker[1], 1.0)
        else:
            together = np.tensordot(self.weights, given, 1)
        if self.kind == "vote":
            votes = (np.arange(given.shape[-1]) == given.argmax(axis=-1)[..., None]).mean(axis=0)
            together = (votes + TIE * together) / (1 + TIE)
        return np.log(np.maximum(together, LEAST))


class Ensemble(Classifier):
    """Several models that answer together. Each prepares pictures as its own manifest says.

    Its device, provider and preprocessing are those of the first.

    Args:
        members: those whose weight is 0 are left out.
        among: as of `Classifier`.

    Raises:
        ModelError: the members know different classes.
    """

    def __init__(
        self,
        members: Sequence[Classifier],
        combination: Combination,
        name: str,
        *,
        path: Path | None = None,
        decisions: Decisions = UNDECIDED,
        among: Sequence[str] | None = None,
    ) -> None:
        kept = [pair for pair in zip(members, combination.weights, strict=True) if pair[1] > 0]
        self._members, weights = zip(*kept, strict=True)
        self.combination = replace(combination, weights=weights)
        first = self._members[0]
        self._columns = [columns_of(first.spec, member.spec) for member in self._members]
        shared = ("labels", "label_ids", "input", "crop_mode", "crop_pct", "interpolation", "resize")
        spec = ModelSpec(name=name, decisions=decisions, **{key: getattr(first.spec, key) for key in shared})
        assumed = tuple(dict.fromkeys(text for member in self._members for text in member.assumed))
        given = {"members": members, "combination": combination, "name": name, "path": path, "decisions": decisions}
        self._use(first._opened, spec, assumed, {**given, "among": among})
        self.path = path or Path(name)

    @classmethod
    def load(cls, model: str | os.PathLike[str] | None = None, **arguments: Any) -> Self:
        """The ensemble of a JSON file; `arguments` are those of `Classifier`, all but `among` for each member.

        Raises:
            ModelError: the file or a member is broken, missing, or not the one that the file was made for.
        """
        among, path = arguments.pop("among", None), Path(os.path.abspath(model or ""))
        fields = JsonFields.parse(read_text(path, _MAX_BYTES), str(path))
        kind, name = fields.choice("kind", KINDS), fields.text("name")
        entries = [JsonFields(entry, str(path), "members.") for entry in fields.list_of_facts("members")]
        if not entries:
            raise ModelError(f"{path}: 'members' must be a list of at least one model")
        members = [Classifier(_member(path, entry), **arguments) for entry in entries]
        count, classes, stacker = len(members), len(members[0].spec.labels), None
        given = fields.numbers("weights", 1e-6, 1, (count,)) if "weights" in fields else (1.0,) * count
        if kind == "stacking":
            flat = fields.numbers("coefficients", -1e6, 1e6, (classes * count * classes,))
            intercept = fields.numbers("intercept", -1e6, 1e6, (classes,))
            stacker = np.reshape(flat, (classes, -1)), np.array(intercept)
        combination = Combination(kind, tuple(weight / sum(given) for weight in given), stacker)
        return cls(members, combination, name, path=path, decisions=Decisions.read(fields, classes), among=among)

    def save(self, target: Path, decisions: Decisions | None = None) -> None:
        """Writes the JSON file; `decisions` instead of its own.

        Raises:
            ModelError: the file of a member does not say all that its classifier was told.
            ConversionError: it cannot be written.
        """
        combination = self.combination
        document: dict[str, Any] = {"schema": SCHEMA, "kind": combination.kind, "name": self.spec.name}
        document |= {"members": [_entry(each, target) for each in self.members], "weights": combination.weights}
        if combination.stacker is not None:
            document["coefficients"] = [float(f"{value:.7g}") for value in combination.stacker[0].ravel()]
            document["intercept"] = combination.stacker[1].tolist()
        if decided := (decisions or self.spec.decisions).to_json():
            document["decisions"] = decided
        try:
            write_file(target, json.dumps(document, ensure_ascii=False) + "\n")
        except OSError as error:
            raise ConversionError(f"{target}: cannot be written: {error.strerror}") from None

    def answers(
        self, images: Iterable[ImageSource], options: LoadOptions = DEFAULT_OPTIONS, **arguments: Any
    ) -> Generator[Answer, None, None]:
        count = len(self.members)
        copies = [images] * count if isinstance(images, Sized) else tee(images, count)
        streams = [each.answers(copy, options, **arguments) for each, copy in zip(self.members, copies, strict=True)]

        def answers() -> Generator[Answer, None, None]:
            with ExitStack() as stack:
                for stream in streams:
                    stack.enter_context(closing(stream))
                for each in zip(*streams, strict=True):
                    given = [answer.probabilities for answer in each if answer.probabilities is not None]
                    of_all = self.probabilities(self._logits(given)) if len(given) == count else None
                    yield next((one for one in each if one.error), each[0])._replace(probabilities=of_all)

        return answers()

    def logits(self, images: Iterable[ImageSource]) -> NDArray[np.float32]:
        pictures = [*listed(images)]
        given = [each.probabilities(each.logits(pictures)) for each in self.members]
        return self._logits(given).astype(np.float32)

    def outputs(self, pixels: NDArray[np.uint8], output: str, *, pad_to: int | None = None) -> NDArray[np.float32]:
        """The logits for pixels that are prepared alike for all members: the logarithms of its probabilities."""
        given = [each.probabilities(each.outputs(pixels, each.spec.logits, pad_to=pad_to)) for each in self.members]
        return self._logits(given).astype(np.float32)

    def _logits(self, given: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        return self.combination.logits([each[..., order] for each, order in zip(given, self._columns, strict=True)])


def load(model: str | os.PathLike[str] | None = None, **arguments: Any) -> Classifier:
    """A `Classifier`, or the `Ensemble` of a JSON file."""
    if model is not None and os.fspath(model).lower().endswith(SUFFIX) and os.path.isfile(model):
        return Ensemble.load(model, **arguments)
    return Classifier(model, **arguments)


def columns_of(first: ModelSpec, other: ModelSpec) -> NDArray[np.intp]:
    """The class ids of `other` in the order of the classes of `first`: by label ids where both have them, else labels.

    Raises:
        ModelError: they do not know the same classes.
    """
    for names, others in ((first.label_ids, other.label_ids), (first.labels, other.labels)):
        if names and others and len(set(names)) == len(names) and sorted(names) == sorted(others):
            places = {name: index for index, name in enumerate(others)}
            return np.array([places[name] for name in names], np.intp)
    differing = sorted({*first.labels} ^ {*other.labels})
    raise ModelError(
        f"{first.name} and {other.name} cannot answer together: only one of them knows {some(differing)}.\n"
        "The models of an ensemble must have the same classes."
    )


def _member(file: Path, entry: JsonFields) -> str | Path:
    name = entry.text("model")
    path = file.parent / name
    if not path.is_file():
        if name.endswith(".onnx"):
            raise ModelError(f"{file}: there is no {path}, one of its models. Its path counts from the file's folder.")
        return name
    if "sha256" in entry and model_sha256(path) != entry.text("sha256"):
        raise ModelError(
            f"{path} is another file than the one that {file} was made with.\nMake it again: visiontool evaluate"
        )
    return path


def _entry(member: Classifier, target: Path) -> dict[str, str]:
    """What the file says of a member: a name that stands for it everywhere, or its path from the file, and hash."""
    manifest = member._opened.scan.metadata.get(MANIFEST_KEY)
    if manifest is None or ModelSpec.from_json(manifest) != member.spec:
        raise ModelError(
            f"{member.path}: the ensemble would open it without the options that you gave for it.\n"
            f"Write a file that has them inside: visiontool export {member.path}"
        )
    path = Path(os.path.realpath(member.path))
    homes = [Path(os.path.realpath(home)) for home in (cache_root() / "models", resolve.weights_folder())]
    if path.name == MODEL_FILE and path.parent.parent in homes:
        return {"model": path.parent.name}
    relative = os.path.relpath(path, os.path.realpath(target.parent))
    return {"model": Path(relative).as_posix(), "sha256": model_sha256(path)}
