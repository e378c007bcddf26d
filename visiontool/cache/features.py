"""The files of features (`visiontool.features`), as files: kept while a process uses them, the others removed.

A file may only go while nobody has it open: SQLite goes on with one that is gone, and its journal, found again by its
name, would be played back into the next file of that name.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from visiontool import locks
from visiontool.cache import places

FEATURES_BYTES = 10 * 10**9
"""What features may take of the disk after a run."""
_SUFFIX = ".sqlite"


def features_file(digest: str) -> Path:
    """The file of the features that a network gives; `digest` stands for all that they depend on beside the picture.

    Raises:
        ModelError: there is no home folder.
    """
    return places.features() / (digest + _SUFFIX)


@contextmanager
def features_in_use(path: Path) -> Iterator[None]:
    """Keeps `path` from being removed for the block, by any process; its folder is made. Any number may use it at once.

    Raises:
        OSError: the cache cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with locks.locked(_gate(path)):  # nobody is removing it, and whoever wants to next finds the lock of this user
            stack.enter_context(locks.locked(places.hidden(path)))
        yield


def remove_features(path: Path) -> int:
    """Removes `path` unless a process uses it; gives how many bytes that frees."""
    with suppress(OSError), locks.locked_if_free(_gate(path)) as is_free:
        if is_free and not _is_used(path):
            size = path.stat().st_size
            path.unlink()
            path.with_name(path.name + "-journal").unlink(missing_ok=True)
            return size
    return 0


def trim_features(max_bytes: int) -> None:
    """Removes files of features, least recently used first, until `max_bytes` hold the rest."""
    total = features_bytes()
    for path in sorted(features_files(), key=places.last_used):
        if total > max_bytes:
            total -= remove_features(path)


def features_files() -> list[Path]:
    """The files of features, one for each network."""
    return [path for path in places.files(places.features()) if path.suffix == _SUFFIX]


def features_bytes() -> int:
    """What features take of the disk."""
    return places.size_bytes(places.features())


def _gate(path: Path) -> Path:
    """The lock of whoever begins to use `path` or removes it."""
    return places.lock_file(path.parent, path.name)


def _is_used(path: Path) -> bool:
    """Whether any process uses `path`, for the holder of its gate; clears away what killed processes left."""
    for user in path.parent.glob(f".{path.name}{places.HIDDEN}*"):
        if user != _gate(path):
            with locks.locked_if_free(user) as is_free:
                if not is_free:
                    return True
    return False
