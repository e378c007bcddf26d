"""The sides of gpu.py, each in a separate process: `python gpu_sides.py SIDE TASK`, task and answer as JSON.

A run goes from pixels in host memory, uint8 (N, H, W, 3), to logits in host memory, each awaited before the next.
This is what `visiontool` does for a batch; torch does the same. "device" figures exclude both copies.
"""

import json
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WARM_RUNS, LEAST_RUNS = 3, 5


def timed(run: Callable[[], object], seconds: float, sync: Callable[[], object] = lambda: None) -> float:
    """Median seconds of a run."""
    for _ in range(WARM_RUNS):
        run()
    sync()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < LEAST_RUNS or time.perf_counter() < until:
        start = time.perf_counter()
        run()
        sync()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def some_pixels(batch: int, side: int = 224) -> "np.ndarray[Any, Any]":
    """Pixels that are no picture; the speed does not depend on them."""
    return np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)


def load(task: dict[str, Any], engine_batch: int | None = None) -> tuple[Any, Any]:
    """The model of the task as users open it for many pictures, and its session."""
    from visiontool import Classifier, ModelSpec
    from visiontool.model.spec import MANIFEST_KEY
    from visiontool.runtime import open_model

    where = {"device": task["device"], "provider": task.get("provider")}
    opened = open_model(Path(task["model"]), **where, threads=1, engine_batch=engine_batch)
    spec = ModelSpec.from_json(opened.scan.metadata[MANIFEST_KEY])
    return Classifier.of(opened, spec, threads=1), opened.session


def ours(task: dict[str, Any]) -> dict[str, Any]:
    """Our runtime: seconds to open the model, those of the first run of each batch size, and pictures/s."""
    import onnxruntime

    start = time.perf_counter()
    classifier, session = load(task, max(task["batch_sizes"]))
    opening_s = time.perf_counter() - start
    rates = {}
    for batch in task["batch_sizes"]:
        pixels = some_pixels(batch, classifier.spec.input.size[0])
        start = time.perf_counter()
        classifier.outputs(pixels, classifier.spec.logits)
        first_s = time.perf_counter() - start
        median = timed(lambda: classifier.outputs(pixels, classifier.spec.logits), task["seconds"])  # noqa: B023
        rates[str(batch)] = {"host": batch / median, "first_run_s": first_s}
        if classifier.device.startswith("cuda"):
            # What lies on the device already is run again and again: a binding of the script's own.
            binding = session.io_binding()
            device, _, number = classifier.device.partition(":")
            value = onnxruntime.OrtValue.ortvalue_from_numpy(pixels, device, int(number))
            binding.bind_ortvalue_input(classifier.spec.input.name, value)
            binding.bind_output(classifier.spec.logits, device, int(number))
            median = timed(lambda: session.run_with_iobinding(binding), task["seconds"])  # noqa: B023
            rates[str(batch)]["device"] = batch / median
    return {"opening_s": opening_s, "nodes": classifier.assignment(), "device": classifier.device, "rates": rates}


def torch_side(task: dict[str, Any]) -> dict[str, Any]:
    """torch with fp16 autocast and channels last, eager or compiled: the same as `ours`."""
    import timm
    import torch

    class Whole(torch.nn.Module):
        """From the pixels to the logits, as our graph has it."""

        def __init__(self) -> None:
            super().__init__()
            self.network = timm.create_model(task["architecture"]).eval()
            self.register_buffer("mean", torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1))
            self.register_buffer("std", torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.network((pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std)

    device = torch.device(task["device"])
    torch.backends.cudnn.benchmark = True
    whole: Any = Whole().to(device).to(memory_format=torch.channels_last)
    if task["compiled"]:
        whole = torch.compile(whole, mode=task["compile_mode"], dynamic=False)  # for each batch size by itself
    on_cuda = device.type == "cuda"
    rates = {}
    for batch in task["batch_sizes"]:
        pixels = torch.from_numpy(some_pixels(batch))
        pixels = pixels.pin_memory() if on_cuda else pixels
        there = pixels.to(device)
        with torch.inference_mode(), torch.autocast(device.type, torch.float16, enabled=on_cuda):
            start = time.perf_counter()
            whole(pixels.to(device)).float().cpu()
            first_s = time.perf_counter() - start
            host = timed(lambda: whole(pixels.to(device, non_blocking=True)).float().cpu(), task["seconds"])  # noqa: B023
            rates[str(batch)] = {"host": batch / host, "first_run_s": first_s}
            if on_cuda:
                alone = timed(lambda: whole(there), task["seconds"], torch.cuda.synchronize)  # noqa: B023
                rates[str(batch)]["device"] = batch / alone
    return {
        "rates": rates,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def logits(task: dict[str, Any]) -> dict[str, Any]:
    """Writes the logits of the pictures to task["into"], as users get them."""
    classifier, _ = load(task)
    np.save(task["into"], classifier.logits(task["pictures"]))
    return {"device": classifier.device, "nodes": classifier.assignment()}


def files(task: dict[str, Any]) -> dict[str, Any]:
    """Pictures/s from JPEG files to results, and of opening them alone, which is the most that the machine allows."""
    from bulk import exhaust, make_pictures, opening_rate, rate

    from visiontool.data.prepare import Recipe
    from visiontool.hub import resolve
    from visiontool.images.decode import DEFAULT_LIMITS

    classifier, _ = load(task)
    recipe = Recipe.of(classifier.spec, DEFAULT_LIMITS)

    def whole(some: list[str]) -> None:
        exhaust(classifier.predict_stream(some, timeout=10.0, isolate=True))

    with tempfile.TemporaryDirectory() as folder:
        photos = [Path(path) for path in resolve.sample_pictures()]
        paths = make_pictures(photos, Path(folder, "jpegs"), (500, 375), 100, task["count"])
        whole(paths[: 2 * classifier.batch_size(None)])
        rounds = [(opening_rate(paths, recipe), rate(len(paths), lambda: whole(paths))) for _ in range(3)]
    share = statistics.median(end / opening for opening, end in rounds)
    opening, end = (statistics.median(column) for column in zip(*rounds, strict=True))
    return {"opening": opening, "end_to_end": end, "share": share, "device": classifier.device}


SIDES = {"ours": ours, "torch": torch_side, "logits": logits, "files": files}

if __name__ == "__main__":
    try:
        print(json.dumps(SIDES[sys.argv[1]](json.loads(sys.argv[2]))))
    except Exception as error:
        traceback.print_exc()
        sys.exit(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")  # the reason, last
