"""The networks that a training begins with."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from visiontool.errors import ConversionError, UsageError
from visiontool.pytorch import weights
from visiontool.pytorch.train.optimization import initialize
from visiontool.pytorch.train.recipe import Recipe


def untrained(
    architecture: str, classes: int, img_size: int | None, arguments: Mapping[str, Any], recipe: Recipe, seed: int
) -> nn.Module:
    """A new network with weights drawn from the seed.

    Raises UsageError for an argument that it does not take, ConversionError for a size that it cannot run at.
    """
    torch.manual_seed(seed)
    with _explained(architecture):
        others = {**arguments, **_drop_rates(recipe)}
        model = weights.create(architecture, img_size=img_size, num_classes=classes, **others)
    initialize(model, recipe, architecture.partition(".")[0])
    return model


def of_folder(folder: Path, recipe: Recipe) -> nn.Module:
    """The network of a folder in timm's format, with its weights."""
    with _explained(folder.name):
        return weights.from_folder(folder, **_drop_rates(recipe))


def _drop_rates(recipe: Recipe) -> dict[str, Any]:
    rates = {"drop_rate": recipe.dropout, "drop_path_rate": recipe.drop_path}
    return {name: rate for name, rate in rates.items() if rate is not None}


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Raises UsageError where a network does not take an argument."""
    try:
        yield
    except ConversionError as error:
        if not isinstance(error.__cause__, TypeError):
            raise
        raise UsageError(
            f"{name} cannot be built so: {error.__cause__}\n"
            "--dropout, --drop-path and --model-args go to the network's constructor, and not every one takes them."
        ) from error
