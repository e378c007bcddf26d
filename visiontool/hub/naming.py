"""What a model that can be pulled is called in the cache.

    vgg16.tv_in1k                  a name of the catalog
    vgg16.tv_in1k@256              the same with another input size
    vgg16.tv_in1k+0123456789ab     the same with its published weights from a file, by the first digits of its SHA-256
    vgg16+0123456789ab             with other weights; "+89abcdef0123" follows where class names or a tag were given
    ORG--NAME                      a repository of a hub
    FOLDER+0123456789ab            a folder, by the digest of what is in it

A bare "vgg16" is the catalog's to complete.
"""

import json
import os
import re
from pathlib import Path
from typing import NamedTuple, NoReturn

from visiontool.errors import ModelError, UsageError, closest
from visiontool.hub import cache, catalog, resolve
from visiontool.hub.catalog import Entry
from visiontool.hub.resolve import FOLDER, HUB
from visiontool.model import class_names as labels

_DIGITS = 12
_MAX_SIDE = 99_999


class Pullable(NamedTuple):
    """A model that can be pulled."""

    name: str  # in the cache
    entry: Entry | None  # None for what the catalog does not know
    img_size: int | None  # side of the input in pixels, None for the network's own
    class_names: labels.ClassNames | None = None  # of weights that are not the published ones; NUMBERS where unknown


NUMBERS: labels.ClassNames = ((), None)


def pullable(
    model: str, *, img_size: int | None = None, weights: Path | None = None, class_names: Path | None = None
) -> Pullable:
    """What `model` is called in the cache.

    Args:
        model: a name of the catalog, with "@256" behind it for another input size; "hf-hub:ORG/NAME"; "local-dir:DIR".
        img_size: side of the input in pixels.
        weights: a file of weights instead of the published ones.
        class_names: the names of their classes, where `weights` are others than the published ones.

    Raises:
        ModelError: no such model, folder or file.
        UsageError: what cannot be combined, or no size.
    """
    if img_size is not None and not 0 < img_size <= _MAX_SIDE:
        raise UsageError(f"{img_size} pixels: expected 1 to {_MAX_SIDE:,} as the side of the input")
    if model.startswith(HUB):
        entry = _published_on_hub(model)
        if entry is None:
            _refuse_options(model, img_size, weights, class_names)
            return Pullable(_name_on_hub(model), None, None)
    elif model.startswith(FOLDER):
        _refuse_options(model, img_size, weights, class_names)
        return Pullable(_name_of_folder(Path(model.removeprefix(FOLDER))), None, None)
    else:
        try:
            entry, img_size = _in_catalog(model, img_size)
        except ModelError:
            _refuse_complete(model, weights)
            raise
    name, names = entry.name, None
    if weights is not None:
        sha256 = _sha256(weights)
        entry, names = _whose(entry, weights, sha256, class_names)
        name = f"{entry.name if names is None else entry.architecture}+{sha256[:_DIGITS]}"
        is_default = catalog.find(entry.architecture).name == entry.name
        tag = "" if is_default else entry.tag  # which says how pictures are fitted
        if names is not None and (tag or names != NUMBERS):
            name += "+" + _digest("\0".join((tag, *names[0], *(names[1] or ()))))
    elif class_names is not None:
        raise UsageError(f"{model} knows its classes; --class-names goes with --weights FILE. Leave it out.")
    if img_size is not None and entry.input_size[1:] == (img_size, img_size):
        img_size = None
    if img_size is not None and weights is None and entry.name in resolve.built_in_names():
        _refuse_size_of_built_in(entry.name, img_size)
    return Pullable(name if img_size is None else f"{name}@{img_size}", entry, img_size, names)


def folder_of(model: str, weights: Path) -> Path | None:
    """The folder in timm's format that a file of weights is of, where its config.json names the classes of `model`.

    Raises:
        UsageError: `model` has an input size in its name, and the folder one of its own.
    """
    folder = weights.parent
    if weights_in(folder) != weights:
        return None
    try:
        config = json.loads((folder / "config.json").read_bytes())
        cfg = config["pretrained_cfg"]
        classes = config.get("num_classes", cfg.get("num_classes"))
        is_named = "label_names" in config or labels.are_imagenets(classes, cfg.get("tag") or "")
        entry, img_size = _in_catalog(model, None)
        is_same = config["architecture"] == entry.architecture
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ModelError):
        return None
    if not (is_named and is_same):
        return None
    _refuse_options(f"{FOLDER}{folder}", img_size, None, None)
    return folder


