"""The training loop: from a network and pictures to better weights, on one device or several.

Every step is drawn from the seed and its own number alone, so a run that goes on from a checkpoint ends with the
weights of one that was never interrupted.
"""

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list, gather_object
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from timm.utils import ModelEmaV3
from torch.nn import functional

from visiontool.errors import DeviceError, UsageError, VisiontoolError
from visiontool.progress import Progress, silent
from visiontool.pytorch.exporters import OnnxWrapper
from visiontool.pytorch.train import checkpoint
from visiontool.pytorch.train.batches import VAL, Batch, Opened, Order, loader, seed_of
from visiontool.pytorch.train.optimization import Schedule, is_better, set_mode
from visiontool.pytorch.train.recipe import Epoch
from visiontool.pytorch.train.step import Stepper
from visiontool.pytorch.train.task import Task, Trained, accelerator_for

_log = logging.getLogger(__name__)

_CHECKPOINT_S = 300.0  # at the latest; and behind each epoch
_TRIED, _LEAST_RATE, _MOST_RATE, _SMOOTHING = 100, 1e-7, 10.0, 0.9  # of `try_rates`


def train(
    task: Task, device: str, progress: Progress, epoch_done: Callable[[Sequence[Epoch]], None], log: Path | None
) -> Trained:
    """Trains a network, `Training.run`, in all processes of the run; `log` is the folder for TensorBoard's log."""
    accelerator = accelerator_for(device, log)
    if accelerator.num_processes > 1:
        broadcast_object_list([task])
    if log is not None:
        accelerator.init_trackers("tensorboard")

    def both(epochs: Sequence[Epoch]) -> None:
        epoch_done(epochs)
        values = epochs[-1]._asdict()
        accelerator.log(values, values.pop("step"))  # nowhere without `log`

    trained = Training(task, accelerator).run(progress, both)
    accelerator.end_training()
    return trained


def follow(device: str) -> None:
    """Helps another process, which calls `train`, until it is done."""
    accelerator = accelerator_for(device)
    (task,) = broadcast_object_list([None])
    Training(task, accelerator).run(silent, lambda epochs: None)
    accelerator.end_training()


