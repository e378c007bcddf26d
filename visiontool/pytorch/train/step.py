"""One step of the optimizer, in as much memory as there is."""

import contextlib
import logging

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size

from visiontool.errors import DeviceError
from visiontool.pytorch.exporters import OnnxWrapper
from visiontool.pytorch.train.batches import Batch, seed_of
from visiontool.pytorch.train.optimization import freeze, loss_of, mixup_of, optimizer_of
from visiontool.pytorch.train.task import Task

_log = logging.getLogger(__name__)


class Stepper:
    """The network of a task on its device, with its optimizer and its loss."""

    def __init__(self, task: Task, accelerator: Accelerator, batch: int) -> None:
        self._task, self._accelerator = task, accelerator
        recipe, pictures = task.recipe, task.pictures
        self.micro = -(-batch // (recipe.accumulate * accelerator.num_processes))  # pictures in memory at once
        self.model = task.network().to(accelerator.device).to(memory_format=torch.channels_last)
        self._normalized = OnnxWrapper(self.model, task.spec.input).to(accelerator.device).normalized
        freeze(self.model, recipe)
        self._wrapped = accelerator.prepare_model(self.model)
        self.optimizer = optimizer_of(self.model, recipe)
        sizes = np.bincount(pictures.class_ids[pictures.train], minlength=len(task.spec.labels))
        self._loss = loss_of(recipe, sizes, task.balance, task.log_prior, accelerator.device)
        self._mixup = mixup_of(recipe, len(task.spec.labels))
        if self._mixup is not None:
            self.micro += self.micro % 2  # it mixes pairs
        self._amp = recipe.amp == "on" or (recipe.amp == "auto" and accelerator.device.type == "cuda")

    def input_of(self, pixels: torch.Tensor) -> torch.Tensor:
        """The input of the network, on its device, for pixels (N, H, W, 3), uint8."""
        x = self._normalized(pixels.to(self._accelerator.device, non_blocking=True))
        return x.contiguous(memory_format=torch.channels_last)

    def update(self, batch: Batch, step: int) -> torch.Tensor:
        """One step of the optimizer; gives its loss. In less memory than asked for, where there is too little."""
        pixels, targets, _ = batch
        while True:
            # Dropout, drop path and mixup draw from these.
            seed = seed_of(self._task.seed, "step", step, self._accelerator.process_index)
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            self.optimizer.zero_grad(set_to_none=True)
            try:
                loss = self._backward(pixels, targets)
                break
            except (RuntimeError, MemoryError) as error:
                if self._accelerator.num_processes > 1 or not should_reduce_batch_size(error):
                    raise
                if self.micro <= 2:
                    raise DeviceError(
                        "the memory is too small to train this network, even with two pictures"
                    ) from error
            self.micro = max(2, self.micro // 4 * 2)
            torch.cuda.empty_cache()
            _log.info(f"Memory ran out: {self.micro} pictures at once from here on, the same number a step.")
        if self._task.recipe.clip:
            self._accelerator.clip_grad_norm_(self.model.parameters(), self._task.recipe.clip)
        self.optimizer.step()
        return loss

    def _backward(self, pixels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        device, count = self._accelerator.device, len(targets)
        total = torch.zeros((), dtype=torch.float64, device=device)
        for start in range(0, count, self.micro):
            y = targets[start : start + self.micro].to(device, non_blocking=True)
            x = self.input_of(pixels[start : start + self.micro])
            if self._mixup is not None:
                x, y = self._mixup(x, y)
            is_last = start + self.micro >= count
            with contextlib.nullcontext() if is_last else self._accelerator.no_sync(self._wrapped):
                with torch.autocast(device.type, torch.bfloat16, enabled=self._amp):
                    logits = self._wrapped(x)
                loss = self._loss(logits, y) * (len(x) / count)
                if self._task.recipe.l1 and is_last:
                    weights = [one for one in self.model.parameters() if one.requires_grad and one.ndim > 1]
                    loss = loss + self._task.recipe.l1 * sum(one.abs().sum() for one in weights)
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()  # as a number only when it is asked for: a GPU works ahead
        return total
