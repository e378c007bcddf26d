"""Every model that has a name: the classics with their published facts, and all else that timm and torchvision know."""

from visiontool.hub.catalog.classics import classics
from visiontool.hub.catalog.entry import Classic, Entry
from visiontool.hub.catalog.lookup import entries, find, is_permissive, nearest, published, search

__all__ = ["Classic", "Entry", "classics", "entries", "find", "is_permissive", "nearest", "published", "search"]