@torch.inference_mode()
def answers(task: Task, network: torch.nn.Module, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """The logits (N, C) of a trained network, on the CPU, for pictures of the task."""
    opened = Opened(task.pictures, task.spec, task.augment, task.recipe, task.seed, task.limits)
    normalized, size = OnnxWrapper(network, task.spec.input).normalized, task.recipe.batch_size
    keys = [[(VAL, index) for index in indices[at : at + size].tolist()] for at in range(0, len(indices), size)]
    batches = loader(opened, keys, task.workers)
    return np.concatenate([network(normalized(pixels)).numpy() for pixels, _, _ in batches])


class Training:
    """One training; `run` does it."""

    def __init__(self, task: Task, accelerator: Accelerator) -> None:
        self._task, self._recipe, self._accelerator = task, task.recipe, accelerator
        self._rank, self._world = accelerator.process_index, accelerator.num_processes
        recipe, pictures = task.recipe, task.pictures
        batch = min(recipe.batch_size * recipe.accumulate, len(pictures.train))
        batch -= batch % (2 * self._world if recipe.mixup or recipe.cutmix else self._world)
        if recipe.batch_size % self._world or not batch:
            raise UsageError(
                f"batches of {recipe.batch_size} cannot be shared by {self._world} processes;"
                " -b takes a multiple of their number"
            )
        self._batch = batch
        self.steps = recipe.steps_for(len(pictures.train), batch)
        self._per_epoch = len(pictures.train) // batch
        self._stepper = Stepper(task, accelerator, batch)
        self._model, self._optimizer = self._stepper.model, self._stepper.optimizer
        self._ema = ModelEmaV3(self._model, recipe.ema, use_warmup=True) if recipe.ema else None
        self._schedule = Schedule(self._optimizer, recipe, self.steps, self._per_epoch)
        self._step, self._seconds = 0, 0.0
        self._sum, self._summed = torch.zeros((), dtype=torch.float64, device=accelerator.device), 0  # losses
        self._history: list[Epoch] = []
        self._best: dict[str, Any] = {}
        self._signal: int | None = None
        self._is_consistent = True

    def run(self, progress: Progress, epoch_done: Callable[[Sequence[Epoch]], None]) -> Trained:
        """Trains from the last checkpoint on, or from the beginning, to the end.

        Args:
            progress: called with "train", the steps done, and all of them, and a note.
            epoch_done: called with the history, in the first process.

        Raises:
            KeyboardInterrupt: Ctrl-C; a checkpoint was written.
            DeviceError: another process of the run ended, or the memory of the device is too small for two pictures.
            VisiontoolError: the loss is not a number any more.
            OSError: a checkpoint could not be written; those before are still there.
        """
        weights = sum(tensor.nbytes for tensor in self._model.state_dict().values())
        if self._rank == 0:
            checkpoint.check_room(self._task.checkpoints.parent, weights)
        self._resume()
        with self._catching_signals():
            try:
                self._loop(progress, epoch_done)
            except RuntimeError as error:
                if self._signal is not None:  # it may have ended a loading process too
                    self._stop()
                if self._world == 1:
                    raise
                self._save()
                raise DeviceError(f"another process of this run ended: {str(error).splitlines()[0]}") from error
        network = self._task.network()
        network.load_state_dict(self._best["weights"])
        logits = self._best["logits"].numpy()
        return Trained(network.eval(), logits, tuple(self._history), self._best["index"])

    def try_rates(self, progress: Progress) -> tuple[list[tuple[float, float]], float]:
        """Learning rates, each with the smoothed loss of a step at it, and the one where the loss falls fastest.

        The rates rise from step to step until the loss is four times its least. The weights are of no use afterwards.

        Source: Smith 2017, "Cyclical learning rates for training neural networks", arXiv:1506.01186, section 3.3; the
            smoothing and the end are fastai's.
        """
        task = self._task
        opened = Opened(task.pictures, task.spec, task.augment, self._recipe, task.seed, task.limits)
        order = [keys for keys in self._order(_TRIED) if keys[0][0] != VAL]
        batches = iter(loader(opened, order, task.workers))
        set_mode(self._model, self._recipe)
        tried: list[tuple[float, float]] = []
        smoothed = 0.0
        for number in range(_TRIED):
            rate = _LEAST_RATE * (_MOST_RATE / _LEAST_RATE) ** (number / (_TRIED - 1))
            for group in self._optimizer.param_groups:
                group["lr"] = rate * group.get("lr_scale", 1.0)
            loss = float(self._stepper.update(next(batches), number))
            smoothed = _SMOOTHING * smoothed + (1 - _SMOOTHING) * loss
            tried.append((rate, smoothed / (1 - _SMOOTHING ** (number + 1))))
            progress("train", number + 1, _TRIED)
            if not tried[-1][1] < 4 * min(loss for _, loss in tried):
                break
        rates, losses = np.array(tried).T
        slopes = np.gradient(losses, np.log(rates))
        return tried, float(rates[slopes.argmin()])

    def _order(self, steps: int) -> Order:
        task, rank, world = self._task, self._rank, self._world
        return Order(
            task.pictures, batch=self._batch, first=self._step, steps=steps, seed=task.seed, rank=rank, world=world
        )

    def _loop(self, progress: Progress, epoch_done: Callable[[Sequence[Epoch]], None]) -> None:
        task, recipe = self._task, self._recipe
        opened = Opened(task.pictures, task.spec, task.augment, recipe, task.seed, task.limits)
        order = self._order(self.steps)
        batches = iter(loader(opened, order, task.workers))
        set_mode(self._model, recipe)
        last_saved = start = time.monotonic()
        earlier, begun, ends = self._seconds, (self._step, start), False
        while self._step < self.steps and not ends:
            lr, batch = self._schedule.set(self._step), next(batches)
            self._is_consistent = False
            self._sum += self._stepper.update(batch, self._step)
            self._step, self._summed = self._step + 1, self._summed + 1
            if self._ema is not None:
                self._ema.update(self._model, self._step - 1)
            self._is_consistent = not order.ends_epoch(self._step)  # val must be judged first
            now = time.monotonic()
            self._seconds = earlier + now - start
            rate = (self._step - begun[0]) * self._batch / max(now - begun[1], 1e-9)  # without judging val
            progress("train", self._step, self.steps, f"{rate:,.0f} pictures/s{self._latest()}")
            is_late = recipe.time_limit is not None and self._seconds > recipe.time_limit
            is_late, is_stopped = self._agreed(is_late, self._signal is not None)
            if order.ends_epoch(self._step):
                self._judge(batches, order, lr, rate)
            elif is_late:
                self._judge(iter(loader(opened, [*order.of_val()], task.workers)), order, lr, rate)
            else:
                if is_stopped:
                    self._stop()
                if now - last_saved > _CHECKPOINT_S:
                    self._save()
                    last_saved = time.monotonic()
                continue
            ends, *_ = self._agreed(is_late or self._has_stalled())
            if self._rank == 0:
                epoch_done(self._history)
            self._is_consistent = True
            self._save()
            if is_stopped:
                self._stop()
            last_saved = time.monotonic()
            begun = self._step, last_saved

    @torch.no_grad()
    def _judge(self, batches: Iterator[Batch], order: Order, lr: float, rate: float) -> None:
        """Judges val, adds a line to the history, and keeps the weights where they are the best so far."""
        network = self._model if self._ema is None else self._ema.module
        if not torch.isfinite(self._sum):
            raise VisiontoolError(
                f"the loss is not a number any more, after {self._step:,} steps.\n"
                f"Take a lower learning rate than {self._recipe.lr:g}; --find-lr PLOT.png tries some."
            )
        network.eval()
        if self._world > 1:
            broadcast([*network.buffers()])  # batch normalization's
        rows: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
        for _ in order.of_val():
            pixels, _, indices = next(batches)
            x = self._stepper.input_of(pixels)
            rows.append((indices.numpy(), network(x).float().cpu().numpy()))
        set_mode(self._model, self._recipe)
        if self._world > 1:
            rows, self._sum = gather_object(rows), self._accelerator.reduce(self._sum, "mean")
        order_of = np.argsort(np.concatenate([one for one, _ in rows]))
        logits = np.concatenate([one for _, one in rows])[order_of]
        val = np.sort(self._task.pictures.val)
        truth, predicted = self._task.pictures.class_ids[val], logits.argmax(axis=1)
        val_loss = float(functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(truth)))
        self._history.append(
            Epoch(
                epoch=-(-self._step // self._per_epoch),
                step=self._step,
                lr=lr,
                loss=float(self._sum) / self._summed,
                val_loss=val_loss,
                accuracy=float((predicted == truth).mean()),
                macro_f1=float(f1_score(truth, predicted, average="macro", labels=np.unique(truth), zero_division=0)),
                images_per_s=rate,
                seconds=self._seconds,
            )
        )
        self._sum, self._summed = torch.zeros_like(self._sum), 0
        score = self._score(self._history[-1])
        self._schedule.judge(val_loss if self._recipe.monitor == "loss" else score[0])
        before = self._score(self._history[self._best["index"]]) if self._best else None
        if is_better(self._recipe.monitor, score, before):
            weights = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
            self._best = {"index": len(self._history) - 1, "weights": weights, "logits": torch.from_numpy(logits)}

    def _score(self, epoch: Epoch) -> tuple[float, float]:
        return (epoch.accuracy if self._recipe.monitor == "accuracy" else epoch.macro_f1, epoch.val_loss)

    def _has_stalled(self) -> bool:
        patience = self._recipe.patience
        stalled = patience is not None and len(self._history) - 1 - self._best["index"] >= patience
        if stalled:
            _log.info(f"Stopped: {self._recipe.monitor} has not got better in {patience} epochs.")
        return stalled

    def _latest(self) -> str:
        return "".join(f"  loss {one.loss:.3f}  val accuracy {one.accuracy:.1%}" for one in self._history[-1:])

    def _agreed(self, *flags: bool) -> list[bool]:
        """What the first process says, in all of them."""
        if self._world == 1:
            return [*flags]
        said = broadcast(torch.tensor(flags, dtype=torch.uint8, device=self._accelerator.device))
        return [bool(flag) for flag in said]

    @contextlib.contextmanager
    def _catching_signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM ends the run behind a step, with a checkpoint; the second at once."""

        def catch(number: int, _: Any) -> None:
            if self._signal is not None:
                raise KeyboardInterrupt
            self._signal = number

        before: dict[int, Any] = {}
        with contextlib.suppress(ValueError):  # not in the main thread, which alone gets signals
            before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self) -> None:
        self._save()
        if self._signal == signal.SIGTERM:
            others = ", or another process of the run has ended," if self._world > 1 else ""
            raise DeviceError(f"it was told to stop{others} after {self._step:,} of {self.steps:,} steps")
        raise KeyboardInterrupt

    def _save(self) -> None:
        if self._rank or not self._is_consistent:
            return
        state = {
            "step": self._step,
            "pictures": self._signature(),
            "model": self._model.state_dict(),
            "ema": None if self._ema is None else self._ema.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state(),
            "best": self._best,
            "history": [tuple(one) for one in self._history],
            "sum": (self._sum, self._summed),
            "seconds": self._seconds,
            "micro": self._stepper.micro,
        }
        checkpoint.save(self._task.checkpoints, self._step, state)

    def _resume(self) -> None:
        state = checkpoint.load(self._task.checkpoints)
        if state is None:
            return
        if state["pictures"] != self._signature():
            raise UsageError("the pictures, their splits or the batches are not those that this run began with")
        self._model.load_state_dict(state["model"])
        if self._ema is not None:
            self._ema.module.load_state_dict(state["ema"])
        rates = [{name: group[name] for name in group if name != "params"} for group in self._optimizer.param_groups]
        self._optimizer.load_state_dict(state["optimizer"])
        for group, values in zip(self._optimizer.param_groups, rates, strict=True):
            group.update(values if not state["schedule"] else {})
        self._schedule.load(state["schedule"])
        self._step, self._seconds = state["step"], state["seconds"]
        self._sum, self._summed = state["sum"][0].to(self._sum.device), state["sum"][1]
        self._stepper.micro, self._best = state["micro"], state["best"]
        self._history = [Epoch(*one) for one in state["history"]]
        _log.info(f"Goes on behind step {self._step:,} of {self.steps:,}.")

    def _signature(self) -> str:
        pictures = self._task.pictures
        parts = (pictures.class_ids.tolist(), pictures.train.tolist(), pictures.val.tolist(), self._batch)
        return f"{seed_of([*pictures.names], *parts):x}"