def cached_name(name: str) -> str:
    """What the model that `name` means is called in the cache; it may be damaged there.

    Args:
        name: its name in the cache, or what `pullable` takes.

    Raises:
        ModelError: it is not in the cache (the message has the nearest names there).
    """
    known = [model.name for model in cache.all_cached()]
    if name in known:
        return name
    try:
        full = pullable(name).name
    except ModelError:
        full = name
    if full in known:
        return full
    if full in resolve.built_in_names():
        raise ModelError(f"{name} is built in, not pulled.\nWhat was pulled: visiontool models --cached")
    alike = [there for there in known if there.startswith(full)]
    near = f" There is: {', '.join(alike[:3])}." if alike else closest(full, known)
    raise ModelError(f"{name!r} is not on this machine.{near}\nWhat is: visiontool models --cached")


def _whose(
    entry: Entry, weights: Path, sha256: str, class_names: Path | None
) -> tuple[Entry, labels.ClassNames | None]:
    """The entry that a file of weights of `entry`'s architecture is of, and what its classes are called.

    Only the published weights are known by their hash; what others call their classes is the user's to say.
    """
    known = catalog.published(entry.architecture, sha256)
    if known is None or not labels.are_imagenets(known.classes, known.tag):
        return entry, NUMBERS if class_names is None else labels.read_class_names(class_names)
    if class_names is not None:
        raise UsageError(f"{weights} is {known.name}, whose classes are known.\nLeave --class-names out.")
    return known, None


def _in_catalog(model: str, img_size: int | None) -> tuple[Entry, int | None]:
    """The entry that "NAME" or "NAME@256" means, and the side of the input."""
    model, at, side = model.partition("@")
    if at:
        img_size = _side(model, side, img_size)
        if model in resolve.built_in_names():
            _refuse_size_of_built_in(model, img_size)
    return catalog.find(model), img_size


def _refuse_complete(model: str, weights: Path | None) -> None:
    """Raises for what has its weights in it, and needs no pulling: a model file, a run folder, a built-in model."""
    path = Path(model)
    suffix = path.suffix.lower()
    is_built_in = model in resolve.built_in_names()
    is_file = suffix == ".onnx" or (os.path.isfile(path) and suffix not in resolve.WEIGHTS_SUFFIXES)
    is_folder = model != "" and os.path.isfile(path / cache.MODEL_FILE)
    if not (is_built_in or is_file or is_folder):
        return
    if weights is not None:
        raise UsageError(
            f"{model} has its weights in it already. Leave --weights out,\n"
            f"or name the network that the weights are of: -m NAME --weights {weights}"
        )
    what = "is built in" if is_built_in else "is a model file or a folder with one, and no name of a network"
    raise ModelError(f"{model} {what}: there is nothing to pull.\nUse it as it is: -m {model}")


def _published_on_hub(model: str) -> Entry | None:
    """The entry of the catalog whose weights lie at "hf-hub:ORG/NAME", or None."""
    called = model.rpartition("/")[2]  # several entries may have one source
    return next((entry for entry in catalog.entries() if entry.source == model and entry.name == called), None)


def _name_on_hub(model: str) -> str:
    organization, _, repository = model.removeprefix(HUB).partition("/")
    name = f"{organization}--{repository}"
    if not (organization and repository and "@" not in name and cache.is_name(name)):
        raise ModelError(f"{model}: expected {HUB}ORG/NAME, such as {HUB}timm/resnet18.a1_in1k")
    return name


def _name_of_folder(folder: Path) -> str:
    """The folder's own name, and the digest of what is in it."""
    files = [folder / "config.json", weights_in(folder)]
    if not all(map(os.path.isfile, files)):
        raise ModelError(
            f"{FOLDER}{folder}: expected a folder with config.json and model.safetensors, as timm writes it"
        )
    own = re.sub(r"[^A-Za-z0-9._-]", "_", folder.resolve().name).lstrip(".-")[:100]
    return f"{own or 'folder'}+{_digest(''.join(map(_sha256, files)))}"


def weights_in(folder: Path) -> Path:
    """The file of weights of a folder in timm's format, which may not be there."""
    files = [folder / name for name in resolve.WEIGHTS_FILES]
    return next(filter(os.path.isfile, files), files[0])


def _side(model: str, side: str, img_size: int | None) -> int:
    if not re.fullmatch("[0-9]{1,5}", side) or int(side) == 0:
        raise ModelError(f"{model}@{side}: behind the @ stands the side of the input in pixels, such as {model}@256")
    if img_size not in (None, int(side)):
        raise UsageError(f"{model}@{side} and an input size of {img_size} contradict each other")
    return int(side)


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
    import hashlib  # here, since predicting by a name of the catalog comes through this module too

    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _sha256(path: Path) -> str:
    try:
        return cache.sha256(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
