"""The pulled models on this disk, each a folder that is complete or not there at all; and features of pictures.

    ROOT/models/NAME/       model.onnx, config.json, model.safetensors, and record.json, which says what they are
    ROOT/models/.NAME~...   a model that is being written, and its lock
    ROOT/downloads/         weights that are being downloaded
    ROOT/features/          what networks gave for pictures, a database (`visiontool.inference.embedding_cache`)
    ROOT/default            the name of the model that the user chose

The files of a model are hashed when they are written; later their size and time are compared, which costs nothing.
"""

from visiontool.hub.cache.models import (
    Cached,
    all_cached,
    cached,
    lock,
    mark_used,
    publish,
    remove,
    unpublished,
    verify,
)
from visiontool.hub.cache.places import (
    FULL,
    VARIABLE,
    cannot_write,
    default_model,
    downloads,
    features,
    is_name,
    models,
    root,
    set_default_model,
)
from visiontool.hub.cache.record import MODEL_FILE, DamagedModel, model_sha256, remedy, sha256
from visiontool.hub.cache.room import features_bytes, size_bytes, trim

__all__ = [
    "FULL",
    "MODEL_FILE",
    "VARIABLE",
    "Cached",
    "DamagedModel",
    "all_cached",
    "cached",
    "cannot_write",
    "default_model",
    "downloads",
    "features",
    "features_bytes",
    "is_name",
    "lock",
    "mark_used",
    "model_sha256",
    "models",
    "publish",
    "remedy",
    "remove",
    "root",
    "set_default_model",
    "sha256",
    "size_bytes",
    "trim",
    "unpublished",
    "verify",
]
