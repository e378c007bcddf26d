"""Network: an opened model file that gives outputs for pixels."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visiontool import runtime
from visiontool.data.loader import cores
from visiontool.data.prepare import Prepared
from visiontool.errors import ModelError, UsageError
from visiontool.images import transforms
from visiontool.model.spec import ModelSpec, without_trailing_ones


class Network:
    """The graph of a model file, used as its manifest says."""

    def __init__(self, opened: runtime.OpenModel, spec: ModelSpec, threads: int) -> None:
        self.opened = opened
        self.spec = spec
        fixed = opened.inputs[0].shape[0]
        self.fixed_batch: int | None = fixed if isinstance(fixed, int) else None
        # On the CPU, one run uses `threads` cores, so this many fill the machine.
        self.runs_at_once = max(1, cores() // threads) if threads and opened.provider == "cpu" else 1

    def outputs(self, pixels: NDArray[np.uint8], output: str, *, pad_to: int | None = None) -> NDArray[np.float32]:
        """As `Classifier.outputs`.

        Args:
            pad_to: a GPU, which prepares for each number of pictures anew, takes at least so many.
        """
        height, width = self.spec.input.size
        if self.spec.resize == "graph" and pixels.ndim == 4 and pixels.size > 0:
            height, width = pixels.shape[1:3]
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (height, width, 3):
            raise UsageError(f"expected uint8 (N, {height}, {width}, 3), not {pixels.dtype} {pixels.shape}")
        tensor = transforms.to_tensor(pixels, self.spec.input)
        size = self.fixed_batch
        if size is None:
            return self._call(tensor, output, pad_to)
        padded = np.pad(tensor, [(0, -len(tensor) % size)] + [(0, 0)] * (tensor.ndim - 1))
        chunks = [self._call(chunk, output) for chunk in np.split(padded, len(padded) // size)]
        return np.concatenate(chunks)[: len(tensor)]

    def outputs_of(self, pictures: Sequence[Prepared], output: str, pad_to: int | None = None) -> NDArray[np.float32]:
        """One output for pictures that could be read; those of one size go through the network together."""
        places = defaultdict[tuple[int, ...], list[int]](list)
        pixels = [item.pixels for item in pictures if item.pixels is not None]
        for place, picture in enumerate(pixels):
            places[picture.shape].append(place)
        stacks = [np.stack([pixels[place] for place in same]) for same in places.values()]
        rows = np.concatenate([self.outputs(stack, output, pad_to=pad_to) for stack in stacks])
        return rows[np.argsort(np.concatenate([*places.values()]))]

    def _call(self, tensor: NDArray[Any], output: str, pad_to: int | None = None) -> NDArray[np.float32]:
        bound = self.opened.bound
        try:
            if bound is not None:
                values = bound.outputs(output, tensor, pad_to)
            else:
                values = runtime.outputs(self.opened.session, output, {self.spec.input.name: tensor})
        except ModelError as error:
            hint = "\nIt may want fewer pictures at once: --batch-size 1." if len(tensor) > 1 else ""
            raise ModelError(f"{self.opened.path}: {error}{hint}") from None
        if output == self.spec.logits:
            values = values.reshape(values.shape[: len(without_trailing_ones(values.shape))])
        if values.shape[:1] != tensor.shape[:1] or (
            output == self.spec.logits and values.shape[1:] != (len(self.spec.labels),)
        ):
            raise ModelError(
                f"{self.opened.path}: output {output!r} has shape {values.shape} "
                f"for {len(tensor)} pictures and {len(self.spec.labels)} labels"
            )
        return values.astype(np.float32, copy=False)
