"""Network: an opened model file that is run on pixels."""

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
    """The graph of a model file, as what it says of itself has it.

    Attributes:
        opened: the file and its session.
        spec: what it says of itself.
        runs_at_once: the runs that fill the machine.
        fixed_batch: the pictures that the graph takes in one run; None for any number.
    """

    def __init__(self, opened: runtime.OpenModel, spec: ModelSpec, threads: int) -> None:
        self.opened = opened
        self.spec = spec
        fixed = opened.inputs[0].shape[0]
        self.fixed_batch: int | None = fixed if isinstance(fixed, int) else None
        # On the CPU, one run uses `threads` cores, so this many fill the machine.
        self.runs_at_once = max(1, cores() // threads) if threads and opened.provider == "cpu" else 1

    def run(self, pixels: NDArray[np.uint8], output: str, *, pad_to: int | None = None) -> NDArray[np.float32]:
        """One output of the graph for pixels (N, H, W, 3) uint8.

        H and W are the graph's, or any where it resizes pictures itself. A graph with a fixed batch is run as often as
        needed.

        Args:
            pad_to: a GPU, which prepares for each number of pictures anew, takes at least so many.

        Raises:
            ModelError: the output has another shape than the model file says, or onnxruntime cannot run the graph.
            UsageError: `pixels` are of another type or size.
        """
        height, width = self.spec.input.size
        if self.spec.resize == "graph" and pixels.ndim == 4 and pixels.size > 0:
            height, width = pixels.shape[1:3]
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (height, width, 3):
            raise UsageError(f"expected uint8 (N, {height}, {width}, 3), not {pixels.dtype} {pixels.shape}")
        tensor = transforms.to_tensor(pixels, self.spec.input)
        if self.fixed_batch in (None, len(tensor)):
            return self._run_once(tensor, output, pad_to if self.fixed_batch is None else None)
        size, chunks = self.fixed_batch or 1, []
        for start in range(0, len(tensor), size):
            chunk = tensor[start : start + size]
            padding = np.zeros((size - len(chunk), *tensor.shape[1:]), tensor.dtype)
            chunks.append(self._run_once(np.concatenate([chunk, padding]), output)[: len(chunk)])
        return np.concatenate(chunks)

    def run_all(self, pictures: Sequence[Prepared], output: str, pad_to: int | None = None) -> NDArray[np.float32]:
        """One output for pictures that could be read; those of one size go through the network together."""
        places = defaultdict[tuple[int, ...], list[int]](list)
        pixels = [item.pixels for item in pictures if item.pixels is not None]
        for place, picture in enumerate(pixels):
            places[picture.shape].append(place)
        runs = [self.run(np.stack([pixels[i] for i in same]), output, pad_to=pad_to) for same in places.values()]
        rows = np.concatenate(runs)
        return rows[np.argsort(np.concatenate([*places.values()]))]

    def _run_once(self, tensor: NDArray[Any], output: str, pad_to: int | None = None) -> NDArray[np.float32]:
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
