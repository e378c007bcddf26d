"""The three datasets of the transfer benchmarks (finetune.py, views.py), and the networks that are finetuned on them.

MNIST and Tiny ImageNet are fixed subsets, drawn once: of MNIST, 500 training pictures of each digit and, for
validation, 200 of each digit from the test set; of Tiny ImageNet, its first 20 classes by WordNet id, with 100 and 50
pictures each.
"""

import os
import random
import subprocess
import sys
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from visiontool.hub.resolve import DEFAULT_MODEL, resolve

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("VISIONTOOL_SHARED", ROOT.parent / "shared"))
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")


class Task(NamedTuple):
    """A dataset, and the network that it is learned with."""

    data: Path  # with train/ and val/
    model: str  # for -m
    weights: Path  # folder with the network's config.json and model.safetensors
    mirror: bool = True  # whether the mirror of such a picture is one, too

    def pictures(self, split: str = "") -> list[Path]:
        """The pictures of "train" or "val", or of both, sorted; the name of a picture's folder is its label."""
        return sorted(path for path in (self.data / split).rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)


def ants_and_bees(shared: Path, folder: Path) -> Task:
    """PyTorch's tutorial data, and SqueezeNet 1.1 with its ImageNet weights, pulled into the cache."""
    with tarfile.open(shared / "data" / "ants_and_bees.tar") as tar:
        tar.extractall(folder, filter="data")
    weights = shared / "weights" / "squeezenet1_1" / "model.safetensors"
    pull = [sys.executable, "-m", "visiontool", "models", "pull", "squeezenet1_1", "--weights", str(weights)]
    model = Path(subprocess.run(pull, check=True, capture_output=True, text=True).stdout.strip())
    return Task(folder / "ants_and_bees", str(model), model.parent)


def mnist(shared: Path, folder: Path) -> Task:
    """A part of MNIST, and the built-in LeNet-5."""
    data = part_of(shared / "data" / "mnist.tar.xz", folder / "mnist", {"train": ("train", 500), "test": ("val", 200)})
    return Task(data, "lenet5", ROOT / "weights" / "lenet5", mirror=False)


def tiny_imagenet(shared: Path, folder: Path) -> Task:
    """Twenty classes of Tiny ImageNet, and EfficientNet-Lite0, which knows all of them from larger pictures."""
    archive = shared / "data" / "tiny-imagenet-small.tar.xz"
    data = part_of(archive, folder / "tiny_imagenet", {"train": ("train", 100), "val": ("val", 50)}, classes=20)
    return Task(data, DEFAULT_MODEL, resolve(DEFAULT_MODEL).parent)


DATASETS = {dataset.__name__: dataset for dataset in (ants_and_bees, mnist, tiny_imagenet)}


def part_of(archive: Path, data: Path, splits: dict[str, tuple[str, int]], classes: int | None = None) -> Path:
    """Fills the folder `data` with some pictures of each class, and gives it.

    Args:
        archive: of TOP/SPLIT/CLASS/PICTURE.
        splits: SPLIT in the archive -> its name in the folder, and how many pictures of each class.
        classes: the first so many by name; None for all.
    """
    with tarfile.open(archive) as tar:
        found = defaultdict(list)
        for member in tar:
            parts = member.name.split("/")
            if member.isfile() and len(parts) == 4 and parts[1] in splits:
                found[parts[1], parts[2]].append(member)
        labels = sorted({label for _, label in found})[:classes]
        drawn = [
            (member, data / name / label)
            for split, (name, count) in splits.items()
            for label in labels
            for member in random.Random(f"{split} {label}").sample(found[split, label], count)
        ]
        for member, target in sorted(drawn, key=lambda item: item[0].offset):  # xz cannot go back without a new start
            target.mkdir(parents=True, exist_ok=True)
            (target / Path(member.name).name).write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
    return data
