"""What a search chooses from: options of `finetune`, each with a list of values or a range of numbers."""

import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from visiontool.errors import DataError, ModelError, UsageError, closest, missing_extra
from visiontool.hub import resolve
from visiontool.images.augment import LEVELS
from visiontool.training.settings import Options, Settings

_OF_ALL = {  # options that are the same for all trials, or are for no search
    *("labels", "splits", "exclude", "val_split", "group", "on_bad", "few", "folds", "seed", "device", "provider"),
    *("img_size", "model_args", "extend", "from_run", "resume", "from_scratch", "init", "time_limit", "log"),
}
_MOST_COMBINATIONS = 10_000
Choice = Any  # of Optuna, which is imported where it is used: `CategoricalDistribution`, or one of numbers


# As in the file of `--space`.
_FROZEN: dict[str, Any] = {
    "head": ["auto", "logistic", "lda"],
    "transform": ["auto", "none", "power"],
    "stages": ["auto", 1, 2],
    "augment": ["none", "light", "medium"],
    "balance": ["auto", "none", "weights"],
    "crop_mode": [None, "border"],
}
_UNFROZEN: dict[str, Any] = {
    "lr": {"low": 3e-4, "high": 3e-2, "log": True},
    "weight_decay": {"low": 1e-5, "high": 1e-2, "log": True},
    "augment": ["light", "medium", "heavy"],
    "unfreeze": ["auto", 1, 2],
}


@dataclass(frozen=True)
class Space:
    """The settings that trials of a search may have. Raises UsageError for a value that no trial could have."""

    data: Path
    shared: Mapping[str, Any]  # options that all trials have, as `Options` has them
    choices: Mapping[str, Choice]  # by the names of options; "model" is always among them, with a list

    def __post_init__(self) -> None:
        for name, choice in self.choices.items():
            for value in _values(choice) or (choice.low, choice.high):
                try:
                    self.settings_of({"model": self.models[0], name: value})
                except UsageError as error:
                    if name not in ("views", "augment"):  # one may be wrong only with the default of the other
                        raise UsageError(f"{name} {value!r}: {error}") from None

    @classmethod
    def usual(cls, data: Path, shared: Mapping[str, Any], models: Sequence[str], file: Path | None) -> "Space":
        """The space of a file, or the default one of frozen or of unfrozen backbones."""
        if find_spec("optuna") is None:
            raise ModelError(missing_extra("search", "Searching"))
        content = read(file) if file is not None else _UNFROZEN if shared.get("unfreeze") else _FROZEN
        content = {"model": resolve.default_model(), **content} | ({"model": list(models)} if models else {})
        return cls(data, shared, {name: _choice(name, value) for name, value in content.items()})

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(_values(self.choices["model"]))

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
            value = values[name]
            if listed := _values(choice):
                values[name] = next((each for each in listed if str(each) == str(value)), listed[0])
            elif value is None or not choice.low <= value <= choice.high:
                middle = math.sqrt(choice.low * choice.high) if choice.log else (choice.low + choice.high) / 2
                values[name] = type(choice.low)(middle)
        return values

    def combinations(self) -> dict[Settings, dict[str, Any]] | None:
        """All settings, with the values that make them; None where there are too many to list."""
        lists = [_values(choice) for choice in self.choices.values()]
        if not 0 < math.prod(map(len, lists)) <= _MOST_COMBINATIONS:
            return None
        found: dict[Settings, dict[str, Any]] = {}
        for combination in itertools.product(*lists):
            values = dict(zip(self.choices, combination, strict=True))
            with suppress(UsageError):
                found.setdefault(self.settings_of(values), values)
        return found


def read(file: Path) -> dict[str, Any]:
    """A YAML file: names of options of finetune, each with a value, a list, or low, high and perhaps log.

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
    named = {str(key).replace("-", "_"): value for key, value in content.items()}
    known = {*Options.__annotations__, "batch_size"} - _OF_ALL
    for name in named:
        if name not in known:
            raise UsageError(f"{file}: {name} cannot be searched.{closest(name, known)}")
    return named


def _choice(name: str, value: Any) -> Choice:
    """What Optuna chooses from, of what a file says."""
    from optuna.distributions import CategoricalDistribution

    try:
        if isinstance(value, dict) and name != "model":
            return _range(**value)
        return CategoricalDistribution([*dict.fromkeys(value if isinstance(value, list) else [value])])
    except (TypeError, ValueError) as error:
        expected = "expected a list of values, or low and high, and perhaps log: true"
        raise UsageError(f"{name}: {expected}; {error}") from None


def _range(low: Any, high: Any, log: bool = False) -> Choice:
    from optuna.distributions import FloatDistribution, IntDistribution

    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log)
    return FloatDistribution(float(low), float(high), log)  # YAML takes 1e-4 for text


def _values(choice: Choice) -> Sequence[Any]:
    """The values of a list; none of a range."""
    return getattr(choice, "choices", ())
