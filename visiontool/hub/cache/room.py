"""How much of the disk the cache takes, and how to make that less."""

from contextlib import suppress
from pathlib import Path

from visiontool import locks
from visiontool.hub.cache import places
from visiontool.hub.cache.models import Cached, all_cached, remove
from visiontool.hub.cache.record import RECORD_FILE


def size_bytes() -> int:
    """What the cache takes of the disk, downloads and features included."""
    folders = [*places.model_folders(), places.downloads(), places.features()]
    return sum(map(places.size_bytes, folders))


def features_bytes() -> int:
    """What features take of the disk."""
    return places.size_bytes(places.features())


def trim(max_bytes: int) -> list[Cached]:
    """Makes the cache no larger than `max_bytes`.

    What killed processes left goes first, then downloads, then all features, which can be computed anew, then models,
    least recently used first. What a process is downloading or writing stays.

    Returns:
        The models that were removed.

    Raises:
        ConversionError: the cache cannot be written.
    """
    _clear_all_leavings()
    total = size_bytes()
    for download in sorted(places.files(places.downloads()), key=places.last_used):
        if total > max_bytes:
            total -= _delete_download(download)
    if total > max_bytes:
        total -= features_bytes()
        for path in places.files(places.features()):
            with suppress(OSError):  # Windows keeps what a process has open
                path.unlink()
        total += features_bytes()
    removed = []
    for model in sorted(all_cached(), key=lambda model: places.last_used(model.folder / RECORD_FILE)):
        if total > max_bytes:
            remove(model.name)
            total -= model.size_bytes
            removed.append(model)
    return removed


def _clear_all_leavings() -> None:
    """Clears away what killed processes left of any model."""
    with suppress(OSError):
        for name in {path.name[1:].rpartition(places.HIDDEN)[0] for path in places.leavings("*")}:
            with locks.locked_if_free(places.lock_file(places.models(), name)) as is_free:
                if is_free:
                    places.clear_leavings(name)


def _delete_download(path: Path) -> int:
    """Deletes a file of a download unless a process is at it; gives how many bytes that frees."""
    with suppress(OSError), locks.locked_if_free(places.lock_file(path.parent, path.name)) as is_free:
        if is_free:
            size = path.stat().st_size
            path.unlink()
            return size
    return 0
