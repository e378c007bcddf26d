"""What is in folders: the pictures below one, and the classes and splits that its sub-folders are."""

import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from visiontool.data.samples import LabeledPath, RawDataset, split_called
from visiontool.errors import DataError, PictureError
from visiontool.images.formats import PLUGIN_OF, plugin_for
from visiontool.text import listed, on_one_line, some

# What often lies beside pictures, and need not be opened to be left out.
_OTHER_EXTENSIONS = frozenset((
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".log", ".html", ".css", ".js", ".py",
    ".ipynb", ".pdf", ".zip", ".tar", ".gz", ".7z", ".rar", ".mp4", ".mov", ".avi", ".mkv", ".npy", ".npz", ".pt",
    ".pth", ".onnx", ".safetensors", ".pkl", ".h5", ".parquet", ".db", ".sqlite", ".mat", ".xmp",
))  # fmt: skip
# What they hold as a TIFF file is a thumbnail.
_RAW_EXTENSIONS = frozenset((
    ".3fr", ".arw", ".cr2", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".nef", ".nrw", ".orf",
    ".pef", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw",
))  # fmt: skip
# Thumbnails and leavings of macOS archives, Synology disks and Windows, which look like folders of pictures.
_JUNK_FOLDERS = frozenset(("__macosx", "@eadir", "$recycle.bin"))
_DIGITS = re.compile(r"\d+")
_HEAD_BYTES = 64
_UNLABELED = "test pictures without a label"

OnPass = Callable[[str, str], None]
"""Takes what is left out of folders: a kind ("hidden", "junk", "not pictures", "unsupported", "unreadable",
"sub-folders", "repeated") and the path."""


class Folder(NamedTuple):
    """A folder and the names of the pictures in it, in natural order: None where it cannot be read."""

    path: str
    real: str
    pictures: list[str] | None
    links: set[str]


def walk(
    top: str, *, recursive: bool = True, exclude: str | None = None, on_pass: OnPass = lambda kind, path: None
) -> Iterator[Folder]:
    """`top` and the folders below it, each real folder once: in natural order, and those that links lead to at the end.

    Hidden and junk folders are left out, and `exclude`, a real path. What has no picture's extension, but begins like a
    picture, is one.
    """
    walked = set[str]()
    folders, linked = [top], deque[str]()
    while folders or linked:
        path = folders.pop() if folders else linked.popleft()
        real = os.path.realpath(path)
        if exclude is not None and is_inside(real, exclude):
            continue
        if real in walked:
            on_pass("repeated", path)
            continue
        walked.add(real)
        names, links, inside, linked_inside = list[str](), set[str](), list[str](), list[str]()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    is_link = entry.is_symlink()
                    # DirEntry.is_dir raises on a link that leads in circles.
                    is_folder = os.path.isdir(entry.path) if is_link else entry.is_dir()
                    if entry.name.startswith("."):
                        on_pass("hidden", entry.path)
                    elif not is_folder:
                        names.append(entry.name)
                        if is_link:
                            links.add(entry.name)
                    elif entry.name.lower() in _JUNK_FOLDERS:
                        on_pass("junk", entry.path)
                    elif not recursive:
                        on_pass("sub-folders", entry.path)
                    else:
                        (linked_inside if is_link else inside).append(entry.path)
        except OSError:
            yield Folder(path, real, None, set())
            continue
        folders += sorted(inside, key=natural_key, reverse=True)
        linked += sorted(linked_inside, key=natural_key)
        pictures = []
        for name in sorted(names, key=natural_key):
            if kind := _not_picture(file := os.path.join(path, name)):
                on_pass(kind, file)
            else:
                pictures.append(name)
        yield Folder(path, real, pictures, links)


def natural_key(path: str) -> str:
    """Sorts names and paths as people do: 2 before 10, without regard to case, folder by folder."""
    key = _DIGITS.sub(lambda digits: digits[0].zfill(20), path.casefold())
    return key.replace(os.sep, "/").replace("/", "\0") + "\0\0" + path


