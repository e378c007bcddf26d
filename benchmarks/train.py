"""Training in torch: how fast beside a bare torch loop, and how good beside a frozen backbone.

    python benchmarks/train.py rate MNIST|TINY     # pictures a second, rounds taken in turns
    python benchmarks/train.py curve TINY          # a half-width ResNet-18, epoch by epoch, beside the bare loop
    python benchmarks/train.py resnet50 DATA       # ResNet-50 at 224 pixels, for a GPU, beside timm's loop
    python benchmarks/train.py lenet MNIST         # LeNet-5 from scratch, 10 epochs, judged by MNIST's test
    python benchmarks/train.py pairs MNIST|TINY    # a network with one option or another (docs/training.md)
    python benchmarks/train.py transfer DATA --squeezenet WEIGHTS  # frozen, unfrozen, from scratch; accuracy and time

MNIST, TINY (Tiny ImageNet, small) and DATA (ants and bees) are folders that `visiontool finetune` takes. Both sides of
`rate` and `curve` have the same pictures in the same order, opened and augmented by the same processes, and the same
network, optimizer and learning rates; the bare loop is what a tutorial has: no checkpoints, clipping or bar. Target:
0.9 of the bare loop's pictures a second. `resnet50` unfreezes a network of random weights, which costs the same time,
beside timm's loader and step, the step on one batch that stays on the device, and the opening of pictures alone.
Target: 0.9 of the slower of the last two.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm.data
import timm.optim
import torch
from torch.nn import functional

from visiontool.data.loader import DEFAULT_OPTIONS, cores
from visiontool.progress import silent
from visiontool.pytorch.exporters import OnnxWrapper
from visiontool.pytorch.train.batches import VAL, Opened, Order, loader
from visiontool.pytorch.train.task import Task, accelerator_for
from visiontool.pytorch.train.trainer import Training
from visiontool.training import train
from visiontool.training.embed_dataset import open_all
from visiontool.training.finetune import read_data
from visiontool.training.settings import Settings

TARGET = 0.9
HALF_WIDTH = {"channels": [32, 64, 128, 256]}
NETWORKS: dict[str, dict[str, Any]] = {
    "MNIST": {"model": "lenet5", "augment": "none", "few": 1500, "optimizer": "adamw"},
    "TINY": {
        "model": "cifar_resnet20",
        "img_size": 32,
        "augment": "light",
        "few": 15,
        "optimizer": "nesterov",
        "lr": 0.05,
    },
}


class Side(NamedTuple):
    """What one round of one side did."""

    rates: list[float]  # pictures a second, of each epoch, as is the next
    losses: list[float]  # in training
    accuracies: list[float]  # of val


def prepared(data: Path, epochs: int, **options: Any) -> Task:
    """The task of a training from scratch on that data."""
    settings = Settings.of_options(
        data, {"from_scratch": True, "epochs": epochs, "warmup": 0.0, "clip": 0.0, **options}
    )
    spec = train.spec_from_scratch(settings)
    dataset = read_data(settings, spec)
    spec = replace(spec, labels=dataset.labels, label_ids=dataset.label_ids)
    opened = open_all(settings, dataset, spec, DEFAULT_OPTIONS, silent)
    network = train.new_network(settings, len(spec.labels))
    return train.task_of(settings, Path(tempfile.mkdtemp()), spec, opened, network, DEFAULT_OPTIONS)


def ours(task: Task, device: str) -> Side:
    """One training by visiontool."""
    accelerator = accelerator_for(device)
    with tempfile.TemporaryDirectory() as folder:
        done = Training(replace(task, checkpoints=Path(folder, "checkpoint")), accelerator).run(silent, lambda _: None)
    history = done.history
    return Side(*map(list, zip(*((epoch.images_per_s, epoch.loss, epoch.accuracy) for epoch in history), strict=True)))


def bare(task: Task, device: str) -> Side:
    """The same with a loop of torch alone."""
    recipe, pictures = task.recipe, task.pictures
    batch = recipe.batch_size
    per_epoch = len(pictures.train) // batch
    steps = recipe.steps_for(len(pictures.train))
    model = task.network().to(device, memory_format=torch.channels_last)
    normalized = OnnxWrapper(model, task.spec.input).to(device).normalized
    autocast = partial(torch.autocast, torch.device(device).type, torch.bfloat16, enabled=device != "cpu")
    if recipe.optimizer == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), recipe.lr, weight_decay=0.05)
    else:
        optimizer = torch.optim.SGD(model.parameters(), recipe.lr, 0.9, weight_decay=recipe.weight_decay, nesterov=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = Order(pictures, batch=batch, first=0, steps=steps, seed=task.seed, rank=0, world=1)
    opened = Opened(pictures, task.spec, task.augment, recipe, task.seed, task.limits)
    keys = [*order]
    batches = iter(loader(opened, keys, task.workers))
    rates, losses, accuracies, total = [], [], [], 0.0
    right, judged, step = 0, 0, 0
    model.train()
    start = time.monotonic()
    for place, key in enumerate(keys):
        pixels, targets, _ = next(batches)
        targets = targets.to(device)
        x = normalized(pixels.to(device)).contiguous(memory_format=torch.channels_last)
        if key[0][0] == VAL:
            with torch.no_grad():
                right += int((model.eval()(x).argmax(dim=1) == targets).sum())
                judged += len(targets)
        else:
            optimizer.zero_grad(set_to_none=True)
            with autocast():
                loss = functional.cross_entropy(model(x), targets)
            loss.backward()
            optimizer.step()
            scheduler.step()
            total, step = total + loss.item(), step + 1
            if step % per_epoch == 0:
                rates.append(per_epoch * batch / (time.monotonic() - start))
                losses.append(total / per_epoch)
        if judged and (place == len(keys) - 1 or keys[place + 1][0][0] != VAL):
            accuracies.append(right / judged)
            total, right, judged, start = 0.0, 0, 0, time.monotonic()
            model.train()
    return Side(rates, losses, accuracies)


def rate(name: str, data: Path, rounds: int, device: str) -> bool:
    """Prints the ratio of pictures a second; whether the target is met."""
    task = prepared(data, 2, **NETWORKS[name])
    ratios, sides = [], {"visiontool": list[float](), "bare loop": list[float]()}
    for number in range(rounds):
        both = {"visiontool": partial(ours, task, device), "bare loop": partial(bare, task, device)}
        done = {side: statistics.median(both[side]().rates) for side in sorted(both, reverse=number % 2 == 0)}
        for side, value in done.items():
            sides[side].append(value)
        ratios.append(done["visiontool"] / done["bare loop"])
    pictures = f"{len(task.pictures.train):,} pictures"
    print(f"{NETWORKS[name]['model']}, {pictures}, {rounds} rounds of 2 epochs, pictures/s:")
    for side, values in sides.items():
        print(f"  {side:<11} {statistics.median(values):8,.0f}")
    print(f"  median ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), target {TARGET}\n")
    return statistics.median(ratios) >= TARGET


def curve(data: Path, epochs: int, few: int | None, device: str) -> None:
    """Prints both sides' losses and accuracies, epoch by epoch."""
    options = {"model": "resnet18", "img_size": 64, "model_args": HALF_WIDTH, "augment": "light", "few": few}
    task = prepared(data, epochs, **options, optimizer="nesterov", lr=0.05)
    sides = {"visiontool": ours(task, device), "bare loop": bare(task, device)}
    print(f"ResNet-18 of half width at 64 pixels, {len(task.pictures.train):,} pictures")
    for side, done in sides.items():
        print(f"  {side:<11} {statistics.median(done.rates):6,.0f} pictures/s")
    print("| epoch | loss | of the bare loop | accuracy on val | of the bare loop |\n|---|---|---|---|---|")
    columns = [done for side in sides.values() for done in (side.losses, side.accuracies)]
    for epoch, (our_loss, our_share, loss, share) in enumerate(zip(*columns, strict=True), 1):
        print(f"| {epoch} | {our_loss:.3f} | {loss:.3f} | {our_share:.3f} | {share:.3f} |")


