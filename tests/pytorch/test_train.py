"""The training loop: each option has an effect, and neither an interruption nor a failure loses a step."""

import os
import resource
import signal
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from visiontool.errors import ConversionError, UsageError, VisiontoolError
from visiontool.images.augment import LEVELS
from visiontool.images.decode import DEFAULT_LIMITS
from visiontool.model.spec import InputSpec, ModelSpec
from visiontool.progress import silent
from visiontool.pytorch.train import checkpoint
from visiontool.pytorch.train.batches import Pictures
from visiontool.pytorch.train.networks import untrained
from visiontool.pytorch.train.optimization import Schedule, freeze, is_better, optimizer_of
from visiontool.pytorch.train.recipe import Recipe
from visiontool.pytorch.train.step import Stepper
from visiontool.pytorch.train.task import Task, accelerator_for
from visiontool.pytorch.train.trainer import Training

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = ModelSpec(
    name="small", labels=("flat", "tall", "wide"), input=InputSpec(size=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
)
BASE = {"from_scratch": True, "steps": 4, "batch_size": 4}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """12 pictures for training, 6 of val, of three classes."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(18)]
    for number, path in enumerate(paths):
        pixels = draw.integers(0, 200, (40, 44, 3), np.uint8)
        if number % 3:
            pixels[:: 1 if number % 3 == 1 else 4, :: 4 if number % 3 == 1 else 1] = 255
        Image.fromarray(pixels).save(path)
    names = [path.name for path in paths]
    return Pictures([str(path) for path in paths], names, np.arange(18) % 3, np.arange(12), np.arange(12, 18))


def training(pictures, folder, *, workers=0, seed=0, augment=LEVELS["medium"], balance="none", **options):
    recipe = Recipe.of_options({**BASE, **options})
    network = partial(untrained, "test_resnet", 3, 32, {}, recipe, seed)
    prior = np.log(np.array([0.7, 0.2, 0.1])) if balance == "logit-adjust" else np.zeros(3)
    task = Task(
        pictures, SPEC, recipe, augment, seed, balance, prior, folder / "checkpoint", DEFAULT_LIMITS, workers, network
    )
    return Training(task, accelerator_for("cpu"))


def trained(pictures, folder, progress=silent, **options):
    folder.mkdir(exist_ok=True)
    return training(pictures, folder, **options).run(progress, lambda history: None)


def weights_of(result):
    return {name: tensor.clone() for name, tensor in result.network.state_dict().items()}


def last_weights(pictures, folder, **options):
    """Those after the last step, not those that are best."""
    folder.mkdir()
    one = training(pictures, folder, **options)
    one.run(silent, lambda history: None)
    return (one._ema.module if one._ema else one._model).state_dict()


def is_same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize(
    ("options", "others"),
    [
        ({"epochs": 2}, {}),
        ({"steps": 5}, {}),
        ({"batch_size": 6}, {}),
        ({"accumulate": 2}, {}),
        ({"optimizer": "sgd"}, {}),
        ({"lr": 2e-3}, {}),
        ({"momentum": 0.5}, {"optimizer": "momentum"}),
        ({"weight_decay": 0.5}, {}),
        ({"l1": 0.01}, {}),
        ({"layer_decay": 0.5}, {"from_scratch": None, "unfreeze": "all"}),
        ({"unfreeze": 2}, {"from_scratch": None, "unfreeze": "all"}),
        *(({"scheduler": name}, {}) for name in ("step", "multistep", "plateau", "linear", "one-cycle")),
        ({"warmup": 0.5}, {}),
        ({"decay_every": 1}, {"scheduler": "step", "steps": 7}),
        ({"decay_at": (1,)}, {"scheduler": "multistep", "steps": 7}),
        ({"decay_rate": 0.5}, {"scheduler": "step", "steps": 7, "decay_every": 1}),
        *(({"loss": name}, {}) for name in ("class-balanced", "focal", "bce")),
        ({"smoothing": 0.1}, {}),
        ({"smoothing": 0.1}, {"loss": "bce", "mixup": 0.5}),
        ({"gamma": 1.0}, {"loss": "focal"}),
        ({"dropout": 0.5}, {}),
        ({"drop_path": 0.5}, {}),
        ({"mixup": 0.5}, {}),
        ({"cutmix": 0.5}, {}),
        ({"erase": 1.0}, {}),
        *(({"auto_augment": name}, {}) for name in ("rand", "trivial", "augmix")),
        ({"ema": 0.9}, {}),
        ({"clip": 0.01}, {"optimizer": "sgd"}),
        ({"amp": "on"}, {}),
        *(({"init": name}, {}) for name in ("xavier", "he")),
        ({"augment": LEVELS["none"]}, {}),
        ({"balance": "weights"}, {}),
        ({"balance": "logit-adjust"}, {}),
        ({"seed": 1}, {}),
    ],
    ids=lambda options: "-".join(f"{name}={value}" for name, value in options.items())[:40],
)
def test_each_option_changes_the_weights(pictures, tmp_path, options, others):
    uneven = Pictures(
        *(getattr(pictures, name) for name in ("paths", "names", "class_ids")), np.arange(11), pictures.val
    )
    if "epochs" in options:
        others = {"steps": None}
    before = last_weights(uneven, tmp_path / "before", **others)
    after = last_weights(uneven, tmp_path / "after", **{**others, **options})
    assert not is_same(before, after)


NAMES = "sgd momentum nesterov adagrad adadelta rmsprop adam adamw adamax nadam amsgrad lamb lion"


@pytest.mark.parametrize("name", NAMES.split())
def test_each_optimizer_lowers_a_loss(name):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = optimizer_of(model, Recipe.of_options({**BASE, "optimizer": name, "lr": 0.01, "weight_decay": 0.0}))
    x = torch.randn(64, 4)
    losses = []
    for _ in range(30):
        loss = (model(x) - x.sum(dim=1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def rates_of(steps=20, per_epoch=5, **options):
    model = torch.nn.Linear(4, 1)
    recipe = Recipe.of_options({**BASE, "lr": 1.0, **options})
    schedule = Schedule(optimizer_of(model, recipe), recipe, steps, per_epoch)
    return [schedule.set(step) for step in range(steps)], schedule


@pytest.mark.parametrize(
    ("scheduler", "options", "expected"),
    [
        ("cosine", {"warmup": 0.25}, {0: 0.17, 5: 0.85, 19: 0.01}),
        ("linear", {"warmup": 0.0}, {0: 1.0, 10: 0.5, 19: 0.05}),
        ("step", {"warmup": 0.0, "decay_every": 2}, {9: 1.0, 10: 0.1, 19: 0.1}),
        ("multistep", {"warmup": 0.0, "decay_at": (1, 3), "decay_rate": 0.5}, {3: 1.0, 5: 0.5, 13: 0.5, 15: 0.25}),
        ("one-cycle", {"warmup": 0.25}, {0: 0.04, 4: 1.0, 19: 0.0}),
    ],
)
def test_schedules(scheduler, options, expected):
    rates, _ = rates_of(scheduler=scheduler, **options)
    assert {step: rates[step] for step in expected} == pytest.approx(expected, abs=0.03)


def test_plateau_lowers_the_rate_once_nothing_gets_better():
    _, schedule = rates_of(scheduler="plateau", decay_every=2, decay_rate=0.5)
    rates = []
    for score in (0.5, 0.6, 0.6, 0.6, 0.6):
        schedule.judge(score)
        rates.append(schedule.set(0))
    assert rates == [1.0, 1.0, 1.0, 1.0, 0.5]


def test_layers_that_stay_frozen_keep_every_bit(pictures, tmp_path):
    options = {"from_scratch": None, "unfreeze": 1}
    start = {
        name: tensor.clone() for name, tensor in training(pictures, tmp_path, **options)._model.state_dict().items()
    }
    after = weights_of(trained(pictures, tmp_path, **options))
    assert {name for name in start if not torch.equal(start[name], after[name])} == {
        "fc.weight",
        "fc.bias",
    }


def test_batch_norm_keeps_its_statistics_behind_a_solved_head(pictures, tmp_path):
    start = training(pictures, tmp_path, from_scratch=None, unfreeze="all")._model.state_dict()
    before = {name: tensor.clone() for name, tensor in start.items()}
    after = weights_of(trained(pictures, tmp_path, from_scratch=None, unfreeze="all"))
    statistics = [name for name in before if "running" in name]
    assert statistics
    assert all(torch.equal(before[name], after[name]) for name in statistics)
    assert not torch.equal(before["conv1.0.weight"], after["conv1.0.weight"])


def test_more_groups_than_there_are(pictures, tmp_path):
    with pytest.raises(UsageError, match="groups of layers"):
        freeze(torch.nn.Sequential(torch.nn.Linear(2, 2)), Recipe.of_options({"unfreeze": 3}))


EVERYTHING = {
    "steps": 8,
    "mixup": 0.5,
    "ema": 0.9,
    "erase": 0.5,
    "auto_augment": "rand",
    "dropout": 0.2,
    "drop_path": 0.2,
}


@pytest.mark.parametrize("last", [2, 3, 7])  # in the middle of an epoch, at the end of one, near the end
def test_interrupted_and_resumed_it_ends_with_the_same_bits(pictures, tmp_path, last):
    whole = trained(pictures, tmp_path / "whole", scheduler="one-cycle", **EVERYTHING)

    def interrupt(stage, done, total, note=""):
        if done == last:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trained(pictures, tmp_path / "cut", interrupt, scheduler="one-cycle", **EVERYTHING)
    assert checkpoint.load(tmp_path / "cut" / "checkpoint")["step"] == last
    resumed = trained(pictures, tmp_path / "cut", scheduler="one-cycle", **EVERYTHING)
    assert is_same(weights_of(whole), weights_of(resumed))
    assert [epoch[:7] for epoch in whole.history] == [epoch[:7] for epoch in resumed.history]


def test_the_number_of_loading_processes_changes_no_bit(pictures, tmp_path):
    results = [trained(pictures, tmp_path / str(workers), workers=workers, **EVERYTHING) for workers in (0, 2)]
    assert is_same(*map(weights_of, results))


def test_plateau_is_resumed_with_what_it_has_seen(pictures, tmp_path):
    options = {"scheduler": "plateau", "decay_every": 1, "lr": 1e-9, "monitor": "accuracy"}
    whole = trained(pictures, tmp_path / "whole", steps=15, **options)
    trained(pictures, tmp_path / "cut", steps=6, **options)
    resumed = trained(pictures, tmp_path / "cut", steps=15, **options)
    assert [epoch.lr for epoch in whole.history] == [epoch.lr for epoch in resumed.history]
    assert whole.history[-1].lr < 1e-9


def test_two_checkpoints_are_kept_and_a_broken_one_is_passed_over(pictures, tmp_path):
    trained(pictures, tmp_path, steps=9)
    newest, before = checkpoint.files(tmp_path / "checkpoint")
    newest.write_bytes(newest.read_bytes()[:1000])
    assert checkpoint.load(tmp_path / "checkpoint")["step"] == 6
    before.write_bytes(b"")
    with pytest.raises(ConversionError, match="broken"):
        checkpoint.load(tmp_path / "checkpoint")


def test_a_full_disk_leaves_the_last_checkpoint(pictures, tmp_path):
    trained(pictures, tmp_path, steps=3)
    kept = checkpoint.files(tmp_path / "checkpoint")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            trained(pictures, tmp_path, steps=6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.files(tmp_path / "checkpoint") == kept
    assert not list((tmp_path / "checkpoint").glob("*.partial"))
    assert trained(pictures, tmp_path, steps=6).history[-1].step == 6


def test_a_disk_without_room_is_found_before_the_start(tmp_path):
    with pytest.raises(ConversionError, match=r"needs 1,800,\d+.* GB.*\n-o names"):
        checkpoint.check_room(tmp_path, 10**14)


def test_less_memory_takes_fewer_pictures_at_once_and_gives_the_same(pictures, tmp_path, monkeypatch, caplog):
    options = {"from_scratch": None, "unfreeze": "all", "batch_size": 12, "augment": LEVELS["none"]}
    whole = trained(pictures, tmp_path / "whole", **options)
    backward = Stepper._backward

    def with_little_memory(self, pixels, targets):
        if self.micro > 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return backward(self, pixels, targets)

    monkeypatch.setattr(Stepper, "_backward", with_little_memory)
    caplog.set_level("INFO", "visiontool")
    small = trained(pictures, tmp_path / "small", **options)
    assert "6 pictures at once" in caplog.text
    one, other = weights_of(whole), weights_of(small)
    assert all(torch.allclose(one[name].float(), other[name].float(), atol=1e-5) for name in one)


def test_it_stops_where_nothing_gets_better_or_the_time_is_up(pictures, tmp_path):
    assert len(trained(pictures, tmp_path / "a", steps=30, lr=1e-9, monitor="accuracy", patience=2).history) <= 6
    cut = trained(pictures, tmp_path / "b", steps=10**6, time_limit=1.0)
    assert cut.history[-1].step < 10**6
    assert cut.history[-1].seconds < 10


def test_a_loss_that_is_no_number_ends_the_training(pictures, tmp_path):
    with pytest.raises(VisiontoolError, match="lower learning rate than 1000"):
        trained(pictures, tmp_path, lr=1000.0, optimizer="sgd", clip=0.0, steps=60)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": 1.0}, "--lr trains the network, which is frozen: add --unfreeze or --from-scratch"),
        ({"unfreeze": "all", "from_scratch": True}, "give one of them"),
        ({"unfreeze": "most"}, "auto, all, or a number"),
        ({"from_scratch": True, "epochs": 2, "steps": 3}, "--epochs and --steps"),
        ({"from_scratch": True, "momentum": 0.5}, "--optimizer momentum, nesterov, rmsprop"),
        ({"from_scratch": True, "decay_at": (3,)}, "--scheduler multistep"),
        ({"from_scratch": True, "gamma": 1.0}, "--loss focal"),
        ({"from_scratch": True, "layer_decay": 0.5}, "--unfreeze"),
        ({"unfreeze": "all", "init": "he"}, "--from-scratch"),
        ({"unfreeze": "all", "ema": 1.5}, "ema is 1.5"),
        ({"unfreeze": "all", "mixup": 0.5, "batch_size": 3}, "is odd"),
        ({"unfreeze": "all", "loss": "hinge"}, "cross-entropy, class-balanced"),
    ],
)
def test_options_that_cannot_be_meant(options, words):
    with pytest.raises(UsageError, match=words):
        Recipe.of_options(options)


@pytest.mark.parametrize(
    ("options", "lr", "decay"),
    [
        ({"unfreeze": "all"}, 3e-3, 1e-4),
        ({"unfreeze": "all", "optimizer": "adam"}, 1e-4, 1e-4),
        ({"from_scratch": True}, 1e-3, 0.05),
        ({"from_scratch": True, "optimizer": "sgd"}, 0.05, 1e-4),  # 0.05 of its gradients would shrink every weight
    ],
)
def test_the_defaults_fit_the_optimizer(options, lr, decay):
    recipe = Recipe.of_options(options)
    assert (recipe.lr, recipe.weight_decay) == (lr, decay)


@pytest.mark.parametrize(("monitor", "better"), [("macro-f1", True), ("accuracy", True), ("loss", False)])
def test_what_is_monitored_decides_which_epoch_is_better(monitor, better):
    assert is_better(monitor, (0.9, 0.5), (0.8, 0.4)) is better
    assert is_better(monitor, (0.8, 0.3), (0.8, 0.4))


def test_mixup_gets_pairs_where_memory_is_cut_into_odd_parts(pictures, tmp_path):
    assert trained(pictures, tmp_path, batch_size=6, accumulate=2, mixup=0.5, steps=1).history[-1].step == 1
    few = Pictures(pictures.paths, pictures.names, pictures.class_ids, pictures.train[:6], pictures.val)
    assert trained(few, tmp_path / "few", batch_size=4, accumulate=2, mixup=0.5, steps=1).history[-1].step == 1


def test_unknown_optimizers_and_arguments_are_named(pictures, tmp_path):
    with pytest.raises(UsageError, match="Closest: adan"):
        trained(pictures, tmp_path, optimizer="adanww")
    recipe = Recipe.of_options({**BASE, "drop_path": 0.1})
    with pytest.raises(UsageError, match="--drop-path"):
        untrained("cifar_resnet20", 3, 32, {}, recipe, 0)
