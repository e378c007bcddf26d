"""The options of `visiontool finetune` that train the network in torch."""

import json
import re
from collections.abc import Callable
from functools import reduce
from typing import Any, get_args

import click

from visiontool.cli import options
from visiontool.pytorch.train.recipe import Amp, AutoAugment, Init, Loss, Monitor, Scheduler


def _layers(value: str) -> str | int:
    """Reads auto, all, or a number."""
    if value in ("auto", "all"):
        return value
    if re.fullmatch(r"[1-9]\d{0,3}", value, re.ASCII):
        return int(value)
    raise click.BadParameter(f"{value!r} is not auto, all, or a number of groups of layers")


def _epochs(value: str) -> tuple[int, ...]:
    """Reads 30,60,90."""
    if not re.fullmatch(r"[1-9]\d{0,5}(,[1-9]\d{0,5})*", value, re.ASCII):
        raise click.BadParameter(f"{value!r} is not a list of epochs such as 30,60,90")
    return tuple(map(int, value.split(",")))


def duration(value: str) -> float:
    """Reads seconds, 90s, 10m or 2h."""
    match = re.fullmatch(r"(\d{1,7}(?:\.\d+)?)([smh]?)", value, re.ASCII)
    if match is None or not float(match[1]):
        raise click.BadParameter(f"{value!r} is not a time such as 90s, 10m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _arguments(value: str) -> dict[str, Any]:
    """Reads a JSON object."""
    try:
        arguments = json.loads(value)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise click.BadParameter(f'{value!r} is not a JSON object such as {{"channels": [32, 64, 128, 256]}}')
    return arguments


_SHARE = click.FloatRange(0, 1)
_AMOUNT = click.FloatRange(0)
_OPTIONS = (
    click.option("--unfreeze", type=_layers, metavar="auto|all|N", help="Train the network too; kept only if better."),
    click.option("--from-scratch", is_flag=True, default=None, help="Train the network of -m from random weights."),
    click.option("-e", "--epochs", type=click.IntRange(1), metavar="N", help="How often each picture is learned from."),
    click.option("--steps", type=click.IntRange(1), metavar="N", help="Instead of epochs: steps of the optimizer."),
    click.option("--accumulate", type=options.COUNT, metavar="N", help="Batches of a step.  [default: 1]"),
    click.option("--optimizer", metavar="NAME", help="sgd, momentum, nesterov, adam ... or timm's."),
    click.option("--lr", type=_AMOUNT, metavar="R", help="Learning rate.  [default: by the optimizer]"),
    click.option("--momentum", type=_SHARE, metavar="P", help="Of momentum, nesterov, rmsprop.  [default: 0.9]"),
    click.option("--weight-decay", type=_AMOUNT, metavar="R", help="The L2 penalty.  [default: 1e-4; 0.05 of adamw]"),
    click.option("--l1", type=_AMOUNT, metavar="R", help="The L1 penalty.  [default: 0]"),
    click.option("--layer-decay", type=_SHARE, metavar="P", help="Lower rates for earlier layers.  [default: 0.8]"),
    click.option("--scheduler", type=click.Choice(get_args(Scheduler)), help="Of the rate.  [default: cosine]"),
    click.option("--warmup", type=_SHARE, metavar="P", help="Share of the steps.  [default: 0.05]"),
    click.option(
        "--decay-every", type=click.IntRange(1), metavar="N", help="Scheduler step, plateau: epochs.  [default: 10]"
    ),
    click.option("--decay-at", type=_epochs, metavar="N,N", help="Scheduler multistep: epochs."),
    click.option("--decay-rate", type=_SHARE, metavar="P", help="Of step, multistep, plateau.  [default: 0.1]"),
    click.option("--loss", type=click.Choice(get_args(Loss)), help="[default: cross-entropy]"),
    click.option("--smoothing", type=_SHARE, metavar="P", help="Of the labels.  [default: 0]"),
    click.option("--gamma", type=_AMOUNT, metavar="R", help="Of the focal loss.  [default: 2]"),
    click.option("--dropout", type=_SHARE, metavar="P", help="Ahead of the classifier.  [default: the network's]"),
    click.option("--drop-path", type=_SHARE, metavar="P", help="Stochastic depth.  [default: the network's]"),
    click.option("--mixup", type=_AMOUNT, metavar="ALPHA", help="Mix pairs of pictures.  [default: 0]"),
    click.option("--cutmix", type=_AMOUNT, metavar="ALPHA", help="Paste parts of others.  [default: 0]"),
    click.option("--erase", type=_SHARE, metavar="P", help="Erase a rectangle of so many pictures.  [default: 0]"),
    click.option(
        "--auto-augment", type=click.Choice(get_args(AutoAugment)), help="torchvision's, on top of --augment."
    ),
    click.option("--ema", type=_SHARE, metavar="P", help="Average the weights, with this decay.  [default: 0]"),
    click.option("--clip", type=_AMOUNT, metavar="R", help="Largest norm of a gradient; 0 is off.  [default: 1]"),
    click.option("--amp", type=click.Choice(get_args(Amp)), help="bfloat16.  [default: auto, on a GPU]"),
    click.option("--monitor", type=click.Choice(get_args(Monitor)), help="Chooses the epoch.  [default: macro-f1]"),
    click.option("--patience", type=click.IntRange(1), metavar="N", help="Stop after N epochs that are no better."),
    click.option("--time-limit", type=duration, metavar="T", help="Stop after 90s, 10m or 2h."),
    click.option("--init", type=click.Choice(get_args(Init)), help="Random weights.  [default: the paper's]"),
    click.option("--img-size", type=options.SIDE, metavar="N", help="From scratch: side in pixels."),
    click.option(
        "--model-args", type=_arguments, metavar="JSON", help="From scratch: timm's arguments of the network."
    ),
    click.option("--log", type=click.Choice(("tensorboard",)), help="Write a log for TensorBoard too."),
    click.option("--find-lr", type=options.FILE, metavar="PLOT.png", help="Try learning rates, print one and stop."),
    click.option(
        "--resume", type=options.PATH, metavar="RUN", help="Go on with an interrupted run, or train it longer."
    ),
)


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds them to a command."""
    return reduce(lambda done, option: option(done), reversed(_OPTIONS), command)
