"""Class folders: which folder is a class, which is a split, and what lies where it has no meaning."""

import os
from collections import Counter
from pathlib import Path

from visiontool.data.folders import is_inside, pictures_in, real_path, walk
from visiontool.data.samples import Found, Row, split_called
from visiontool.errors import DataError
from visiontool.text import listed, on_one_line, some

UNLABELED = "test pictures without a label"


def read_class_folders(data: Path) -> Found:
    """The pictures below `data`, the folder that directly holds one being its class."""
    found = Found()
    folders = _folders(data, found)
    splits = _splits(folders, found)
    parents = {os.path.dirname(folder) for folder in folders}
    for folder, names in folders.items():
        top, _, below = folder.partition("/")
        split = splits.get(top)
        if splits and top and split is None:
            continue
        label = below if splits else folder
        if label and (names or folder not in parents):
            found.labels.setdefault(label)
        elif names and split == "test":
            found.ignored[UNLABELED] += len(names)
        elif names:
            where = f"in {on_one_line(folder)}/" if folder else "in DATA itself"
            found.faults.append(
                listed(names, f"picture lies {where}, with no label", f"pictures lie {where}, with no label")
            )
        if label:
            names_below = [f"{folder}/{name}" for name in names]
            found.rows += [Row(os.path.join(data, name), name, label, split, None) for name in names_below]
    if not found.labels:
        found.faults.append("expected DATA/<label>/picture, or a table of labels: --labels FILE.csv")
    return found


def _folders(data: Path, found: Found) -> dict[str, list[str]]:
    """The names of the pictures of each folder, "" being `data` itself."""
    folders: dict[str, list[str]] = {}
    real: dict[str, str] = {}
    unread, twice = [], []

    def name_of(path: str) -> str:
        return os.path.relpath(path, data).replace(os.sep, "/").removeprefix(".")

    def pass_over(kind: str, path: str) -> None:
        found.ignored[kind] += 1
        if kind in ("unsupported", "unreadable"):
            unread.append(name_of(path))
        # What leads back to where it lies is no class.
        elif kind == "repeated" and not is_inside(real_path(os.path.dirname(path)), real_path(path)):
            twice.append(f"{name_of(path)} ({real[real_path(path)] or 'DATA'})")

    for inside in walk(str(data), on_pass=pass_over):
        folder = real[inside.real] = name_of(inside.path)
        if inside.names is None:
            found.faults.append(f"the folder {on_one_line(folder or str(data))} cannot be read")
        folders[folder] = list(pictures_in(inside, pass_over))
    if twice:
        one, many = "link leads to a folder that is here already", "links lead to folders that are here already"
        found.faults.append(listed(twice, one, many))
    if unread:
        found.notes.append(
            listed(unread, "file is of a kind that cannot be read", "files are of kinds that cannot be read")
        )
    if not any(folders.values()):
        left_out = ", ".join(f"{count:,} {kind}" for kind, count in found.ignored.items())
        raise DataError(
            f"there is no picture in {data}{f' (left out: {left_out})' if left_out else ''}"
            + "".join(f"\n{fault}" for fault in found.faults[:1])
            + "\nExpected DATA/<label>/picture, or DATA/train/<label>/picture."
        )
    return folders


def _splits(folders: dict[str, list[str]], found: Found) -> dict[str, str]:
    """The split that each folder on top is; empty where all of them are classes."""
    pictures_below: Counter[str] = Counter()
    has_labels = set()
    for folder, names in folders.items():
        top, _, label = folder.partition("/")
        if top:
            pictures_below[top] += len(names)
        if label and names:
            has_labels.add(top)
    named = {top: split for top in pictures_below if (split := split_called(top))}
    others = [top for top in +pictures_below if top not in named]
    if not named:
        return {}
    tops = some([f"{top}/" for top in named])
    if others and not has_labels & named.keys():
        if set(named.values()) == {"train"}:
            found.notes.append(f"{tops} holds pictures itself and has other classes beside it, so it is a class too")
        else:
            found.faults.append(
                f"{tops}: a split without labels, or a class like {some(others)}? Rename it if it is a class, "
                "else put its pictures elsewhere"
            )
        return {}
    if others:
        found.faults.append(
            f"{tops} beside other folders with pictures: {some(others)}. Put those into {tops} or elsewhere"
        )
    counts = Counter(named.values())
    for split, count in counts.items():
        if count > 1:
            both = " and ".join(f"{on_one_line(top)}/" for top in named if named[top] == split)
            found.faults.append(f"{both} are both taken for {split}: keep one")
    for top, split in named.items():
        if not pictures_below[top] and split != "test":
            found.faults.append(f"{on_one_line(top)}/ holds no picture")
    if "train" not in counts:
        found.faults.append(f"there is {tops} but no train/")
    if taken := [f"{on_one_line(top)}/ is taken for {split}" for top, split in named.items() if top != split]:
        found.notes.append(", ".join(taken))
    return named
