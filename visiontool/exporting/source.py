"""What is exported: from the model that is named, or not named, to a graph in memory and its manifest."""

import logging
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import onnx
from onnx import TensorProto

from visiontool import runtime
from visiontool.data.loader import fitted
from visiontool.data.prepare import Recipe
from visiontool.errors import ConversionError, GateError, ModelError, UsageError
from visiontool.evaluation.compare import Pictures
from visiontool.exporting import external_data
from visiontool.exporting.merge import merged
from visiontool.files import MODEL_FILE
from visiontool.graph import edit
from visiontool.hub import resolve
from visiontool.images.decode import DEFAULT_LIMITS
from visiontool.inference.classifier import Classifier
from visiontool.inference.ensemble import SUFFIX, Ensemble
from visiontool.model import config_files
from visiontool.model.foreign import Description
from visiontool.model.scan import scan
from visiontool.model.spec import MANIFEST_KEY, CropMode, ModelSpec, Precision
from visiontool.progress import Progress, silent
from visiontool.pytorch.pull import pull
from visiontool.training.pictures import run_of
from visiontool.training.report import METRICS_FILE
from visiontool.training.run import RUNS
from visiontool.training.settings import SETTINGS_FILE

_log = logging.getLogger(__name__)

_QUANTIZED = ("DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
_TORCH_FILES = ("config.json", "model.safetensors")
_TORCH_PICTURES = 32  # at most: torch computes one after another


@dataclass(frozen=True, slots=True)
class Source:
    """A model to export. A context: at its end, a file that was made for it is deleted."""

    model: onnx.ModelProto  # which may be changed
    spec: ModelSpec
    path: Path  # of its file; where tensors lay in other files, of one with all of them, until the end of the context
    run: Path | None = None  # the folder of the finetuned run that it is the model of
    _stack: ExitStack = field(default_factory=ExitStack, repr=False)

    def open(self, device: str) -> Classifier:
        """The source as users run it."""
        if self.path.suffix.lower() == SUFFIX:
            return Ensemble.load(self.path, device=device, crop_mode=self.spec.crop_mode)
        return Classifier.of(runtime.open_model(self.path, device=device), self.spec)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def find(
    model: str | None,
    *,
    architecture: str | None = None,
    description: Description | None = None,
    crop_mode: CropMode | None = None,
    offline: bool = False,
    progress: Progress = silent,
) -> Source:
    """Loads what is to be exported, named as for `commands.export`; `progress` is as for `pull.pull`.

    `model` may also be an ensemble's JSON file. Where it is None and there is no run, it is the default model.

    Raises:
        ModelError: no such model, or one that is broken, unsafe, or does not say what is needed.
        ConversionError: weights that do not become a model, or no room for a temporary file.
        UsageError: arguments that contradict each other or the model.
    """
    if model is None:
        if architecture is not None:
            raise UsageError(f"--architecture {architecture} goes with a file of weights: name that as MODEL")
        model = _newest_run_or_default()
    is_weights = Path(model).suffix.lower() in resolve.WEIGHTS_SUFFIXES and Path(model).is_file()
    if architecture is not None:
        if not is_weights:
            raise UsageError(
                f"--architecture {architecture} goes with a file of weights, a .safetensors or .pth; "
                f"{model} is none, or is not there"
            )
        description = description or Description()
        names = description.class_names
        path = pull(architecture, weights=Path(model), class_names=names, offline=offline, progress=progress).path
        description = replace(description, class_names=None)
    elif is_weights:
        raise UsageError(
            f"{model}: weights of torch, which do not name their network.\n"
            "Add --architecture NAME, a name of: visiontool models"
        )
    else:
        path = resolve.obtain(model, None, lambda name: pull(name, offline=offline, progress=progress).path)
    if path.suffix.lower() == SUFFIX:
        return Source(*merged(Ensemble.load(path, device="cpu", crop_mode=crop_mode, description=description)), path)
    if scan(path, external=True).external is None:
        return Source(*_read(path, description, crop_mode), path, run_of(path))
    return _merged(path, description, crop_mode)


def _merged(path: Path, description: Description | None, crop_mode: CropMode | None) -> Source:
    """A source whose file is a temporary one, with the tensors in it that lie in other files."""
    data = external_data.merged(path)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="visiontool-"))
        single = Path(folder, path.name)
        try:
            single.write_bytes(data)
            for file in config_files.files(path):
                shutil.copy(file, folder)
            return Source(*_read(single, description, crop_mode), single, run_of(path), stack.pop_all())
        except (ModelError, UsageError) as error:
            raise type(error)(str(error).replace(str(single), str(path)).replace(folder, str(path.parent))) from None
        except OSError as error:
            raise ConversionError(
                f"{path}: its tensors are put together in {folder}, which cannot be written: {error.strerror}\n"
                "TMPDIR names another place."
            ) from None


