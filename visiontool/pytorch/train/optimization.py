"""What a training is made of: which layers learn, the optimizer, the learning rate, the loss. From timm and torch."""

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np
import timm.data
import timm.loss
import timm.optim
import timm.scheduler
import torch
from numpy.typing import NDArray
from timm.models import group_parameters
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from torchvision.ops import sigmoid_focal_loss

from visiontool.errors import UsageError, closest
from visiontool.pytorch.train.recipe import Monitor, Recipe

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Names of the textbooks for what timm calls otherwise.
_OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("momentum", {"momentum": 0.0}),
    "nesterov": ("sgd", {}),
    "amsgrad": ("adam", {"amsgrad": True}),
}
_XAVIER = {"lenet5"}  # with tanh
_HE = {"nin", "bn_inception"}  # and the ResNets for CIFAR; timm's networks are initialized by timm, as in their papers
_BETA = 0.999  # of the effective number of pictures


def initialize(model: nn.Module, recipe: Recipe, architecture: str) -> None:
    """Draws new weights where the recipe or the network's paper asks for it; else they stay as the network made them.

    Source: Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks"
        (xavier, uniform); He et al. 2015, "Delving deep into rectifiers", arXiv:1502.01852 (he, normal, fan out).
    """
    init = recipe.init or ("xavier" if architecture in _XAVIER else None)
    init = init or ("he" if architecture in _HE or architecture.startswith("cifar_") else None)
    for module in model.modules() if init else ():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if init == "xavier":
                nn.init.xavier_uniform_(module.weight)
            else:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def freeze(model: nn.Module, recipe: Recipe) -> None:
    """Fixes the layers that are not to learn.

    Raises UsageError where the network has fewer groups of layers than the recipe wants to train.
    """
    if not isinstance(recipe.unfreeze, int):
        return
    if hasattr(model, "group_matcher"):
        matcher = cast(Any, model).group_matcher(coarse=True)
        group_of = group_parameters(model, matcher, reverse=True)
    else:
        parts = [name for name, _ in model.named_children()]
        group_of = {name: parts.index(name.split(".")[0]) for name, _ in model.named_parameters()}
    groups = sorted(set(group_of.values()))
    if recipe.unfreeze > len(groups):
        raise UsageError(f"--unfreeze {recipe.unfreeze}: the network has {len(groups)} groups of layers with its head")
    kept = {*groups[: len(groups) - recipe.unfreeze]}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(group_of.get(name) not in kept)


