"""From a `--model` value to a model file on this disk. What a model that can be pulled is called in the cache:

    vgg16.tv_in1k                  a name of the catalog
    vgg16.tv_in1k@256              the same with another input size
    vgg16.tv_in1k+0123456789ab     the same with its published weights from a file, by the first digits of its SHA-256
    vgg16+0123456789ab             with other weights; "+89abcdef0123" follows where class names or a tag were given
    ORG--NAME                      a repository of a hub
    FOLDER+0123456789ab            a folder, by the digest of its files

The catalog completes a bare "vgg16". It and the class names are imported where they are needed, since predicting with a
model that is on this disk comes through here too.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from visiontool.errors import ModelError, UsageError, closest
from visiontool.files import IN_MEMORY, MODEL_FILE, sha256
from visiontool.hub import cache
from visiontool.hub.classics import default_weights

if TYPE_CHECKING:
    from visiontool.hub.catalog import Entry
    from visiontool.model.class_names import ClassNames

DEFAULT_MODEL = "tf_efficientnet_lite0.in1k"
MODEL_VARIABLE = "VISIONTOOL_MODEL"
HUB, FOLDER = "hf-hub:", "local-dir:"  # as timm writes them, before ORG/NAME and the path of a folder
PACKAGE = "package:"  # before the name of one that weights come in
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")  # of a folder in timm's format, the better first
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")  # of files of torch's weights
NUMBERS: "ClassNames" = ((), None)
_DIGITS = 12
_MAX_SIDE = 99_999


class ModelNotPulled(ModelError):
    """A model that is known, but not on this machine; `name` is what `pull.pull` takes."""

    def __init__(self, name: str, origin: str) -> None:
        super().__init__(f"{name}{origin} is not on this machine yet.\nGet it with: visiontool models pull {name}")
        self.name = name


class ModelUntrained(ModelError):
    """A network without published weights; `name` is the catalog's."""

    def __init__(self, name: str) -> None:
        from visiontool.hub import catalog

        # A network of the same name with more around it may have weights: "tf_efficientnet_b6".
        names = (entry.architecture for entry in catalog.entries() if not entry.is_untrained)
        other = next((other for other in names if f"_{name}_" in f"_{other}_"), "")
        first = f"{other} has weights: visiontool models pull {other}\nOr give" if other else "Give"
        super().__init__(
            f"{name} has no published weights.\n{first} a folder of your own in timm's format: -m {FOLDER}FOLDER"
        )
        self.name = name


class Pullable(NamedTuple):
    """A model that can be pulled."""

    name: str  # in the cache
    entry: "Entry | None"  # None for what the catalog does not know
    img_size: int | None  # side of the input in pixels, None for the network's own
    class_names: "ClassNames | None" = None  # of weights that are not the published ones; NUMBERS where unknown


def weights_folder() -> Path:
    """The folder of the built-in models."""
    return _shipped("weights")


def sample_pictures() -> list[Path]:
    """The sample pictures, in order."""
    return sorted(_shipped("samples").glob("*.jpg"))


def built_in_names() -> list[str]:
    """The names of the built-in models, in order."""
    return sorted(path.parent.name for path in weights_folder().glob(f"*/{MODEL_FILE}"))


def default_model() -> str:
    """The model that answers where none is named: VISIONTOOL_MODEL's, else the user's choice, else DEFAULT_MODEL."""
    return _default()[0]


def resolve(model: str | os.PathLike[str] | None) -> Path:
    """The .onnx file of `model`: a path, a folder with a model.onnx in it, a built-in or a pulled model, in this order.

    A pulled model has its name in the cache, and every name that the catalog has for it. None is `default_model`.

    Raises:
        ModelError: ModelNotPulled, ModelUntrained, DamagedModel, or there is no such model.
    """
    model, origin = _default() if model is None else (model, "")
    name, path = os.fspath(model), Path(model)
    if path in IN_MEMORY:
        return path
    if os.path.isfile(path):
        if path.suffix.lower() in WEIGHTS_SUFFIXES:
            raise ModelError(
                f"{name}{origin}: weights of torch, not a model file. Name their network: -m NAME --weights {name}\n"
                "For networks of your own, docs/model-file.md says how to convert."
            )
        return path
    folder = Path(name.removeprefix(FOLDER))
    if name and os.path.isfile(folder / MODEL_FILE):
        return folder / MODEL_FILE
    if (file := _by_name(name)) is not None:
        return file
    if not name.startswith((HUB, FOLDER)):
        has_separator = "/" in name or os.sep in name
        if has_separator and os.path.isdir(path):
            raise ModelError(f"{name}{origin}: the folder has no {MODEL_FILE} in it")
        if has_separator or path.suffix.lower() in (".onnx", *WEIGHTS_SUFFIXES):
            from visiontool.hub import catalog

            # Some look like paths and are names, or begin with one: "ViT-B/16", "timm/resnet50.a1_in1k", "vgg16.pth".
            near = catalog.nearest(name)
            raise ModelError(f"{name}{origin}: there is no such file{near and f'.{near}'}")
    if (file := _by_name(default_weights(name))) is not None:  # most names, without opening the tables of the catalog
        return file
    try:
        target = pullable(name)
    except ModelError as error:
        if name and os.path.isdir(path):
            raise ModelError(f"{name}{origin}: the folder has no {MODEL_FILE} in it") from None
        near = f"\nBuilt-in models: {', '.join(built_in_names())}." if closest(name, built_in_names()) else ""
        raise ModelError(str(error).replace(repr(name), f"{name!r}{origin}", 1) + near) from None
    if (file := _by_name(target.name)) is not None:
        return file
    if target.entry is not None and target.entry.is_untrained:
        raise ModelUntrained(target.entry.name)
    if target.entry is not None and target.entry.source.startswith(PACKAGE) and target.img_size is None:
        from visiontool.hub.pulled import from_package

        return from_package(target, target.entry)
    raise ModelNotPulled(target.name if target.entry is not None else name, origin)


