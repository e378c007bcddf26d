"""The settings of a run, and the file of them that lets it be made again."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from visiontool.errors import DataError, UsageError
from visiontool.files import MODEL_FILE
from visiontool.hub.resolve import FOLDER
from visiontool.images.augment import LEVELS, Augment
from visiontool.images.transforms import CROP_MODES
from visiontool.model.spec import CropMode
from visiontool.training.head import Balance

SETTINGS_FILE = "settings.json"
SCHEMA = 1

OnBad = Literal["fail", "skip"]

_RANGES = {  # whole numbers and shares; None is allowed where it is the default
    "val_share": (0.01, 0.9),
    "views": (1, 64),
    "few": (1, 10**6),
    "folds": (2, 100),
    "seed": (0, 2**32 - 1),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "on_bad": get_args(OnBad),
    "balance": get_args(Balance),
    "crop_mode": CROP_MODES,
}
_PATHS = ("data", "labels_file", "splits_file")
_FIELDS = {"labels": "labels_file", "splits": "splits_file", "val_split": "val_share"}  # of options with other names
_CHANGES = tuple(field.name for field in fields(Augment))

AnyPath = str | os.PathLike[str]


def judge_of(folds: int | None) -> str:
    """What judges a run: "val" or "5 folds"."""
    return "val" if folds is None else f"{folds} folds"


class Options(TypedDict, total=False):
    """The options of `visiontool finetune` that decide the result; None is as good as left out."""

    model: AnyPath | None  # whose backbone
    labels: AnyPath | None
    splits: AnyPath | None
    val_split: float | None
    group: str | None
    on_bad: OnBad | None
    augment: Literal["none", "light", "medium", "heavy"] | None
    views: int | None
    mirror: bool | None  # this and the next change what `augment` says
    crop: float | None
    rotate: float | None
    shift: float | None
    zoom: float | None
    brightness: float | None
    contrast: float | None
    color: float | None
    balance: Balance | None
    crop_mode: CropMode | None
    few: int | None
    folds: int | None
    seed: int | None
    device: str | None
    provider: str | None
    from_run: AnyPath | None  # a run whose settings are taken, but for the options that are given


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What decides the result of a run, beside the data and the versions of the software.

    Raises UsageError for a value out of its range, or two that contradict each other.
    """

    data: Path
    model: str | None = None  # as `resolve.resolve` takes it; None for the default model
    labels_file: Path | None = None  # a CSV instead of folders
    splits_file: Path | None = None  # which picture is for training; None to draw it
    val_share: float = 0.2  # of the pictures, where they are drawn
    group: str | None = None  # a regular expression (`dataset.read`)
    on_bad: OnBad = "fail"  # what to do about pictures that cannot be read
    augment: Augment = LEVELS["light"]
    views: int = 2  # of each training picture
    balance: Balance = "auto"
    crop_mode: CropMode | None = None  # None for the model's own
    few: int | None = None  # so many training pictures a class, drawn
    folds: int | None = None  # accuracy by cross-validation in so many parts, instead of by one split
    seed: int = 0
    device: str = "auto"
    provider: str | None = None  # of onnxruntime; None for what suits the device

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                option = next((option for option, field in _FIELDS.items() if field == name), name)
                raise UsageError(f"{option} is {value!r}; expected {low} to {high}")
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise UsageError(f"{name} is {value!r}; expected one of {', '.join(allowed)}")
        random = replace(self.augment, mirror=False) != Augment()
        if random and self.views < (least := 3 if self.augment.mirror else 2):
            raise UsageError(
                f"of {self.views} views none is drawn at random; crop, rotate and so on need {least} or more"
            )
        if self.folds is not None and self.splits_file is not None:
            raise UsageError("folds take all pictures in turn, a file of splits says which; leave one out")
        if self.folds is not None and self.few == 1:
            raise UsageError("few is 1 with folds: a class needs a picture to judge by and one to learn from")

    def to_json(self) -> str:
        """The text of settings.json: the same settings give the same text."""
        values = {key: os.fspath(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
        return json.dumps({"schema": SCHEMA, **values}, indent=1) + "\n"

    @classmethod
    def of_options(cls, data: AnyPath | None, options: Mapping[str, Any]) -> "Settings":
        """The settings that `Options` make; raises DataError where `from_run` is no run."""
        given = {_FIELDS.get(name, name): value for name, value in options.items() if value is not None}
        run, level = given.pop("from_run", None), given.pop("augment", None)
        if level is not None and level not in LEVELS:
            raise UsageError(f"augment is {level!r}; expected one of {', '.join(LEVELS)}")
        before = None if run is None else cls.of_run(Path(run))
        if data is not None:
            given["data"] = data
        elif before is None:
            raise UsageError("name the folder of the data")
        given |= {name: Path(given[name]) for name in _PATHS if name in given}
        given |= {"model": os.fspath(given["model"])} if "model" in given else {}
        if before is not None and given.keys() & {"folds", "splits_file"}:  # one takes the place of the other
            before = replace(before, folds=None, splits_file=None)
        changes = {name: given.pop(name) for name in _CHANGES if name in given}
        augment = LEVELS[level] if level else LEVELS["light"] if before is None else before.augment
        augment = replace(augment, **changes)
        if level or changes:
            given.setdefault("views", usual_views(augment))
        return replace(before, **given, augment=augment) if before else cls(**given, augment=augment)

    @classmethod
    def of_run(cls, run: Path) -> "Settings":
        """The settings of the run in the folder `run`; raises DataError where there are none."""
        file = run / SETTINGS_FILE
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            if values.pop("schema") != SCHEMA:
                raise ValueError("of another version of visiontool")
            paths = {name: Path(path) for name in _PATHS if (path := values[name]) is not None}
            return cls(**{**values, **paths, "augment": Augment(**values["augment"])})
        except OSError as error:
            raise DataError(
                f"{file}: {error.strerror}\n--from takes the folder of a run that `visiontool finetune` made."
            ) from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"{file}: these are not the settings of a run: {error}") from None

    def with_absolute_paths(self) -> "Settings":
        """The same, with paths that mean the same from every folder."""
        absolute: dict[str, Any] = {
            name: Path(os.path.abspath(path)) for name in _PATHS if (path := getattr(self, name)) is not None
        }
        model = self.model
        if model is not None and model.startswith(FOLDER):
            absolute["model"] = FOLDER + os.path.abspath(model.removeprefix(FOLDER))
        elif model is not None and (os.path.isfile(model) or os.path.isfile(os.path.join(model, MODEL_FILE))):
            absolute["model"] = os.path.abspath(model)  # not every folder is a model: one of any name may lie beside
        return replace(self, **absolute)


def usual_views(augment: Augment) -> int:
    """The default number of views: the picture alone, with its mirror, or with random ones."""
    if augment == Augment():
        return 1
    return 2 if augment == Augment(mirror=True) else 4
