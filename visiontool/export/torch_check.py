"""Where a source came from torch weights that lie beside it, torch is asked as well."""

from importlib.util import find_spec

from visiontool.data.loader import fitted
from visiontool.data.prepare import Recipe
from visiontool.errors import ConversionError, GateError, ModelError
from visiontool.evaluation.compare import Pictures
from visiontool.export.source import Source
from visiontool.images.decode import DEFAULT_LIMITS
from visiontool.progress import Progress

_HUB_FILES = ("config.json", "model.safetensors")
_MOST = 32  # pictures: torch runs them one after another


def check(source: Source, pictures: Pictures, progress: Progress) -> list[str]:
    """Compares the source with its network in torch on some of the pictures; gives a line about it, or none.

    A finetuned run is left out: it was made without torch, of a graph that had been compared with torch.

    Raises:
        GateError: they do not answer alike.
    """
    folder = source.path.parent
    if source.run is not None or not all((folder / name).is_file() for name in _HUB_FILES):
        return []
    if find_spec("torch") is None or find_spec("timm") is None:
        return ["Torch is not installed here; the network was compared with it when it was converted."]
    progress("torch", 0, None)
    from visiontool.pytorch import parity, weights
    from visiontool.pytorch.exporters import OnnxWrapper

    pixels = fitted(pictures.paths, Recipe.of(source.spec, DEFAULT_LIMITS), _MOST)
    try:
        graph = OnnxWrapper(weights.from_folder(folder), source.spec.input)
        expected = parity.answers(graph, source.spec.input, pixels)
        parity.check(source.path, source.spec.input, pixels, expected, (1, len(pixels)))
    except (ConversionError, ModelError) as error:
        raise GateError(
            f"{source.spec.name}: the source does not answer as its network does in torch: {error}"
        ) from None
    return [f"Torch gives the same logits on {len(pixels)} of the pictures, within {parity.MAX_RELATIVE_L2:g}."]