def obtain(model: str | os.PathLike[str] | None, weights: Path | None, pull: Callable[[str], Path]) -> Path:
    """`resolve`, but what is not on this machine, and a model with `weights` of its own, is what `pull` gives."""
    if weights is not None:
        if model is None:
            raise UsageError("--weights FILE holds the weights of the network that -m names; name it")
        return pull(os.fspath(model))
    try:
        return resolve(model)
    except ModelNotPulled as error:
        return pull(error.name)


def pullable(
    model: str, *, img_size: int | None = None, weights: Path | None = None, class_names: Path | None = None
) -> Pullable:
    """What a model is called in the cache, from the arguments of `pytorch.pull.pull`.

    Raises:
        ModelError: no such model, folder or file.
        UsageError: options that cannot be combined.
    """
    from visiontool.hub import catalog

    if img_size is not None and not 0 < img_size <= _MAX_SIDE:
        raise UsageError(f"{img_size} pixels: expected 1 to {_MAX_SIDE:,} as the side of the input")
    if model.startswith((HUB, FOLDER)):
        end = model.rpartition("/")[2]  # several entries may have one source
        known = (entry for entry in catalog.entries() if entry.source == model and entry.name == end)
        entry = next(known, None) if model.startswith(HUB) else None
        if entry is None:
            _refuse_options(model, img_size, weights, class_names)
            name = _name_on_hub(model) if model.startswith(HUB) else _name_of_folder(Path(model.removeprefix(FOLDER)))
            return Pullable(name, None, None)
    else:
        try:
            entry, img_size = _in_catalog(model, img_size)
        except ModelError:
            _refuse_complete(model, weights)
            raise
    name, names = entry.name, None
    if weights is not None:
        sha256 = _sha256(weights)
        entry, names = _identify(entry, weights, sha256, class_names)
        name = f"{entry.name if names is None else entry.architecture}+{sha256[:_DIGITS]}"
        is_default = catalog.find(entry.architecture).name == entry.name
        tag = "" if is_default else entry.tag  # which decides how pictures are resized and cropped
        if names is not None and (tag or names != NUMBERS):
            name += "+" + _digest("\0".join((tag, *names[0], *(names[1] or ()))))
    elif class_names is not None:
        raise UsageError(f"{model} knows its classes; --class-names goes with --weights FILE. Leave it out.")
    if img_size is None or entry.input_size[1:] == (img_size, img_size):
        return Pullable(name, entry, None, names)
    if weights is None and entry.name in built_in_names():
        _refuse_size_of_built_in(entry.name, img_size)
    return Pullable(f"{name}@{img_size}", entry, img_size, names)


def folder_of(model: str, weights: Path) -> Path | None:
    """The folder in timm's format that a file of weights is of, where its config.json names the classes of `model`."""
    from visiontool.model.class_names import are_imagenets

    folder = weights.parent
    try:
        config = json.loads((folder / "config.json").read_bytes())
        cfg = config["pretrained_cfg"]
        classes = config.get("num_classes", cfg.get("num_classes"))
        is_named = "label_names" in config or are_imagenets(classes, cfg.get("tag") or "")
        entry, img_size = _in_catalog(model, None)
        if weights != weights_in(folder) or not is_named or config["architecture"] != entry.architecture:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ModelError):
        return None
    _refuse_options(f"{FOLDER}{folder}", img_size, None, None)
    return folder


def weights_in(folder: Path) -> Path:
    """The file of weights of a folder in timm's format, which may not be there."""
    files = [folder / name for name in WEIGHTS_FILES]
    return next(filter(os.path.isfile, files), files[0])


def cached_name(name: str) -> str:
    """The name in the cache of what `pullable` takes, or of a name there; raises ModelError where it is not there."""
    known = [model.name for model in cache.all_cached()]
    if name in known:
        return name
    try:
        full = pullable(name).name
    except ModelError:
        full = name
    if full in known:
        return full
    if full in built_in_names():
        raise ModelError(f"{name} is built in, not pulled.\nWhat was pulled: visiontool models --cached")
    variants = [other for other in known if other.startswith(full)]
    near = f" There is: {', '.join(variants[:3])}." if variants else closest(full, known)
    raise ModelError(f"{name!r} is not on this machine.{near}\nWhat is: visiontool models --cached")


