"""What is exported: from what the user names, or does not name, to a graph in memory and what it says of itself."""

import logging
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import onnx
from onnx import TensorProto

from visiontool.errors import ConversionError, ModelError, UsageError
from visiontool.export import external_data
from visiontool.graph import edit
from visiontool.hub import resolve
from visiontool.hub.cache import MODEL_FILE
from visiontool.inference.classifier import Classifier
from visiontool.model import config_files
from visiontool.model.foreign import Description
from visiontool.model.scan import scan
from visiontool.model.spec import MANIFEST_KEY, CropMode, ModelSpec, Precision
from visiontool.progress import Progress, silent
from visiontool.pytorch.pull import pull
from visiontool.training.report import METRICS_FILE
from visiontool.training.run import RUNS
from visiontool.training.settings import SETTINGS_FILE

_log = logging.getLogger(__name__)

_QUANTIZED = ("DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")


@dataclass(frozen=True, slots=True)
class Source:
    """A model to export. A context: at its end, a file that was made for it is gone.

    Attributes:
        model: its graph, which may be changed.
        spec: what it says of itself.
        path: a model file that answers as it does. Where the source keeps tensors in other files, one that has all of
            them, until `close`.
        run: the folder of the finetuned run that it is the model of, or None.
    """

    model: onnx.ModelProto
    spec: ModelSpec
    path: Path
    run: Path | None = None
    _folder: "tempfile.TemporaryDirectory[str] | None" = field(default=None, repr=False)

    def close(self) -> None:
        """Deletes the file that was made for it, if there is one."""
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def find(
    model: str | None,
    *,
    architecture: str | None = None,
    description: Description | None = None,
    crop_mode: CropMode | None = None,
    offline: bool = False,
    progress: Progress = silent,
) -> Source:
    """Finds what is to be exported. Only what has to be pulled first needs torch.

    Args:
        model: a run, an .onnx file, the name of a network, "local-dir:FOLDER", "hf-hub:ORG/NAME", or a file of weights;
            None for the newest finished run in runs/, or else the default model.
        architecture: the network that the file of weights is of.
        description: what a file from another tool does not say of itself, or the class names of a file of weights.
        crop_mode: instead of the model's own.
        offline: uses no network.
        progress: as `pull.pull` takes it, where the model is not on this machine.

    Raises:
        ModelError: no such model, or one that is broken, unsafe, or does not say what is needed.
        ConversionError: weights that do not become a model, or no room for a temporary file.
        UsageError: arguments that contradict each other or the model.
    """
    if model is None:
        if architecture is not None:
            raise UsageError(f"--architecture {architecture} goes with a file of weights: name that as MODEL")
        model = _not_named()
    if architecture is None:
        path = _file(model, offline, progress)
    else:
        description = description or Description()
        class_names, description = description.class_names, replace(description, class_names=None)
        path = _of_weights(model, architecture, class_names, offline, progress)
    is_run = path.name == MODEL_FILE and (path.parent / SETTINGS_FILE).is_file()
    run = path.parent if is_run else None
    if scan(path, external=True).external is None:
        graph, spec = _read(path, description, crop_mode)
        return Source(graph, spec, path, run)
    folder = tempfile.TemporaryDirectory(prefix="visiontool-")
    try:
        single = Path(folder.name, path.name)
        _write(single, external_data.merged(path), path)
        for file in config_files.files(path):
            shutil.copy(file, folder.name)
        graph, spec = _read(single, description, crop_mode, called=path)
    except BaseException:
        folder.cleanup()
        raise
    return Source(graph, spec, single, run, folder)


def newest_run() -> Path | None:
    """The run in runs/ that was finished last, or None."""
    runs = []
    for folder in RUNS.iterdir() if RUNS.is_dir() else ():
        with suppress(OSError):  # it may be deleted in this moment
            if (folder / SETTINGS_FILE).is_file() and (folder / MODEL_FILE).is_file():
                runs.append((_finished_at(folder), folder))
    return max(runs)[1] if runs else None


def _finished_at(run: Path) -> int:
    """When a run was finished; its model may have been written again since."""
    last = run / METRICS_FILE
    return (last if last.is_file() else run / MODEL_FILE).stat().st_mtime_ns


def _not_named() -> str:
    run = newest_run()
    if run is not None:
        _log.info(f"Exporting {run}, the newest finished run.")
        return str(run)
    name = resolve.default_model()
    _log.info(f"Exporting {name}, the default model: there is no finished run in {RUNS}/.")
    return name


def _of_weights(
    model: str,
    architecture: str,
    class_names: Path | None,
    offline: bool,
    progress: Progress,
) -> Path:
    """The model file that is made of a file of weights."""
    if not _is_weights(model):
        raise UsageError(
            f"--architecture {architecture} goes with a file of weights, a .safetensors or .pth; "
            f"{model} is none, or is not there"
        )
    return pull(architecture, weights=Path(model), class_names=class_names, offline=offline, progress=progress).path


def _is_weights(model: str) -> bool:
    return Path(model).suffix.lower() in resolve.WEIGHTS_SUFFIXES and Path(model).is_file()


def _file(model: str, offline: bool, progress: Progress) -> Path:
    """The model file that `model` means; it is pulled where it is not on this machine."""
    if _is_weights(model):
        raise UsageError(
            f"{model}: weights of torch, which do not name their network.\n"
            "Add --architecture NAME, a name of: visiontool models"
        )
    try:
        return resolve.resolve(model)
    except resolve.ModelNotPulled as error:
        return pull(error.name, offline=offline, progress=progress).path


def _write(file: Path, data: bytes, source: Path) -> None:
    try:
        file.write_bytes(data)
    except OSError as error:
        raise ConversionError(
            f"{source}: its tensors are put together in {file.parent}, which cannot be written: {error.strerror}\n"
            "TMPDIR names another place."
        ) from None


def _read(
    path: Path,
    description: Description | None,
    crop_mode: CropMode | None,
    called: Path | None = None,
) -> tuple[onnx.ModelProto, ModelSpec]:
    """The graph of a model file and its spec; errors say `called` instead of `path`."""
    try:
        classifier = Classifier.load(path, device="cpu", threads=1, crop_mode=crop_mode, description=description)
        graph, found = edit.load(path)
    except (ModelError, UsageError) as error:
        if called is None:
            raise
        kind = UsageError if isinstance(error, UsageError) else ModelError
        said = str(error).replace(str(path), str(called)).replace(str(path.parent), str(called.parent))
        raise kind(said) from None
    spec = classifier.spec
    if MANIFEST_KEY not in found.metadata:
        # Without the options that say otherwise: a file with a manifest takes none of them.
        assumed = tuple(text.rpartition(" (")[0] or text for text in classifier.assumed)
        spec = replace(spec, precision=_precision(graph), assumed=assumed)
    if classifier.assumed:
        _log.info(f"The file does not say, so taken: {', '.join(classifier.assumed)}.")
    return graph, spec


def _precision(model: onnx.ModelProto) -> Precision:
    """What a file that does not say it was made with: its weights tell."""
    if any(node.op_type in _QUANTIZED for node in model.graph.node):
        return "int8"
    halves = {tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer if len(tensor.dims) > 1}
    return "fp16" if True in halves else "fp32"
