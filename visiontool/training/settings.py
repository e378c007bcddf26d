"""The settings of a run, and the file of them that lets it be made again."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from visiontool.errors import DataError, UsageError
from visiontool.files import MODEL_FILE
from visiontool.graph.stages import MOST
from visiontool.hub.resolve import FOLDER
from visiontool.images.augment import LEVELS, Augment
from visiontool.images.transforms import CROP_MODES
from visiontool.model.spec import CropMode
from visiontool.pytorch.train.recipe import Recipe, TrainOptions, check_values
from visiontool.training.head import Balance, Kind, Transforms

_log = logging.getLogger(__name__)

SETTINGS_FILE = "settings.json"
SCHEMA = 1

OnBad = Literal["fail", "skip"]

_RANGES = {  # whole numbers and shares; None is allowed where it is the default
    "val_split": (0.01, 0.9),
    "views": (1, 64),
    "few": (1, 10**6),
    "folds": (2, 100),
    "seed": (0, 2**32 - 1),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "on_bad": get_args(OnBad),
    "balance": get_args(Balance),
    "crop_mode": CROP_MODES,
    "head": get_args(Kind),
    "transform": get_args(Transforms),
    "stages": ("auto", *map(str, range(1, MOST + 1))),
}
_PATHS = ("data", "labels_file", "splits_file", "exclude_file", "extend")
_FIELDS = {
    "labels": "labels_file",
    "splits": "splits_file",
    "exclude": "exclude_file",
    "val_split": "val_share",
}  # of options with other names
_FIXED = ("unfreeze", "from_scratch", "batch_size", "accumulate", "optimizer", "layer_decay", "init", "ema")
_OF_EXTENDED = ("model", "head", "transform", "stages", "balance", "crop_mode", "augment", "views")
_CHANGES = tuple(field.name for field in fields(Augment))

AnyPath = str | os.PathLike[str]


def judge_of(folds: int | None) -> str:
    """What judges a run: "val" or "5 folds"."""
    return "val" if folds is None else f"{folds} folds"


class Options(TrainOptions, total=False):
    """The options of `visiontool finetune` that decide the result; None is as good as left out."""

    model: AnyPath | Sequence[AnyPath] | None  # whose backbone; of several, their embeddings are joined
    labels: AnyPath | None
    splits: AnyPath | None
    exclude: AnyPath | None  # a list of `visiontool check`
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
    head: Kind | None
    transform: Transforms | None
    stages: int | Literal["auto"] | None  # outputs of the backbone that the head sees
    crop_mode: CropMode | None
    few: int | None
    folds: int | None
    seed: int | None
    device: str | None
    provider: str | None
    img_size: int | None  # of a network that is trained from scratch
    model_args: Mapping[str, Any] | None  # for its constructor
    extend: AnyPath | None  # a run that gets the classes of the data too
    from_run: AnyPath | None  # a run whose settings are taken, but for the options that are given
    resume: AnyPath | None  # a run that trains a network, to go on with where it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What decides the result of a run, beside the data and the versions of the software.

    Raises UsageError for a value out of its range, or two that contradict each other.
    """

    data: Path
    model: str | None = None  # as `resolve.resolve` takes it; None for the default model
    joined: tuple[str, ...] = ()  # more models, whose embeddings join that of `model` (exporting/merge.py)
    labels_file: Path | None = None  # a CSV instead of folders
    splits_file: Path | None = None  # which picture is for training; None to draw it
    exclude_file: Path | None = None  # a list of pictures to leave out (`dataset.excluding`)
    val_share: float = 0.2  # of the pictures, where they are drawn
    group: str | None = None  # a regular expression (`dataset.read`)
    on_bad: OnBad = "fail"  # what to do about pictures that cannot be read
    augment: Augment = LEVELS["light"]
    views: int = 2  # of each training picture
    balance: Balance = "auto"
    head: Kind = "auto"
    transform: Transforms = "auto"  # of what the head sees
    stages: str = "auto"  # how many outputs of the backbone the head sees: the embedding, then those of the last stages
    crop_mode: CropMode | None = None  # None for the model's own
    few: int | None = None  # so many training pictures a class, drawn
    folds: int | None = None  # accuracy by cross-validation in so many parts, instead of by one split
    extend: Path | None = None  # a run whose classes, backbone and statistics the new run begins with
    seed: int = 0
    device: str = "auto"
    provider: str | None = None  # of onnxruntime; None for what suits the device
    img_size: int | None = None  # side in pixels, of a network that is trained from scratch; None for the published one
    model_args: Mapping[str, Any] | None = None  # for the constructor of such a network, as timm takes them
    train: Recipe | None = None  # None for a frozen backbone

    def __post_init__(self) -> None:
        check_values({**asdict(self), "val_split": self.val_share}, _RANGES, _CHOICES)
        random = replace(self.augment, mirror=False) != Augment()
        if random and self.views < (least := 3 if self.augment.mirror else 2):
            raise UsageError(
                f"of {self.views} views none is drawn at random; crop, rotate and so on need {least} or more"
            )
        if self.folds is not None and self.splits_file is not None:
            raise UsageError("folds take all pictures in turn, a file of splits says which; leave one out")
        scratch = self.train is not None and self.train.from_scratch
        if scratch and self.model is None:
            raise UsageError(
                "--from-scratch needs the network's name, such as -m lenet5 (visiontool models --classics)"
            )
        if scratch and (self.head, self.transform, self.stages) != ("auto", "auto", "auto"):
            raise UsageError("--head, --transform and --stages are for a frozen backbone; --from-scratch trains it all")
        if scratch and self.provider is not None:
            raise UsageError("--provider is onnxruntime's; --from-scratch trains in torch")
        if not scratch and (self.img_size is not None or self.model_args is not None):
            raise UsageError("--img-size and --model-args build a new network: they need --from-scratch")
        if self.train is not None and self.joined:
            raise UsageError("--unfreeze and --from-scratch train one network; leave out all -m but one")
        if self.train is not None and self.folds is not None:
            raise UsageError("--folds trains heads; a network is trained once, and val judges it")
        if self.extend is not None and (self.train is not None or self.folds is not None):
            raise UsageError("--extend solves a head, once; leave out --unfreeze, --from-scratch and --folds")
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
        trained = {name: given.pop(name) for name in (*TrainOptions.__annotations__, "batch_size") if name in given}
        run, level = given.pop("from_run", None), given.pop("augment", None)
        if level is not None and level not in LEVELS:
            raise UsageError(f"augment is {level!r}; expected one of {', '.join(LEVELS)}")
        before = None if run is None else cls.of_run(Path(run))
        if data is not None:
            given["data"] = data
        elif before is None:
            raise UsageError("name the folder of the data")
        recipe = Recipe.of_options(trained, None if before is None else before.train)
        if recipe is not None:
            given["train"] = recipe
            if recipe.from_scratch and "views" in given:
                raise UsageError("--views are for a frozen backbone: --from-scratch draws a picture anew in each epoch")
        given |= {name: Path(given[name]) for name in _PATHS if name in given}
        named = given.pop("model", ())
        if models := [os.fspath(model) for model in ([named] if isinstance(named, str | os.PathLike) else named)]:
            given |= {"model": models[0], "joined": tuple(models[1:])}
        given |= {"stages": str(given["stages"])} if "stages" in given else {}
        if before is not None and given.keys() & {"folds", "splits_file"}:  # one takes the place of the other
            before = replace(before, folds=None, splits_file=None)
        changes = {name: given.pop(name) for name in _CHANGES if name in given}
        if (extend := given.get("extend", before and before.extend)) is not None:
            if wrong := next(
                (name for name in (*_OF_EXTENDED, *_CHANGES) if options.get(name) not in (None, ())), None
            ):
                raise UsageError(f"--{wrong.replace('_', '-')} is not for --extend: backbone, head and views are RUN's")
            run, level = cls.of_run(Path(extend)), "none"
            given |= {"model": os.fspath(extend), "stages": run.stages, "balance": run.balance, "crop_mode": None}
        usual = LEVELS["medium" if recipe is not None and recipe.from_scratch else "light"]
        augment = LEVELS[level] if level else usual if before is None else before.augment
        augment = replace(augment, **changes)
        head = given.get("head", "auto" if before is None else before.head)
        if recipe is None and head in ("lda", "means"):
            if (level or "none") != "none" or changes or given.setdefault("views", 1) != 1:
                raise UsageError(f"--head {head} learns from the plain view alone: leave out --views and --augment")
            level, augment = "none", LEVELS["none"]
        if level or changes or (before is None and augment != LEVELS["light"]):
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
            paths = {name: Path(path) for name in _PATHS if (path := values.get(name)) is not None}
            recipe = values.pop("train", None)
            train = None if recipe is None else Recipe(**{**recipe, "decay_at": tuple(recipe["decay_at"])})
            values["joined"] = tuple(values.get("joined", ()))  # which older runs lack
            return cls(**{**values, **paths, "augment": Augment(**values["augment"]), "train": train})
        except OSError as error:
            raise DataError(
                f"{file}: {error.strerror}\nExpected the folder of a run that `visiontool finetune` made."
            ) from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"{file}: these are not the settings of a run: {error}") from None

    def resuming(self, before: "Settings") -> "Settings":
        """These settings, to go on with a run that had others; what changes is logged.

        Raises UsageError where they contradict what the run has already done.
        """
        if self.train is None or before.train is None:
            raise UsageError("--resume goes on with training a network; this run has a frozen backbone")
        ours, theirs = ({**asdict(each), **asdict(each.train)} for each in (self, before) if each.train is not None)
        changed = [name for name in ours if name != "train" and ours[name] != theirs[name]]
        for name in changed:
            if name in _FIXED or name not in TrainOptions.__annotations__:
                raise UsageError(
                    f"--resume cannot change {name} from {theirs[name]} to {ours[name]} in the middle of a run"
                )
            _log.info(f"Changed: {name.replace('_', '-')} from {theirs[name]} to {ours[name]}.")
        return self

    def with_absolute_paths(self) -> "Settings":
        """The same, with paths that mean the same from every folder."""
        absolute: dict[str, Any] = {
            name: Path(os.path.abspath(path)) for name in _PATHS if (path := getattr(self, name)) is not None
        }
        if self.model is not None:
            absolute["model"], *others = map(_absolute, (self.model, *self.joined))
            absolute["joined"] = tuple(others)
        return replace(self, **absolute)


def _absolute(model: str) -> str:
    """What means the same model from every folder."""
    if model.startswith(FOLDER):
        return FOLDER + os.path.abspath(model.removeprefix(FOLDER))
    is_path = os.path.isfile(model) or os.path.isfile(os.path.join(model, MODEL_FILE))
    return os.path.abspath(model) if is_path else model  # not every folder is a model: one of any name may lie beside


def usual_views(augment: Augment) -> int:
    """The default number of views: the picture alone, with its mirror, or with random ones."""
    if augment == Augment():
        return 1
    return 2 if augment == Augment(mirror=True) else 4