def _shipped(name: str) -> Path:
    """A folder of files that come with the package: in it when installed, beside it in a checkout."""
    package = Path(__file__).parent.parent
    return package / name if (package / name).is_dir() else package.parent / name


def _default() -> tuple[str, str]:
    """The default model, and where it was chosen, for messages."""
    if chosen := os.environ.get(MODEL_VARIABLE):
        return chosen, f" ({MODEL_VARIABLE} says so)"
    if chosen := cache.default_model():
        return chosen, ' ("visiontool models default" says so)'
    return DEFAULT_MODEL, ""


def _by_name(name: str) -> Path | None:
    """The file of a built-in model, or of one in the cache by its name there."""
    built_in = weights_folder() / name / MODEL_FILE
    if cache.is_name(name) and os.path.isfile(built_in):
        return built_in
    if (model := cache.cached(name)) is None:
        return None
    cache.mark_used(name)
    return model.path


def _identify(
    entry: "Entry", weights: Path, sha256: str, class_names: Path | None
) -> "tuple[Entry, ClassNames | None]":
    """The entry for a file of weights of `entry`'s architecture, and class names unless it is published weights."""
    from visiontool.hub import catalog
    from visiontool.model.class_names import are_imagenets, read_class_names

    known = catalog.published(entry.architecture, sha256)
    if known is None or not are_imagenets(known.classes, known.tag):
        return entry, NUMBERS if class_names is None else read_class_names(class_names)
    if class_names is not None:
        raise UsageError(f"{weights} is {known.name}, whose classes are known.\nLeave --class-names out.")
    return known, None


def _in_catalog(model: str, img_size: int | None) -> "tuple[Entry, int | None]":
    """The entry for "NAME" or "NAME@256", and the side of the input."""
    from visiontool.hub import catalog

    model, at, side = model.partition("@")
    if at:
        if not re.fullmatch("[0-9]{1,5}", side) or int(side) == 0:
            raise ModelError(
                f"{model}@{side}: behind the @ stands the side of the input in pixels, such as {model}@256"
            )
        if img_size not in (None, int(side)):
            raise UsageError(f"{model}@{side} and an input size of {img_size} contradict each other")
        img_size = int(side)
        if model in built_in_names():
            _refuse_size_of_built_in(model, img_size)
    return catalog.find(model), img_size


def _name_on_hub(model: str) -> str:
    organization, _, repository = model.removeprefix(HUB).partition("/")
    name = f"{organization}--{repository}"
    if not (organization and repository and "@" not in name and cache.is_name(name)):
        raise ModelError(f"{model}: expected {HUB}ORG/NAME, such as {HUB}timm/resnet18.a1_in1k")
    return name


def _name_of_folder(folder: Path) -> str:
    """The folder's own name, and the digest of its files."""
    files = [folder / "config.json", weights_in(folder)]
    if not all(map(os.path.isfile, files)):
        raise ModelError(
            f"{FOLDER}{folder}: expected a folder with config.json and model.safetensors, as timm writes it"
        )
    own = re.sub(r"[^A-Za-z0-9._-]", "_", folder.resolve().name).lstrip(".-")[:100]
    return f"{own or 'folder'}+{_digest(''.join(map(_sha256, files)))}"


def _refuse_complete(model: str, weights: Path | None) -> None:
    """Raises for what has its weights in it, and needs no pulling: a model file, a run folder, a built-in model."""
    suffix = Path(model).suffix.lower()
    is_built_in = model in built_in_names()
    is_file = suffix == ".onnx" or (os.path.isfile(model) and suffix not in WEIGHTS_SUFFIXES)
    if not (is_built_in or is_file or (model and os.path.isfile(Path(model, MODEL_FILE)))):
        return
    if weights is not None:
        raise UsageError(
            f"{model} has its weights in it already. Leave --weights out,\n"
            f"or name the network that the weights are of: -m NAME --weights {weights}"
        )
    kind = "is built in" if is_built_in else "is a model file or a folder with one, and no name of a network"
    raise ModelError(f"{model} {kind}: there is nothing to pull.\nUse it as it is: -m {model}")


def _refuse_size_of_built_in(name: str, img_size: int) -> NoReturn:
    raise ModelError(f"{name}@{img_size}: {name} is built in, with its own input size.\nTake it as it is: -m {name}")


def _refuse_options(model: str, img_size: int | None, weights: Path | None, class_names: Path | None) -> None:
    if class_names is not None:
        raise UsageError(f"{model} names its classes itself. Leave --class-names out.")
    if img_size is not None or weights is not None:
        raise UsageError(
            f"{model} has its own weights and input size; others go with a name of the list (visiontool models)."
        )


def _digest(text: str) -> str:
    import hashlib  # here, since it costs a start

    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _sha256(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
