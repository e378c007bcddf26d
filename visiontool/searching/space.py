"""What a search chooses from: options of `finetune`, each with a list of values or a range of numbers."""

import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from visiontool.errors import DataError, UsageError, closest
from visiontool.hub import resolve
from visiontool.images.augment import LEVELS
from visiontool.training.settings import Options, Settings

if TYPE_CHECKING:
    from optuna import Trial

_OF_ALL = {  # options that are the same for all trials, or are for no search
    *("labels", "splits", "exclude", "val_split", "group", "on_bad", "few", "folds", "seed", "device", "provider"),
    *("img_size", "model_args", "extend", "from_run", "resume", "from_scratch", "init", "time_limit", "log"),
}
_MOST_COMBINATIONS = 10_000


class Range(NamedTuple):
    """Numbers from `low` to `high`; whole ones where both are."""

    low: float
    high: float
    log: bool  # drawn by their logarithm

    @property
    def middle(self) -> float:
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return round(middle) if isinstance(self.low, int) and isinstance(self.high, int) else middle


Choice = tuple[Any, ...] | Range

_FROZEN: dict[str, Choice] = {
    "head": ("auto", "logistic", "lda"),
    "transform": ("auto", "none", "power"),
    "stages": ("auto", 1, 2),
    "augment": ("none", "light", "medium"),
    "balance": ("auto", "none", "weights"),
    "crop_mode": (None, "border"),
}
_UNFROZEN: dict[str, Choice] = {
    "lr": Range(3e-4, 3e-2, True),
    "weight_decay": Range(1e-5, 1e-2, True),
    "augment": ("light", "medium", "heavy"),
    "unfreeze": ("auto", 1, 2),
}


@dataclass(frozen=True)
class Space:
    """The settings that trials of a search may have. Raises UsageError for a value that no trial could have."""

    data: Path
    shared: Mapping[str, Any]  # options that all trials have, as `Options` has them
    choices: Mapping[str, Choice]  # by the names of options; "model" is always among them

    def __post_init__(self) -> None:
        for name, choice in self.choices.items():
            for value in choice[:2] if isinstance(choice, Range) else choice:
                try:
                    self.settings_of({"model": self.models[0], name: value})
                except UsageError as error:
                    if name not in ("views", "augment"):  # one may be wrong only with the default of the other
                        raise UsageError(f"{name} {value!r}: {error}") from None

    @classmethod
    def usual(cls, data: Path, shared: Mapping[str, Any], models: Sequence[str], file: Path | None) -> "Space":
        """The space of a file, or the default one of frozen or of unfrozen backbones."""
        choices = read(file) if file is not None else _UNFROZEN if shared.get("unfreeze") else _FROZEN
        if models:
            choices = {"model": tuple(models), **{name: choices[name] for name in choices if name != "model"}}
        return cls(data, shared, {"model": (resolve.default_model(),), **choices})

    @property
    def models(self) -> tuple[str, ...]:
        models = self.choices["model"]
        return () if isinstance(models, Range) else models

    def settings_of(self, values: Mapping[str, Any]) -> Settings:
        """The settings of a trial; raises UsageError where the values contradict each other."""
        return Settings.of_options(self.data, {**self.shared, **values})

    def defaults(self, model: str) -> dict[str, Any]:
        """What `finetune` takes for each option with this model."""
        settings = self.settings_of({"model": model})
        values = {name: getattr(settings, name, getattr(settings.train, name, None)) for name in self.choices}
        level = next((level for level, each in LEVELS.items() if each == settings.augment), None)
        return values | {"model": model} | ({"augment": level} if "augment" in values else {})

    def first(self, model: str) -> dict[str, Any]:
        """What is nearest to the defaults with this model."""
        values = self.defaults(model)
        for name, choice in self.choices.items():
            if isinstance(choice, Range):
                is_in = values[name] is not None and choice.low <= values[name] <= choice.high
                values[name] = values[name] if is_in else choice.middle
            else:
                values[name] = next((each for each in choice if str(each) == str(values[name])), choice[0])
        return values

    def suggest(self, trial: "Trial") -> dict[str, Any]:
        """What a trial's sampler suggests."""
        values: dict[str, Any] = {}
        for name, choice in self.choices.items():
            if not isinstance(choice, Range):
                values[name] = trial.suggest_categorical(name, choice)
            elif isinstance(choice.middle, int):
                values[name] = trial.suggest_int(name, int(choice.low), int(choice.high), log=choice.log)
            else:
                values[name] = trial.suggest_float(name, choice.low, choice.high, log=choice.log)
        return values

    def combinations(self) -> dict[Settings, dict[str, Any]] | None:
        """All settings, with the values that make them; None where there are too many to list."""
        lists = [choice for choice in self.choices.values() if not isinstance(choice, Range)]
        if len(lists) < len(self.choices) or math.prod(map(len, lists)) > _MOST_COMBINATIONS:
            return None
        found: dict[Settings, dict[str, Any]] = {}
        for combination in itertools.product(*lists):
            values = dict(zip(self.choices, combination, strict=True))
            with suppress(UsageError):
                found.setdefault(self.settings_of(values), values)
        return found


def read(file: Path) -> dict[str, Choice]:
    """The space of a YAML file: names of options of finetune, each with a value, a list, or low, high and log.

    Raises:
        DataError: it cannot be read, or is something else.
        UsageError: no such option.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{file}: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict) or not content:
        raise DataError(f"{file}: expected options of finetune, such as\nhead: [logistic, lda]\naugment: [none, light]")
    known = {*Options.__annotations__, "batch_size"} - _OF_ALL
    choices: dict[str, Choice] = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise UsageError(f"{file}: {key} cannot be searched.{closest(name, known)}")
        if isinstance(value, dict) and name != "model":
            choices[name] = _range(f"{file}: {key}", value)
        else:
            choices[name] = tuple(value) if isinstance(value, list) else (value,)
            if not choices[name] or any(isinstance(each, list | dict) for each in choices[name]):
                raise UsageError(f"{file}: {key}: expected a list of values, or low and high")
    return choices


def _range(where: str, value: Mapping[str, Any]) -> Range:
    low, high, log = value.get("low", ""), value.get("high", ""), bool(value.get("log"))
    if {type(low), type(high)} - {int, float} or {*value} - {"low", "high", "log"}:
        raise UsageError(f"{where}: expected numbers for low and high, and perhaps log: true")
    if not low < high or (log and low <= 0):
        raise UsageError(f"{where}: low is to be less than high{', and above 0 for log: true' if log else ''}")
    return Range(low, high, log)