def is_inside(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or below it, both being real paths."""
    path, folder = os.path.normcase(path), os.path.normcase(folder)
    return path == folder or path.startswith(os.path.join(folder, ""))


def _not_picture(path: str) -> str:
    """The kind of a file in a folder that is not taken for a picture, or "". A picture's extension is believed."""
    extension = os.path.splitext(path)[1].lower()
    if extension in PLUGIN_OF:  # a broken link too: whoever opens it says what is wrong
        return ""
    if extension in _OTHER_EXTENSIONS or not os.path.isfile(path):
        return "not pictures"
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
        plugin = plugin_for(head)
    except OSError:
        return "unreadable"
    except PictureError as error:
        is_other = extension not in _RAW_EXTENSIONS and "not a picture" in str(error)
        return "not pictures" if is_other else "unsupported"
    if plugin == "Tiff" and extension in _RAW_EXTENSIONS:
        return "unsupported"
    # Text may begin as these do: "BM", "P1 ".
    is_text = (plugin == "Bmp" and b"\0" not in head) or (plugin == "Ppm" and not re.match(rb"..\s*[#\d]", head))
    return "not pictures" if is_text else ""


def read_class_folders(data: Path) -> RawDataset:
    """The pictures below `data`, the folder that directly holds one being its class."""
    raw = RawDataset()
    folders = _pictures_by_folder(data, raw)
    splits = _splits(folders, raw)
    parents = {os.path.dirname(folder) for folder in folders}
    for folder, names in folders.items():
        top, _, below = folder.partition("/")
        split = splits.get(top)
        if splits and top and split is None:
            continue
        label = below if splits else folder
        if label and (names or folder not in parents):
            raw.labels.setdefault(label)
        elif names and split == "test":
            raw.ignored[_UNLABELED] += len(names)
        elif names:
            where = f"in {on_one_line(folder) + '/' if folder else 'DATA itself'}, with no label"
            raw.faults.append(listed(names, f"picture lies {where}", f"pictures lie {where}"))
        if label:
            paths = [f"{folder}/{name}" for name in names]
            raw.pictures += [LabeledPath(os.path.join(data, path), path, label, split, None) for path in paths]
    if not raw.labels:
        raw.faults.append("expected DATA/<label>/picture, or a table of labels: --labels FILE.csv")
    return raw


def _pictures_by_folder(data: Path, raw: RawDataset) -> dict[str, list[str]]:
    """The names of the pictures in each folder, "" being `data` itself."""
    folders: dict[str, list[str]] = {}
    unsupported = []

    def name_of(path: str) -> str:
        return os.path.relpath(path, data).replace(os.sep, "/").removeprefix(".")

    def pass_over(kind: str, path: str) -> None:
        raw.ignored[kind] += 1
        if kind in ("unsupported", "unreadable"):
            unsupported.append(name_of(path))

    for folder in walk(str(data), on_pass=pass_over):
        name = name_of(folder.path)
        if folder.pictures is None:
            raw.faults.append(f"the folder {on_one_line(name or str(data))} cannot be read")
        folders[name] = folder.pictures or []
    if unsupported:
        kinds = "of a kind that cannot be read"
        raw.notes.append(listed(unsupported, f"file is {kinds}", f"files are {kinds}"))
    if not any(folders.values()):
        ignored = ", ".join(f"{count:,} {kind}" for kind, count in raw.ignored.items())
        raise DataError(
            f"there is no picture in {data}{f' (left out: {ignored})' if ignored else ''}"
            + "".join(f"\n{fault}" for fault in raw.faults[:1])
            + "\nExpected DATA/<label>/picture, or DATA/train/<label>/picture."
        )
    return folders


def _splits(folders: dict[str, list[str]], raw: RawDataset) -> dict[str, str]:
    """The split that each folder directly in DATA is; empty where all of them are classes."""
    counts: Counter[str] = Counter()
    has_labels = set()
    for folder, names in folders.items():
        top, _, label = folder.partition("/")
        if top:
            counts[top] += len(names)
        if label and names:
            has_labels.add(top)
    splits = {top: split for top in counts if (split := split_called(top))}
    if not splits:
        return {}
    others = [top for top in +counts if top not in splits]
    tops = some([f"{top}/" for top in splits])
    if others and not has_labels & splits.keys():
        if set(splits.values()) == {"train"}:
            raw.notes.append(f"{tops} holds pictures itself and has other classes beside it, so it is a class too")
        else:
            raw.faults.append(
                f"{tops}: a split without labels, or a class like {some(others)}? Rename it if it is a class, "
                "else put its pictures elsewhere"
            )
        return {}
    if others:
        raw.faults.append(
            f"{tops} beside other folders with pictures: {some(others)}. Put those into {tops} or elsewhere"
        )
    folders_of = {
        split: [f"{on_one_line(top)}/" for top in splits if splits[top] == split] for split in splits.values()
    }
    for split, names in folders_of.items():
        if len(names) > 1:
            raw.faults.append(f"{' and '.join(names)} are both taken for {split}: keep one")
    for top, split in splits.items():
        if not counts[top] and split != "test":
            raw.faults.append(f"{on_one_line(top)}/ holds no picture")
    if "train" not in folders_of:
        raw.faults.append(f"there is {tops} but no train/")
    if renamed := [f"{on_one_line(top)}/ is taken for {split}" for top, split in splits.items() if top != split]:
        raw.notes.append(", ".join(renamed))
    return splits