def timm_loop(task: Task, device: str) -> float:
    """Pictures a second of timm's loader, which crops and mirrors too, and of a step as its training script has it."""
    batch, paths = task.recipe.batch_size, [task.pictures.paths[index] for index in task.pictures.train]
    with tempfile.TemporaryDirectory() as folder:  # timm reads a folder of them
        for number, path in enumerate(paths):
            Path(folder, "one").mkdir(exist_ok=True)
            os.symlink(path, Path(folder, "one", f"{number}{Path(path).suffix}"))
        batches = timm.data.create_loader(
            timm.data.create_dataset("", folder, is_training=True),
            task.spec.input.size[0],
            batch,
            is_training=True,
            scale=(0.5, 1.0),
            color_jitter=0.0,
            num_workers=cores(),
            pin_memory=device != "cpu",
            device=torch.device(device),
        )
        return steps_per_s(task, device, batches) * batch


def one_batch(task: Task, device: str) -> float:
    """Pictures a second of the steps alone, on random pixels that stay on the device."""
    size, batch = task.spec.input.size, task.recipe.batch_size
    pixels, targets = torch.rand(batch, 3, *size, device=device), torch.zeros(batch, dtype=torch.long, device=device)
    return steps_per_s(task, device, [(pixels, targets)] * (len(task.pictures.train) // batch)) * batch


def steps_per_s(task: Task, device: str, batches: Collection[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Steps a second in the second half of those batches."""
    model = task.network().to(device, memory_format=torch.channels_last).train()
    optimizer = timm.optim.create_optimizer_v2(model, "sgd", lr=task.recipe.lr, layer_decay=task.recipe.layer_decay)
    half, start = len(batches) // 2, 0.0
    for step, (pixels, targets) in enumerate(batches):
        if step == half:
            wait(device)
            start = time.monotonic()
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=device != "cpu"):
            loss = functional.cross_entropy(model(pixels.contiguous(memory_format=torch.channels_last)), targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    wait(device)
    return (len(batches) - half) / (time.monotonic() - start)


def wait(device: str) -> None:
    """For the work that a GPU has been given."""
    if device != "cpu":
        torch.cuda.synchronize()


def opening(task: Task, device: str) -> float:
    """Pictures a second of the processes that open and augment them."""
    recipe = task.recipe
    steps = recipe.steps_for(len(task.pictures.train))
    order = Order(task.pictures, batch=recipe.batch_size, first=0, steps=steps, seed=task.seed, rank=0, world=1)
    keys = [key for key in order if key[0][0] != VAL]
    opened = Opened(task.pictures, task.spec, task.augment, recipe, task.seed, task.limits)
    start = 0.0
    for step, _ in enumerate(loader(opened, keys, task.workers)):
        if step == steps // 2 - 1:
            start = time.monotonic()
    return (steps - steps // 2) * recipe.batch_size / (time.monotonic() - start)


def resnet50(data: Path, batch: int, steps: int, rounds: int, device: str) -> bool:
    """Prints the pictures a second of each side; whether the target is met."""
    task = prepared(data, 2, model="resnet50", augment="light", crop=0.5, batch_size=batch)
    recipe = replace(task.recipe, from_scratch=False, unfreeze="all", optimizer="nesterov", layer_decay=0.8, clip=1.0)
    copies = np.resize(task.pictures.train, batch * steps)  # so that an epoch is long enough
    pictures = replace(task.pictures, train=copies, val=task.pictures.val[:batch])
    task = replace(task, recipe=recipe, pictures=pictures)
    ways: dict[str, Callable[[Task, str], float]] = {
        "visiontool": lambda task, device: ours(task, device).rates[-1],
        "timm": timm_loop,
        "one batch": one_batch,
        "opening": opening,
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, measure in ways.items():
            found[way].append(measure(task, device))
    print(f"ResNet-50, 224 pixels, all layers, batches of {batch}, {rounds} rounds, pictures/s:")
    for way, rates in found.items():
        print(f"  {way:<11} {statistics.median(rates):8,.0f} ({min(rates):,.0f} to {max(rates):,.0f})")
    rows = [*zip(*found.values(), strict=True)]
    ratios = [done / min(computed, opened) for done, _, computed, opened in rows]
    of_timm = statistics.median(done / other for done, other, *_ in rows)
    print(f"  median ratio to the slower of one batch and opening {statistics.median(ratios):.3f}, target {TARGET}")
    print(f"  median ratio to timm {of_timm:.3f}\n")
    return statistics.median(ratios) >= TARGET


def finetune(data: Path, folder: Path, *arguments: str) -> tuple[dict[str, Any], float]:
    """metrics.json of a whole process of visiontool, and its seconds."""
    command = [sys.executable, "-m", "visiontool", "finetune", str(data), "-q", "-o", str(folder), *arguments]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "metrics.json").read_text()), time.perf_counter() - start


def lenet(data: Path, epochs: int) -> bool:
    """Trains LeNet-5 and judges it by the test; whether it has 99.0 %."""
    with tempfile.TemporaryDirectory() as name:
        options = (
            "--augment",
            "light",
            "--no-mirror",
            "--crop",
            "0.8",
            "--rotate",
            "10",
            "-e",
            str(epochs),
            "--lr",
            "2e-3",
        )
        found, seconds = finetune(data, Path(name, "run"), "--from-scratch", "-m", "lenet5", "-b", "128", *options)
        command = [
            sys.executable,
            "-m",
            "visiontool",
            "evaluate",
            f"{name}/run",
            str(data),
            "--split",
            "test",
            "--json",
        ]
        ran = subprocess.run([*command, "-q"], check=True, stdout=subprocess.PIPE, text=True)
        accuracy = json.loads(ran.stdout)["models"][0]["accuracy"]
        with open(Path(name, "run", "history.csv"), newline="") as file:
            curve = [f"{float(row['accuracy']):.4f}" for row in csv.DictReader(file)]
    print(f"LeNet-5, {epochs} epochs, {seconds:.0f} s: val {found['val']['accuracy']:.4f}, test {accuracy:.4f}")
    print(f"  val by epochs: {' '.join(curve)}\n")
    return accuracy >= 0.99


def pairs(name: str, data: Path) -> None:
    """Prints the accuracy on val after the first epoch, the fourth and the last, with one option or another."""
    resnet = ("-m", "cifar_resnet20", "--img-size", "32", "--few", "50", "-e", "12", "--optimizer", "nesterov", "--lr")
    sgd = ("-m", "lenet5", "--few", "200", "-e", "8", "--augment", "none", "--optimizer", "sgd", "--lr", "0.05")
    few = ("-m", "lenet5", "--few", "50", "-e", "30")
    sides = {
        "SGD": sgd,
        "Adam": (*sgd[:-3], "adam", "--lr", "0.001"),
        "with batch normalization": (*sgd, "--model-args", '{"batch_norm": true}'),
        "Xavier": (*sgd, "--init", "xavier"),
        "He": (*sgd, "--init", "he"),
        "augmentation off": (*few, "--augment", "none"),
        "augmentation on": (*few, "--augment", "light", "--no-mirror", "--crop", "0.7", "--rotate", "10"),
    }
    if name == "TINY":
        sides = {
            "augmentation off": (*resnet, "0.05", "--augment", "none"),
            "augmentation on": (*resnet, "0.05", "--augment", "light", "--crop", "0.5"),
        }
    print("| | epoch 1 | epoch 4 | last |\n|---|---|---|---|")
    for side, options in sides.items():
        with tempfile.TemporaryDirectory() as folder:
            found, _ = finetune(data, Path(folder, "run"), "--from-scratch", *options)
        history = found["training"]["history"]
        shares = " | ".join(f"{history[at]['accuracy']:.3f}" for at in (0, 3, -1))
        print(f"| {side} | {shares} |", flush=True)


def transfer(data: Path, squeezenet: Path, seeds: int) -> None:
    """Prints the table of frozen, unfrozen and from scratch."""
    models = {
        "EfficientNet-Lite0": ("-m", "efficientnet_lite0"),
        "SqueezeNet 1.1": ("-m", "squeezenet1_1", "--weights", str(squeezenet)),
    }
    ways = {
        "frozen": (),
        "unfrozen (`--unfreeze all`)": ("--unfreeze", "all"),
        "from scratch, 10 epochs": ("--from-scratch", "-e", "10"),
    }
    print("| network | training | accuracy on val, mean (range) | kept | s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for model, named in models.items():
            for way, options in ways.items():
                accuracies, seconds, kept = [], [], 0
                for seed in range(seeds):
                    chosen = named[:2] if way.startswith("from scratch") else named
                    folder = Path(name, f"{model}-{way[:7]}-{seed}")
                    found, took = finetune(data, folder, *chosen, *options, "--seed", str(seed))
                    trained = found.get("training")
                    accuracies.append((trained or found)["val"]["accuracy"])
                    kept += bool(trained and trained["is_kept"])
                    seconds.append(took)
                spread = f"{np.mean(accuracies):.3f} ({min(accuracies):.3f} to {max(accuracies):.3f})"
                of = f"{kept} of {seeds}" if options else ""
                print(f"| {model} | {way} | {spread} | {of} | {statistics.median(seconds):.0f} |", flush=True)


def main() -> int:
    """Returns 0 where the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("rate", "curve", "resnet50", "lenet", "pairs", "transfer"))
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10, help="of curve and lenet")
    parser.add_argument("--few", type=int, help="pictures of a class, of curve")
    parser.add_argument("--batch", type=int, default=256, help="pictures of a step, of resnet50, as is the next")
    parser.add_argument("--steps", type=int, default=60, help="of an epoch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, of rate, curve and resnet50")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--squeezenet", type=Path, help="a file of its ImageNet weights")
    arguments = parser.parse_args()
    print(f"{platform.platform()}, {cores()} cores, Python {platform.python_version()}, torch {torch.__version__}\n")
    name = "MNIST" if (arguments.data / "train" / "0").is_dir() else "TINY"
    if arguments.part == "rate":
        return 0 if rate(name, arguments.data, arguments.rounds, arguments.device) else 1
    if arguments.part == "resnet50":
        met = resnet50(arguments.data, arguments.batch, arguments.steps, arguments.rounds, arguments.device)
        return 0 if met else 1
    if arguments.part == "lenet":
        return 0 if lenet(arguments.data, arguments.epochs) else 1
    if arguments.part == "pairs":
        pairs(name, arguments.data)
    elif arguments.part == "curve":
        curve(arguments.data, arguments.epochs, arguments.few, arguments.device)
    else:
        transfer(arguments.data, arguments.squeezenet, arguments.seeds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
