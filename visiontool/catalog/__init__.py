"""Every model that has a name: the classics with their published facts, and all else that timm and torchvision know."""

from visiontool.catalog.classics import classics
from visiontool.catalog.entry import Classic, Entry
from visiontool.catalog.lookup import entries, find, is_permissive, nearest, published, search

__all__ = ["Classic", "Entry", "classics", "entries", "find", "is_permissive", "nearest", "published", "search"]
