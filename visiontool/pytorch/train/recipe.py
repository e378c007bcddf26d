"""What decides how a network is trained, and what is known of it afterwards.

Needs no torch, so that wrong options are found before it is imported.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, Self, TypedDict, get_args

from visiontool.errors import UsageError

Scheduler = Literal["cosine", "step", "multistep", "plateau", "linear", "one-cycle"]
Loss = Literal["cross-entropy", "class-balanced", "focal", "bce"]
AutoAugment = Literal["rand", "trivial", "augmix"]
Init = Literal["xavier", "he"]
Monitor = Literal["macro-f1", "accuracy", "loss"]
Amp = Literal["auto", "on", "off"]

_MOMENTA = ("momentum", "nesterov", "rmsprop")  # the optimizers that take --momentum
_DECAYING = ("step", "multistep", "plateau")
# Kolesnikov et al. 2020, "Big Transfer", arXiv:1912.11370, section 3.3: steps by the number of training pictures.
_STEPS = ((20_000, 500), (500_000, 10_000), (math.inf, 20_000))
_MOST_EPOCHS = 10  # of those steps
_SCRATCH_EPOCHS = 30
_SGD = ("sgd", "momentum", "nesterov")
_RANGES = {
    "epochs": (1, 10**6),
    "steps": (1, 10**9),
    "batch_size": (1, 10**6),
    "accumulate": (1, 10**4),
    "lr": (1e-9, 1e3),
    "momentum": (0.0, 0.9999),
    "weight_decay": (0.0, 10.0),
    "l1": (0.0, 10.0),
    "layer_decay": (0.01, 1.0),
    "warmup": (0.0, 0.9),
    "decay_every": (1, 10**6),
    "decay_rate": (1e-6, 1.0),
    "smoothing": (0.0, 0.99),
    "gamma": (0.0, 20.0),
    "dropout": (0.0, 0.99),
    "drop_path": (0.0, 0.99),
    "mixup": (0.0, 100.0),
    "cutmix": (0.0, 100.0),
    "erase": (0.0, 1.0),
    "ema": (0.0, 0.999999),
    "clip": (0.0, 1e6),
    "patience": (1, 10**6),
    "time_limit": (1.0, 10**8),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "scheduler": get_args(Scheduler),
    "loss": get_args(Loss),
    "auto_augment": get_args(AutoAugment),
    "amp": get_args(Amp),
    "monitor": get_args(Monitor),
    "init": get_args(Init),
    "log": ("tensorboard",),
}


class TrainOptions(TypedDict, total=False):
    """The options of `visiontool finetune` that train the network; None is as good as left out."""

    unfreeze: str | int | None  # "auto", "all", or how many of the last groups of layers
    from_scratch: bool | None
    epochs: int | None
    steps: int | None
    accumulate: int | None
    optimizer: str | None
    lr: float | None
    momentum: float | None
    weight_decay: float | None
    l1: float | None
    layer_decay: float | None
    scheduler: Scheduler | None
    warmup: float | None
    decay_every: int | None
    decay_at: tuple[int, ...] | None
    decay_rate: float | None
    loss: Loss | None
    smoothing: float | None
    gamma: float | None
    dropout: float | None
    drop_path: float | None
    mixup: float | None
    cutmix: float | None
    erase: float | None
    auto_augment: AutoAugment | None
    ema: float | None
    clip: float | None
    amp: Amp | None
    monitor: Monitor | None
    patience: int | None
    time_limit: float | None
    init: Init | None
    log: Literal["tensorboard"] | None


# When an option has an effect, and in words with what.
_RULES: dict[str, tuple[Callable[["Recipe"], bool], str]] = {
    "momentum": (lambda recipe: recipe.optimizer in _MOMENTA, f"--optimizer {', '.join(_MOMENTA)}"),
    "decay_every": (lambda recipe: recipe.scheduler in ("step", "plateau"), "--scheduler step or plateau"),
    "decay_at": (lambda recipe: recipe.scheduler == "multistep", "--scheduler multistep"),
    "decay_rate": (lambda recipe: recipe.scheduler in _DECAYING, f"--scheduler {', '.join(_DECAYING)}"),
    "warmup": (lambda recipe: recipe.scheduler != "plateau", "a --scheduler other than plateau"),
    "smoothing": (lambda recipe: recipe.loss != "focal", "a --loss other than focal"),
    "gamma": (lambda recipe: recipe.loss == "focal", "--loss focal"),
    "init": (lambda recipe: recipe.from_scratch, "--from-scratch"),
    "layer_decay": (lambda recipe: not recipe.from_scratch, "--unfreeze"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained; all that is drawn at random is drawn from the seed of the run.

    Raises UsageError for a value out of its range, or two that contradict each other.
    """

    unfreeze: str | int | None = None  # "auto" and "all" train every layer, N the last N groups of layers
    from_scratch: bool = False
    epochs: int | None = None  # None for `steps`
    steps: int | None = None  # of the optimizer; None for what suits the number of pictures
    batch_size: int = 32  # pictures of a step, over all devices
    accumulate: int = 1  # batches of a step
    optimizer: str = "nesterov"  # sgd, momentum, nesterov, amsgrad, or as timm calls it
    lr: float = 3e-3  # of the head; layers ahead of it have less by `layer_decay`
    momentum: float = 0.9
    weight_decay: float = 1e-4  # not of biases and norms; the L2 penalty of optimizers without decoupled decay
    l1: float = 0.0
    layer_decay: float = 0.8
    scheduler: Scheduler = "cosine"
    warmup: float = 0.05  # the share of the steps in which the learning rate rises
    decay_every: int = 10  # epochs; of plateau, those without a better one
    decay_at: tuple[int, ...] = ()  # epochs; none for a half and three quarters of all
    decay_rate: float = 0.1
    loss: Loss = "cross-entropy"
    smoothing: float = 0.0
    gamma: float = 2.0  # of the focal loss
    dropout: float | None = None  # None for the network's own
    drop_path: float | None = None
    mixup: float = 0.0  # alpha of the beta distribution; 0 is off
    cutmix: float = 0.0
    erase: float = 0.0  # the share of the pictures that lose a rectangle
    auto_augment: AutoAugment | None = None
    ema: float = 0.0  # decay of averaged weights, after a warm-up; 0 is off
    clip: float = 1.0  # the largest norm of a gradient; 0 is off
    amp: Amp = "auto"  # bfloat16: "auto" on a GPU
    monitor: Monitor = "macro-f1"
    patience: int | None = None  # epochs without a better one, after which it stops
    time_limit: float | None = None  # seconds
    init: Init | None = None  # None for what the paper of the network has
    log: Literal["tensorboard"] | None = None

    def __post_init__(self) -> None:
        check_values(asdict(self), _RANGES, _CHOICES)
        if self.from_scratch == (self.unfreeze is not None):
            raise UsageError("--unfreeze begins with trained weights and --from-scratch with none; give one of them")
        if not (self.unfreeze in (None, "auto", "all") or (isinstance(self.unfreeze, int) and self.unfreeze > 0)):
            raise UsageError(f"unfreeze is {self.unfreeze!r}; expected auto, all, or a number of groups of layers")
        if self.epochs is not None and self.steps is not None:
            raise UsageError("--epochs and --steps both say how long it trains; give one of them")
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise UsageError(f"mixup and cutmix mix pairs of pictures: the batch size of {self.batch_size} is odd")

    @classmethod
    def of_options(cls, given: Mapping[str, Any], before: Self | None = None) -> Self | None:
        """The recipe of the given options (`TrainOptions` and batch_size), or None where none of them trains.

        `before` is that of an earlier run, which they change. Raises UsageError for one that would have no effect.
        """
        given = dict(given)
        if given.get("from_scratch") is False:
            del given["from_scratch"]
        trains = given.get("unfreeze") is not None or given.get("from_scratch") or before is not None
        if not trains:
            given.pop("batch_size", None)
            for option in (name.replace("_", "-") for name in given):
                raise UsageError(f"--{option} trains the network, which is frozen: add --unfreeze or --from-scratch")
            return None
        if before is not None and given.keys() & {"epochs", "steps"}:  # one takes the place of the other
            before = replace(before, epochs=None, steps=None)
        if before is not None and given.keys() & {"unfreeze", "from_scratch"}:
            before = None
        recipe = cls(**{**_defaults(given), **given}) if before is None else replace(before, **given)
        for name, (holds, text) in _RULES.items():
            if name in given and not holds(recipe):
                raise UsageError(f"--{name.replace('_', '-')} has an effect only with {text}")
        return recipe

    def steps_for(self, pictures: int, batch: int | None = None) -> int:
        """How many steps of the optimizer are done on so many training pictures.

        Args:
            batch: pictures of a step; None for those of the recipe, or all where there are fewer.
        """
        per_epoch = pictures // (batch or min(pictures, self.batch_size * self.accumulate))
        if self.steps is not None:
            return self.steps
        if self.epochs is not None or self.from_scratch:
            return (self.epochs or _SCRATCH_EPOCHS) * per_epoch
        steps = next(steps for most, steps in _STEPS if pictures < most)
        return min(steps, _MOST_EPOCHS * per_epoch)


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those that depend on the optimizer, and on whether the weights are new."""
    is_new = bool(given.get("from_scratch"))
    optimizer = given.get("optimizer", "adamw" if is_new else "nesterov")
    lr = (0.05 if is_new else 3e-3) if optimizer in _SGD else (1e-3 if is_new else 1e-4)
    # Only an optimizer that keeps the decay out of its gradients, such as AdamW, stands a strong one.
    decay = 0.05 if optimizer.endswith("w") else 1e-4
    others = {"layer_decay": 1.0, "batch_size": 64} if is_new else {}
    return {"optimizer": optimizer, "lr": lr, "weight_decay": decay, **others}


def check_values(
    values: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]], choices: Mapping[str, Sequence[str]]
) -> None:
    """Raises UsageError for a value out of its range, or not among its choices; None is always allowed."""
    for name, value in values.items():
        if value is not None and name in ranges and not ranges[name][0] <= value <= ranges[name][1]:
            raise UsageError(f"{name} is {value!r}; expected {ranges[name][0]} to {ranges[name][1]}")
        if value is not None and name in choices and value not in choices[name]:
            raise UsageError(f"{name} is {value!r}; expected one of {', '.join(choices[name])}")


class Epoch(NamedTuple):
    """What is known after an epoch."""

    epoch: int  # from 1 on
    step: int
    lr: float  # of the head
    loss: float  # in training, with what the recipe adds to it
    val_loss: float  # cross-entropy
    accuracy: float  # of val, as is the next
    macro_f1: float
    images_per_s: float
    seconds: float  # since the beginning