def set_mode(model: nn.Module, recipe: Recipe) -> None:
    """Training mode; batch normalization keeps the statistics that it was trained with, but for new networks."""
    model.train()
    if not recipe.from_scratch:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def optimizer_of(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer, as timm makes it; biases and norms have no weight decay."""
    name, arguments = _OPTIMIZERS.get(recipe.optimizer, (recipe.optimizer, {}))
    known = {*timm.optim.list_optimizers(), *_OPTIMIZERS}
    if name not in known:
        raise UsageError(f"no optimizer is called {recipe.optimizer!r}.{closest(recipe.optimizer, sorted(known))}")
    decay = {} if recipe.layer_decay == 1.0 else {"layer_decay": recipe.layer_decay}
    try:
        return timm.optim.create_optimizer_v2(
            model,
            name,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            **{"momentum": recipe.momentum, **arguments, **decay},
        )
    except (ImportError, AssertionError) as error:  # of an optimizer of another package
        raise UsageError(f"the optimizer {recipe.optimizer} cannot be used here: {error}") from None


class Schedule:
    """The learning rate of each step."""

    def __init__(self, optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int, per_epoch: int) -> None:
        self._optimizer = optimizer
        self._one_cycle: OneCycleLR | None = None
        self._plateau: ReduceLROnPlateau | None = None
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        if recipe.scheduler in ("one-cycle", "plateau"):
            rates = [group["lr"] * group.get("lr_scale", 1.0) for group in optimizer.param_groups]
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            if recipe.scheduler == "plateau":  # timm's forgets its state when a run is resumed
                mode: Literal["min", "max"] = "min" if recipe.monitor == "loss" else "max"
                self._plateau = ReduceLROnPlateau(
                    optimizer, mode, recipe.decay_rate, patience=recipe.decay_every, eps=0
                )
            else:
                steps = max(steps, 3)  # torch divides by the steps of the rise less one
                self._one_cycle = OneCycleLR(optimizer, rates, steps, pct_start=max(recipe.warmup, 2 / steps))
            return
        epochs, warmup = math.ceil(steps / per_epoch), round(recipe.warmup * steps)
        milestones = [place * per_epoch for place in recipe.decay_at or (epochs // 2, epochs * 3 // 4)]
        self._scheduler, _ = timm.scheduler.create_scheduler_v2(
            optimizer,
            "poly" if recipe.scheduler == "linear" else recipe.scheduler,
            num_epochs=steps,  # all in steps
            decay_epochs=recipe.decay_every * per_epoch,
            decay_milestones=milestones,
            decay_rate=1.0 if recipe.scheduler == "linear" else recipe.decay_rate,
            warmup_lr=recipe.lr / (warmup + 1),
            warmup_epochs=warmup,
            step_on_epochs=False,
            updates_per_epoch=1,
        )

    def set(self, step: int) -> float:
        """Sets the learning rates of a step; gives that of the head."""
        if self._one_cycle is not None:
            self._one_cycle.last_epoch = step - 1
            with warnings.catch_warnings():  # a resumed run sets the rate before its first step
                warnings.simplefilter("ignore")
                self._one_cycle.step()
        elif self._plateau is None:
            self._scheduler.step_update(step)
        return float(max(group["lr"] for group in self._optimizer.param_groups))

    def judge(self, score: float) -> None:
        """Lowers the rates where the monitored value has not got better for long."""
        if self._plateau is not None:
            self._plateau.step(score)

    def state(self) -> dict[str, Any]:
        return {} if self._plateau is None else self._plateau.state_dict()

    def load(self, state: dict[str, Any]) -> None:
        if self._plateau is not None:
            self._plateau.load_state_dict(state)


def loss_of(
    recipe: Recipe, sizes: NDArray[np.int64], balance: str, log_prior: NDArray[np.float64], device: torch.device
) -> LossFunction:
    """The loss of logits (B, C) and targets, class ids (B,) or shares (B, C), as a mean over pictures.

    Args:
        sizes: (C,) training pictures of each class.
        balance: "weights" has classes count the same, "logit-adjust" adds `log_prior` (C,) to the logits.

    Source: Cui et al. 2019, "Class-balanced loss based on effective number of samples", arXiv:1901.05555, equation 4;
        Lin et al. 2017, "Focal loss for dense object detection", arXiv:1708.02002 (torchvision, without alpha).
    """
    weight = np.ones(len(sizes))
    if recipe.loss == "class-balanced":
        weight = (1 - _BETA) / (1 - _BETA ** sizes.astype(np.float64))
    if balance == "weights":
        weight = weight / sizes
    weights = torch.tensor(weight * sizes.sum() / (weight @ sizes), dtype=torch.float32, device=device)
    offset = torch.tensor(log_prior, dtype=torch.float32, device=device)
    bce = timm.loss.BinaryCrossEntropy(recipe.smoothing, reduction="none")

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = logits.float() + offset
        if recipe.loss in ("cross-entropy", "class-balanced"):
            smoothing = recipe.smoothing
            losses = functional.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
        elif recipe.loss == "bce":
            losses = bce(logits, targets).sum(dim=1)
        else:
            shares = targets if targets.ndim == 2 else functional.one_hot(targets, logits.shape[1]).float()
            losses = sigmoid_focal_loss(logits, shares, alpha=-1, gamma=recipe.gamma).sum(dim=1)
        return (losses * (targets @ weights if targets.ndim == 2 else weights[targets])).mean()

    return loss


def mixup_of(recipe: Recipe, classes: int) -> timm.data.Mixup | None:
    """timm's mixup and CutMix; smoothing is left to the loss where that does it for shares too."""
    if not recipe.mixup and not recipe.cutmix:
        return None
    smoothing = recipe.smoothing if recipe.loss == "bce" else 0.0
    return timm.data.Mixup(recipe.mixup, recipe.cutmix, label_smoothing=smoothing, num_classes=classes)


def is_better(monitor: Monitor, one: tuple[float, float], other: tuple[float, float] | None) -> bool:
    """Whether (score, loss) is better than another: by the score, or where that is the same by the loss."""
    if other is None:
        return True
    return one[1] < other[1] if monitor == "loss" or one[0] == other[0] else one[0] > other[0]
