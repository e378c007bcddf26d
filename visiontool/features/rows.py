"""What is kept of a picture, as rows of a `Database`: its look, and an embedding for each view."""

import hashlib
import json
import struct
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import PIL
from numpy.typing import NDArray

from visiontool import cache
from visiontool.look import Look
from visiontool.prepare import Recipe

if TYPE_CHECKING:
    from visiontool.classifier import Classifier

LOOK = "look"  # in place of a view's key
# Goes up when the same picture comes to the network with other pixels than before, or when rows are written otherwise.
_FORMAT = 1
_HEAD = struct.Struct("<II16s3s")  # of a look: width, height, digest of its pixels, color


def backbone_digest(classifier: "Classifier", recipe: Recipe) -> str:
    """Stands for all that an embedding depends on beside the picture and its view: the network with its weights and
    their precision, how pictures are made ready for it, what it runs on, and the libraries that do it.

    Raises:
        OSError: the model file cannot be read.
    """
    import onnxruntime  # that it was imported before, by `runtime`, keeps it from printing to stdout

    said = [
        _FORMAT,
        cache.model_sha256(classifier.path),
        classifier.spec.embedding,
        asdict(classifier.spec.input),
        recipe.fit_options,
        recipe.resize_to,
        classifier.provider,
        onnxruntime.__version__,
        PIL.__version__,
    ]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def key(content: bytes, what: str) -> bytes:
    """The key of what is kept of a picture.

    Args:
        content: digest of its file.
        what: `View.key()`, or LOOK.
    """
    return hashlib.blake2b(content + what.encode(), digest_size=16).digest()


def vector_to_bytes(vector: NDArray[np.float32]) -> bytes:
    """An embedding as it is kept."""
    return vector.astype("<f4", copy=False).tobytes()


def vector_from(value: bytes) -> NDArray[np.float32]:
    """The embedding that was kept as `value`."""
    return np.frombuffer(value, "<f4")


def look_to_bytes(look: Look) -> bytes:
    """A look as it is kept."""
    return _HEAD.pack(look.width, look.height, bytes.fromhex(look.pixels), look.color) + look.thumbnail


def look_from(value: bytes) -> Look:
    """The look that was kept as `value`."""
    width, height, pixels, color = _HEAD.unpack_from(value)
    return Look(width, height, pixels.hex(), value[_HEAD.size :], color)
