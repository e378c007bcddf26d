"""What a training is given and what it gives, and the devices that it runs on."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from numpy.typing import NDArray
from torch import nn

from visiontool.errors import DeviceError
from visiontool.images.augment import Augment
from visiontool.images.decode import Limits
from visiontool.model.spec import ModelSpec
from visiontool.pytorch.train.batches import Pictures
from visiontool.pytorch.train.recipe import Epoch, Recipe

_WAIT = timedelta(days=7)  # for the process that embeds the pictures first


@dataclass(frozen=True)
class Task:
    """All that a training needs beside the network; it is sent to the other processes of the run."""

    pictures: Pictures
    spec: ModelSpec
    recipe: Recipe
    augment: Augment
    seed: int
    balance: str  # "none", "weights" or "logit-adjust"
    log_prior: NDArray[np.float64]  # (C,)
    checkpoints: Path  # the folder of them
    limits: Limits
    workers: int | None
    network: Callable[[], nn.Module]  # makes it, the same in every process


class Trained(NamedTuple):
    """The best weights, and how it came to them."""

    network: nn.Module  # on the CPU, in evaluation mode
    logits: NDArray[np.float32]  # (V, C) of val
    history: tuple[Epoch, ...]
    best: int  # in `history`


def accelerator_for(device: str, folder: Path | None = None) -> Accelerator:
    """accelerate's view of "auto", "cpu", "cuda" or "cuda:N", and of the processes that torchrun started.

    TensorBoard's files go into `folder`.
    """
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise DeviceError(
                "--device cuda: torch finds no GPU that it can use. Without --device it trains on the CPU."
            )
        if ":" in device:
            torch.cuda.set_device(device)
    log = {} if folder is None else {"log_with": "tensorboard", "project_dir": folder}
    return Accelerator(cpu=device == "cpu", kwargs_handlers=[InitProcessGroupKwargs(timeout=_WAIT)], **log)
