"""What is written down of a pulled model: where it comes from, and the hash, size and time of each of its files."""

import json
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from visiontool.errors import ModelError
from visiontool.hub.cache import places

MODEL_FILE = "model.onnx"
RECORD_FILE = "record.json"
_SCHEMA = 1
_FILE = "file "  # before the name of a file of weights, as a source
# File systems and archives keep times in steps of up to two seconds.
_SAME_TIME_NS = 2 * 10**9


class DamagedModel(ModelError):
    """The files of a model in the cache are not those that were written."""

    def __init__(self, name: str, fault: str, source: str = "") -> None:
        super().__init__(f"{name} in the cache is damaged: {fault}.\n{remedy(name, source)}")
        self.fault = fault


class FileFacts(NamedTuple):
    """What a file was when it was written."""

    sha256: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileFacts":
        status = path.stat()
        return cls(sha256(path), status.st_size, status.st_mtime_ns)

    def look_like(self, path: Path) -> bool:
        """Whether size and time of the file are still the same, as near as times are kept."""
        try:
            status = os.stat(path)
        except OSError:
            return False
        return status.st_size == self.size and abs(status.st_mtime_ns - self.mtime_ns) < _SAME_TIME_NS

    def fault_of(self, path: Path) -> str:
        """What is wrong with the content of the file, "" if nothing."""
        try:
            return "" if sha256(path) == self.sha256 else f"{path.name} was changed since it was pulled"
        except OSError as error:
            return f"{path.name} cannot be read ({error.strerror})"


class Record(NamedTuple):
    """A pulled model, as record.json says it."""

    name: str
    source: str  # where the weights come from
    pulled: str  # ISO time
    license: str  # of the weights
    tools: Mapping[str, Any]  # versions of what made the files
    files: Mapping[str, FileFacts]

    @classmethod
    def read(cls, folder: Path) -> "Record | None":
        """The record of the model in `folder`; None where there is no such folder.

        Raises:
            DamagedModel: it is missing, or not of this shape.
        """
        source = ""
        try:
            values = json.loads((folder / RECORD_FILE).read_bytes())
            source = str(values.get("source", ""))
            if values.pop("schema") != _SCHEMA:
                raise DamagedModel(folder.name, f"another version of visiontool wrote its {RECORD_FILE}", source)
            values["files"] = {name: FileFacts(**facts) for name, facts in values["files"].items()}
            record = cls(**values)
        except OSError as error:
            if not os.path.isdir(folder):
                return None
            raise DamagedModel(folder.name, f"its {RECORD_FILE} cannot be read ({error.strerror})") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            record = None
        if record is None or not record._is_sound():
            raise DamagedModel(folder.name, f"its {RECORD_FILE} is not what visiontool writes", source)
        return record

    def write(self, folder: Path) -> None:
        """Writes record.json, all at once."""
        values = self._asdict() | {"files": {name: facts._asdict() for name, facts in self.files.items()}}
        places.write_file(folder / RECORD_FILE, json.dumps({"schema": _SCHEMA} | values, indent=1) + "\n")

    def faults(self, folder: Path, names: Iterable[str]) -> list[str]:
        """What is wrong with the content of the files `names`, a line for each."""
        return [fault for name in names if (fault := self.files[name].fault_of(folder / name))]

    def differing(self, folder: Path) -> list[str]:
        """The files that have another size or time than was written down."""
        return [name for name, facts in self.files.items() if not facts.look_like(folder / name)]

    def renewed(self, folder: Path, names: Iterable[str]) -> "Record":
        """This record with what the files `names` are now."""
        return self._replace(files={**self.files, **{name: FileFacts.of(folder / name) for name in names}})

    def _is_sound(self) -> bool:
        texts = (self.name, self.source, self.pulled, self.license, *(facts.sha256 for facts in self.files.values()))
        numbers = (number for facts in self.files.values() for number in facts[1:])
        return (
            MODEL_FILE in self.files
            and all(isinstance(text, str) for text in texts)
            and all(isinstance(number, int) for number in numbers)
        )


def remedy(name: str, source: str) -> str:
    """What to type to have the damaged model `name` anew.

    Args:
        source: as the record says it, "" where that cannot be read.
    """
    if "+" not in name and "--" not in name:  # a name of the catalog
        return f"Get it anew with: visiontool models pull {name}"
    from shlex import quote

    model, _, rest = name.partition("+")
    side = rest.partition("@")[2]
    pulls = ""
    if source.startswith(("hf-hub:", "local-dir:")):
        pulls = quote(source)
    elif source.startswith(_FILE):
        pulls = f"{model} --weights {quote(source.removeprefix(_FILE))}" + (f" --img-size {side}" if side else "")
        pulls += " --class-names FILE" if "+" in rest else ""
    again = f"\nThen pull it again: visiontool models pull {pulls}" if pulls else ", then pull it again"
    return f"Remove it with: visiontool models remove {name}{again}"


def model_sha256(path: Path) -> str:
    """The SHA-256 of the model file `path`: read once while size and time are the same, and not at all where the cache
    has a record of it.

    Raises:
        OSError: it cannot be read.
    """
    try:
        if path.name == MODEL_FILE and path.parent.parent == places.models() and (record := Record.read(path.parent)):
            facts = record.files[MODEL_FILE]
            if facts.look_like(path):
                return facts.sha256
    except ModelError:  # no record that can be read, or no cache
        pass
    status = path.stat()
    return _sha256_of(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)  # half a second for VGG-16
def _sha256_of(path: Path, size: int, mtime_ns: int) -> str:
    return sha256(path)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    import hashlib

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
