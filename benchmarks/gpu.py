"""ResNet-50 at 224 px on an NVIDIA GPU: visiontool's runtime against torch.

    python benchmarks/gpu.py -o FOLDER [--parts network,torch,tensorrt,parity,resize,files] [--minutes 9]
    python benchmarks/gpu.py -o FOLDER --device cpu --batch-sizes 1,2 --seconds 1

- network: fp32 and fp16, with the CUDA provider; batches of 1, 8, 64 and 256;
- torch: fp16 autocast and channels last, eager and compiled;
- tensorrt: fp16, if TensorRT 10 loads; including the seconds to build an engine and to load it again;
- parity: logits of the samples against those of the CPU, fp32 and fp16;
- resize: fp16 with resize and crop inside the graph, its answers against the CPU's;
- files: from 500x375 JPEG files to results, against opening them alone.

Targets: the network alone at least as fast as torch.compile, and 30,000 pictures/s on an H200, at the best batch; from
files at least 0.9 of opening alone. The weights are random, which does not affect speed; --model takes a file of real
weights, which make the figures of parity more meaningful.

Each figure is measured in a separate process, and one that fails does not affect the others: it is "not measured", with
the reason. FOLDER gets the models, figures.md and figures.json; a later call with other parts adds to these figures.
Parts for which --minutes leaves no time are not measured. Needs the extras [train] and [gpu], and TensorRT for that
part.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from gpu_tables import PARTS, tables, verdicts

from visiontool.cli.doctor import examine
from visiontool.hub import resolve
from visiontool.model.spec import MANIFEST_KEY, ModelSpec

HERE = Path(__file__).resolve().parent


class Bench:
    """The figures, and what all of them are made with."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.folder: Path = arguments.output
        self.device: str = arguments.device
        self.on_gpu = self.device != "cpu"
        self.batch_sizes: list[int] = arguments.batch_sizes
        self.seconds: float = arguments.seconds
        self.arguments = arguments
        self._until = time.monotonic() + 60 * arguments.minutes
        self.figures: dict[str, dict[str, Any]] = {}

    def side(self, name: str, /, **task: Any) -> dict[str, Any]:
        """What a side of gpu_sides.py gives; {"why": ...} where it gives nothing."""
        left = self._until - time.monotonic()
        if left < 1:
            return {"why": "no time was left"}
        said = json.dumps({"device": self.device, "seconds": self.seconds, "batch_sizes": self.batch_sizes, **task})
        command = [sys.executable, str(HERE / "gpu_sides.py"), name, said]
        environment = {**os.environ, "VISIONTOOL_CACHE": str(self.folder / "cache")}
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=left, env=environment)
        except subprocess.TimeoutExpired:
            return {"why": "no time was left"}
        if ran.returncode != 0:
            return {
                "why": next((line for line in reversed(ran.stderr.splitlines()) if line.strip()), "no reason given")
            }
        answer: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
        return answer

    def record(self, part: str, title: str, found: dict[str, Any]) -> dict[str, Any]:
        """Keeps a figure, at once also on the disk: the machine may be taken away in the middle."""
        self.figures.setdefault(part, {})[title] = found
        print(f"{part}: {title}: {found.get('why', 'done')}", file=sys.stderr, flush=True)
        return found

    def needs_gpu(self, part: str, title: str) -> bool:
        """Whether a figure is left out, since there is no GPU; it says so."""
        if not self.on_gpu:
            self.record(part, title, {"why": "needs a GPU"})
        return not self.on_gpu


def models(bench: Bench) -> dict[str, Path | str]:
    """The files of the network, made where they are not there yet; for one that cannot be made the reason."""
    base = bench.arguments.model or bench.folder / f"{bench.arguments.architecture}.onnx"
    if not base.exists():
        code = "import bulk, pathlib, sys; bulk.make_graph(sys.argv[1], pathlib.Path(sys.argv[2]))"
        command = [sys.executable, "-c", code, bench.arguments.architecture, str(bench.folder)]
        subprocess.run(command, cwd=HERE, check=True)
    made: dict[str, Path | str] = {"fp32": base}
    for name, make in (("fp16", _to_fp16), ("fp16, resize inside", _with_resize)):
        target = bench.folder / f"{base.stem}-{name.replace(', ', '-').replace(' ', '-')}.onnx"
        try:
            made[name] = target if target.exists() else make(base, target)
        except Exception as error:
            made[name] = f"it could not be made: {type(error).__name__}: {error}"
    return made


def _to_fp16(base: Path, target: Path) -> Path:
    from visiontool.exporting.precision.fp16 import to_fp16

    model, spec = _read(base)
    return _write(to_fp16(model, spec), replace(spec, precision="fp16"), target)


def _with_resize(base: Path, target: Path) -> Path:
    from visiontool.exporting.precision.fp16 import to_fp16
    from visiontool.exporting.resize import embed_resize

    model, spec = _read(base)
    model = to_fp16(model, spec)
    return _write(model, embed_resize(model, replace(spec, precision="fp16")), target)


def _read(path: Path) -> tuple[onnx.ModelProto, ModelSpec]:
    model = onnx.load(path)
    manifest = next(entry.value for entry in model.metadata_props if entry.key == MANIFEST_KEY)
    return model, ModelSpec.from_json(manifest)


def _write(model: onnx.ModelProto, spec: ModelSpec, path: Path) -> Path:
    onnx.helper.set_model_props(model, spec.to_metadata())
    onnx.save(model, path)
    return path