def _newest_run_or_default() -> str:
    runs = [run for path in RUNS.glob(f"*/{MODEL_FILE}") if (run := run_of(path)) is not None]
    if runs:
        # Metrics are written last; the model may have been written again since.
        newest = max(runs, key=lambda run: next(run.glob(METRICS_FILE), run / SETTINGS_FILE).stat().st_mtime_ns)
        _log.info(f"Exporting {newest}, the newest finished run.")
        return str(newest)
    name = resolve.default_model()
    _log.info(f"Exporting {name}, the default model: there is no finished run in {RUNS}/.")
    return name


def _read(path: Path, description: Description | None, crop_mode: CropMode | None) -> tuple[onnx.ModelProto, ModelSpec]:
    """The graph of a model file and its spec."""
    classifier = Classifier.load(path, device="cpu", threads=1, crop_mode=crop_mode, description=description)
    model, scanned = edit.load(path)
    spec = classifier.spec
    if MANIFEST_KEY not in scanned.metadata:
        # Without the options that say otherwise: a file with a manifest takes none of them.
        assumed = tuple(text.rpartition(" (")[0] or text for text in classifier.assumed)
        spec = replace(spec, precision=_precision(model), assumed=assumed)
    if classifier.assumed:
        _log.info(f"The file does not say, so assumed: {', '.join(classifier.assumed)}.")
    return model, spec


def _precision(model: onnx.ModelProto) -> Precision:
    """The precision of a file without a manifest, by its operators and weights."""
    if any(node.op_type in _QUANTIZED for node in model.graph.node):
        return "int8"
    halves = {tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer if len(tensor.dims) > 1}
    return "fp16" if True in halves else "fp32"


def compare_with_torch(source: Source, pictures: Pictures, progress: Progress) -> list[str]:
    """Compares the source with its network in torch, whose weights lie beside it; gives a line about it, or none.

    A finetuned run is left out: it was made without torch, of a graph that had been compared with torch.
    """
    has_torch = all(source.path.with_name(name).is_file() for name in _TORCH_FILES)
    if not has_torch or source.run is not None or source.path.suffix == SUFFIX:
        return []
    if find_spec("torch") is None or find_spec("timm") is None:
        return ["Torch is not installed here; the network was compared with it when it was converted."]
    progress("torch", 0, None)
    from visiontool.pytorch import parity, weights
    from visiontool.pytorch.exporters import OnnxWrapper

    pixels = fitted(pictures.paths, Recipe.of(source.spec, DEFAULT_LIMITS), _TORCH_PICTURES)
    try:
        graph = OnnxWrapper(weights.from_folder(source.path.parent), source.spec.input)
        expected = parity.answers(graph, source.spec.input, pixels)
        parity.check(source.path, source.spec.input, pixels, expected, (1, len(pixels)))
    except (ConversionError, ModelError) as error:
        raise GateError(
            f"{source.spec.name}: the source does not answer as its network does in torch: {error}"
        ) from None
    return [f"Torch gives the same logits on {len(pixels)} of the pictures, within {parity.MAX_RELATIVE_L2:g}."]
