"""Batches of pictures for training: opened and augmented ahead, in processes, each by its epoch and its name alone."""

import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from visiontool.data.loader import cores
from visiontool.errors import DataError, PictureError
from visiontool.images import transforms
from visiontool.images.augment import Augment, View, render
from visiontool.images.decode import Limits, open_image
from visiontool.model.spec import ModelSpec
from visiontool.pytorch.train.recipe import Recipe

VAL = -1  # the epoch of pictures as predict sees them
_FIRST_RANDOM_VIEW = 2
_AUTO = {"rand": v2.RandAugment, "trivial": v2.TrivialAugmentWide, "augmix": v2.AugMix}
Key = tuple[int, int]  # epoch, and index of a picture
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # pixels (B, H, W, 3) uint8, class ids (B,), indices (B,)


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures of a training, those for training and those of val."""

    paths: Sequence[str]
    names: Sequence[str]
    class_ids: NDArray[np.int64]  # (N,)
    train: NDArray[np.int64]  # indices
    val: NDArray[np.int64]


def seed_of(*parts: object) -> int:
    """A seed of 63 bits for what `parts` name."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1


class Opened(Dataset[Any]):
    """Pictures by (epoch, index), augmented but for those of `VAL`; what is drawn depends on seed, epoch and name."""

    def __init__(
        self, pictures: Pictures, spec: ModelSpec, augment: Augment, recipe: Recipe, seed: int, limits: Limits
    ) -> None:
        self._pictures, self._augment, self._seed, self._limits = pictures, augment, seed, limits
        self._fit_options = transforms.fit_options(spec)
        self._resize_to = transforms.resize_to(spec.input.size, spec.crop_pct, spec.crop_mode)
        parts: list[Any] = [_AUTO[recipe.auto_augment]()] if recipe.auto_augment else []
        if recipe.erase:
            parts.append(v2.RandomErasing(recipe.erase))
        self._transform = v2.Compose(parts) if parts else None

    def __getitem__(self, key: Key) -> tuple[NDArray[np.uint8], int, int]:
        epoch, index = key
        path, name = self._pictures.paths[index], self._pictures.names[index]
        try:
            image = open_image(path, resize_to=self._resize_to, limits=self._limits).image
        except PictureError as error:
            raise DataError(f"{path}: {error}") from None
        if epoch == VAL:
            pixels = transforms.fit(image, **self._fit_options)
        else:
            view = View(_FIRST_RANDOM_VIEW + epoch, self._augment, self._seed)
            pixels = render(image, view, name, self._fit_options)
            if self._transform is not None:
                torch.manual_seed(seed_of(self._seed, epoch, name))
                moved = self._transform(torch.from_numpy(pixels).permute(2, 0, 1))
                pixels = moved.permute(1, 2, 0).contiguous().numpy()
        return pixels, int(self._pictures.class_ids[index]), index


class Order(Sampler[list[Key]]):
    """The batches of all epochs from a step on: those of training, and behind each epoch those of val.

    Of several processes each takes its share of every batch, so that together they see what one would.
    """

    def __init__(
        self, pictures: Pictures, *, batch: int, first: int, steps: int, seed: int, rank: int, world: int
    ) -> None:
        self._pictures, self._batch, self._first, self._steps, self._seed = pictures, batch, first, steps, seed
        self._rank, self._world = rank, world
        self._per_epoch = len(pictures.train) // batch  # what fills no batch is left out, other pictures in each epoch

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self._first, self._steps):
            epoch, place = divmod(step, self._per_epoch)
            if place == 0 or step == self._first:
                order = np.random.default_rng([self._seed, epoch]).permutation(self._pictures.train)
            share = order[place * self._batch : (place + 1) * self._batch][self._rank :: self._world]
            yield [(epoch, index) for index in share.tolist()]
            if self.ends_epoch(step + 1):
                yield from self.of_val()

    def ends_epoch(self, step: int) -> bool:
        """Whether val comes after so many steps."""
        return step % self._per_epoch == 0 or step == self._steps

    def of_val(self) -> Iterator[list[Key]]:
        """The batches of this process's share of val."""
        share = self._pictures.val[self._rank :: self._world].tolist()
        size = max(1, self._batch // self._world)
        for start in range(0, len(share), size):
            yield [(VAL, index) for index in share[start : start + size]]


def loader(opened: Opened, order: Iterable[list[Key]], workers: int | None) -> DataLoader[Batch]:
    """Gives the batches in order, opened ahead by `workers` processes; None for one a core."""
    count = cores() if workers is None else workers
    # Not "spawn" where it can be helped: it runs the script that called us once more in each process.
    fork = "fork" if count and "fork" in torch.multiprocessing.get_all_start_methods() else None
    return DataLoader(
        opened,
        batch_sampler=order,
        num_workers=count,
        multiprocessing_context=fork,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if count else None,
        worker_init_fn=_ignore_ctrl_c,
    )


def _ignore_ctrl_c(number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to every process; the first one decides