def network(bench: Bench, files: dict[str, Path | str]) -> None:
    """The network alone by the CUDA provider, or the CPU's."""
    for name in ("fp32", "fp16"):
        bench.record("network", name, _ours(bench, files[name]))


def _ours(bench: Bench, file: Path | str, **task: Any) -> dict[str, Any]:
    return {"why": file} if isinstance(file, str) else bench.side("ours", model=str(file), **task)


def torch(bench: Bench, files: dict[str, Path | str]) -> None:
    """What torch makes of it."""
    for title, compiled in (("eager", False), ("compiled", True)):
        if not bench.needs_gpu("torch", title):
            task = {"compiled": compiled, "compile_mode": bench.arguments.compile_mode}
            found = bench.side("torch", architecture=bench.arguments.architecture, **task)
            bench.record("torch", title, found)


def tensorrt(bench: Bench, files: dict[str, Path | str]) -> None:
    """TensorRT, twice: the second time its engine is there."""
    for title in ("fp16, engine built", "fp16, engine found"):
        if not bench.needs_gpu("tensorrt", title):
            bench.record("tensorrt", title, _ours(bench, files["fp16"], provider="tensorrt"))


def parity(bench: Bench, files: dict[str, Path | str]) -> None:
    """How far logits are from those of fp32 on the CPU."""
    for name in ("fp32", "fp16"):
        if name == "fp16" or not bench.needs_gpu("parity", name):
            bench.record("parity", name, _difference(bench, files[name], files["fp32"]))


def resize(bench: Bench, files: dict[str, Path | str]) -> None:
    """The graph that resizes, against the same graph on the CPU, and against pictures that were resized before."""
    name = "fp16, resize inside"
    if not bench.needs_gpu("resize", "against the CPU"):
        bench.record("resize", "against the CPU", _difference(bench, files[name], files[name]))
    bench.record("resize", "against pictures resized by Pillow", _difference(bench, files[name], files["fp16"]))


def _difference(bench: Bench, file: Path | str, reference: Path | str) -> dict[str, Any]:
    pictures = [str(path) for path in resolve.sample_pictures()]
    answers = []
    for model, device in ((reference, "cpu"), (file, bench.device)):
        if isinstance(model, str):
            return {"why": model}
        into = bench.folder / "logits.npy"
        found = bench.side("logits", model=str(model), device=device, pictures=pictures, into=str(into))
        if "why" in found:
            return found
        answers.append(np.load(into).astype(np.float64))
        into.unlink()
    expected, given = answers
    odds = [np.exp(values - values.max(1, keepdims=True)) for values in answers]
    probabilities = [values / values.sum(1, keepdims=True) for values in odds]
    return {
        "pictures": len(pictures),
        "relative_l2": float(np.linalg.norm(given - expected) / np.linalg.norm(expected)),
        "max_absolute": float(np.abs(given - expected).max()),
        "max_probability_difference": float(np.abs(probabilities[0] - probabilities[1]).max()),
        "same_top1": int((given.argmax(1) == expected.argmax(1)).sum()),
    }


def files(bench: Bench, made: dict[str, Path | str]) -> None:
    """From JPEG files to results."""
    for name in ("fp16", "fp32"):
        file, count = made[name], bench.arguments.pictures
        found = {"why": file} if isinstance(file, str) else bench.side("files", model=str(file), count=count)
        bench.record("files", name, found)


def main() -> int:
    """Returns 1 where a target was measured and is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to see that it runs")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--batch-sizes", default="1,8,64,256")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all")
    parser.add_argument("--pictures", type=int, help="JPEG files; 4000, or 100 for the CPU")
    parser.add_argument("--architecture", default="resnet50")
    parser.add_argument("--model", type=Path, help="a model file of that architecture")
    parser.add_argument("--compile-mode", default="default", help="torch.compile's, such as max-autotune")
    arguments = parser.parse_args()
    arguments.pictures = arguments.pictures or (100 if arguments.device == "cpu" else 4000)
    arguments.batch_sizes = [int(size) for size in arguments.batch_sizes.split(",")]
    parts: dict[str, Callable[[Bench, dict[str, Path | str]], None]] = {
        "network": network,
        "torch": torch,
        "tensorrt": tensorrt,
        "parity": parity,
        "resize": resize,
        "files": files,
    }
    chosen = arguments.parts.split(",")
    if unknown := set(chosen) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    arguments.output = arguments.output.resolve()
    bench = Bench(arguments)
    report = examine()
    gpus = ", ".join(gpu["name"] for gpu in report["gpus"]) if bench.on_gpu else ""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items() if version)
    facts = {
        "GPU": f"{gpus or 'none'}; driver {report['driver'] or 'none'}",
        "processor": f"{report['machine']['processor']}, {report['machine']['cores']} cores",
        "versions": f"{', '.join(report['wheels'])}, {versions}",
        "network": f"{arguments.architecture}, {arguments.model.name if arguments.model else 'random weights'}",
    }
    kept = arguments.output / "figures.json"
    if kept.exists() and (before := json.loads(kept.read_text()))["facts"] == facts:  # else of another machine
        bench.figures = before["figures"]
    made = models(bench)
    for name in PARTS:
        if name in chosen:
            parts[name](bench, made)
        record = {"facts": facts, "doctor": report, "figures": bench.figures}
        kept.write_text(json.dumps(record, indent=1))
    judged = verdicts(bench.figures, gpus)
    text = tables(bench.figures, facts, judged)
    (arguments.output / "figures.md").write_text(text)
    print(text)
    return 1 if any(verdict is False for _, verdict in judged) else 0


if __name__ == "__main__":
    sys.exit(main())
