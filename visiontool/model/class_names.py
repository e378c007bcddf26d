"""Class names as other tools write them, made into labels: unique, in the order of the logits."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from visiontool.errors import ModelError, UsageError, closest
from visiontool.model.spec import MAX_CLASSES, ModelSpec
from visiontool.text import is_text, listed, plural, short_repr

ClassNames = tuple[tuple[str, ...], tuple[str, ...] | None]
"""Labels, and WordNet ids where they are known."""

MAX_NAMES_BYTES = 8 * 2**20
# The subsets of ImageNet that timm names the classes of (`timm.data.infer_imagenet_subset`), known without timm.
_IMAGENETS = {1000, 11221, 11821, 21841, 21842, 21843}
# ImageNet's two cranes have no second synonym that tells them apart.
_SENSES = {"n02012849": "bird", "n03126707": "machine"}
_YAML_NAMES = re.compile(r"^names[ \t]*:", re.MULTILINE)
_NAMES_KEYS = ("id2label", "label_names", "names")
_QUOTED = r"""'(?:[^'\\]++|\\.)*+'|"(?:[^"\\]++|\\.)*+\""""
_ITEM = rf"(?:[0-9]{{1,9}}\s*:\s*(?:{_QUOTED})|(?:{_QUOTED})\s*:\s*[0-9]{{1,9}})\s*"
_DICT_REPR = re.compile(rf"\s*\{{\s*(?:{_ITEM},\s*){{0,{MAX_CLASSES - 1}}}+(?:{_ITEM})?\}}\s*", re.DOTALL)


def from_descriptions(descriptions: Sequence[str], label_ids: Sequence[str] | None = None) -> tuple[str, ...]:
    """Short labels from descriptions such as "goldfish, Carassius auratus": the first synonym, and where classes share
    it, the second in parentheses: "maillot (tank suit)".
    """
    synonyms = [[part.strip() for part in text.split(",") if part.strip()] or [text] for text in descriptions]
    shared = Counter(parts[0] for parts in synonyms)
    labels = []
    for index, parts in enumerate(synonyms):
        hint = _SENSES.get(label_ids[index]) if label_ids else None
        if shared[parts[0]] > 1 and (hint or len(parts) > 1):
            labels.append(f"{parts[0]} ({hint or parts[1]})")
        else:
            labels.append(parts[0])
    return numbered(labels)


def are_imagenets(classes: int, tag: str) -> bool:
    """Whether published weights with timm's `tag` ("tv_in1k") have the classes of ImageNet or a named subset of it."""
    return classes in _IMAGENETS and re.search(r"in(1|12|21|22)k", tag) is not None


def numbered(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels, with the class's number behind each that occurs more than once: "crane [134]"."""
    while max((counts := Counter(labels)).values(), default=1) > 1:  # again, since the result may be there already
        labels = [f"{label} [{index}]" if counts[label] > 1 else label for index, label in enumerate(labels)]
    return tuple(labels)


def read_text(path: Path, max_bytes: int, option: str = "") -> str:
    """The UTF-8 text of a file, which the user named by `option`; raises ModelError, also above `max_bytes`."""
    try:
        with open(path, "rb") as file:
            raw = file.read(max_bytes + 1)
        if len(raw) <= max_bytes:
            return raw.decode("utf-8-sig")
        reason = f"more than {max_bytes:,} bytes"
    except OSError as error:
        reason = str(error.strerror)
    except UnicodeDecodeError:
        reason = "not UTF-8 text"
    raise ModelError(f"{option} {path}: {reason}".lstrip())


def read_class_names(path: Path) -> ClassNames:
    """Labels, and WordNet ids where every name begins with one, from a user's file.

    The file is text with a name a line in the order of the classes, JSON as `names_of` takes it, or YAML: `names` of a
    data.yaml, or a list or numbered names alone. Raises ModelError.
    """
    text = read_text(path, MAX_NAMES_BYTES, "--class-names")
    is_yaml = path.suffix.lower() in (".yaml", ".yml") or _YAML_NAMES.search(text) is not None
    if text.lstrip().startswith(("[", "{")) or is_yaml:
        names = parse_names(text) or (_parse_yaml(text) if is_yaml else None)
        if names is None:
            expected = "a JSON list of names, or an object from each number to a name or from each name to its number"
            if is_yaml:
                expected = "'names:' and a list or numbered names, as in a data.yaml"
            raise ModelError(f"--class-names {path}: expected {expected}")
        return with_ids(names)
    lines = [line.strip() for line in text.rstrip().split("\n")]
    if len(lines) > MAX_CLASSES:
        raise ModelError(f"--class-names {path}: {len(lines):,} lines; at most {MAX_CLASSES:,} names are read")
    for number, name in enumerate(lines, 1):
        if not is_text(name, 1):
            raise ModelError(f"--class-names {path}: line {number}: expected a name, not {short_repr(name)}")
    return with_ids(lines)


def find_classes(names: Sequence[str], spec: ModelSpec) -> list[int]:
    """The class ids, in order, of the model's classes that have these label ids or labels.

    Raises:
        UsageError: a name that no class has, or fewer than two classes.
    """
    places = {label: [index] for index, label in enumerate(spec.labels)}
    for index, label_id in enumerate(spec.label_ids or ()):
        places[label_id] = [*places.get(label_id, ()), index]  # several classes may share one
    if unknown := [name for name in names if name not in places]:
        near = "".join(f"\n{short_repr(name)}:{some}" for name in unknown[:3] if (some := closest(name, places)))
        of = f"of {spec.name}"
        raise UsageError(f"{listed(unknown, f'name is no class {of}', f'names are no classes {of}')}{near}")
    found = sorted({index for name in names for index in places[name]})
    if len(found) < 2:
        raise UsageError(f"{plural(len(found), 'class')} of {spec.name} cannot compete; name two or more")
    return found


def with_ids(names: Sequence[str]) -> ClassNames:
    """Labels, and WordNet ids where each name begins with one."""
    synsets = [re.fullmatch(r"(n[0-9]{8})[\s,:]+(.+)", name) for name in names]
    if all(synsets):
        ids = tuple(match[1] for match in synsets if match)
        return from_descriptions([match[2] for match in synsets if match], ids), ids
    return numbered(names), None


def parse_names(text: str) -> tuple[str, ...] | None:
    """The names by index in another tool's text: JSON, or the `repr` of a dict of int to str (Ultralytics) or str to
    int (Keras). None where the text is neither, or an index is missing.
    """
    if len(text) > MAX_NAMES_BYTES:
        return None
    try:
        return names_of(json.loads(text))
    except (ValueError, RecursionError):
        return names_of(_parse_dict_repr(text))


def names_of(value: object) -> tuple[str, ...] | None:
    """The names by index, or None where `value` holds none or not all.

    It is a list of names or of [id, name]; an object with either for each number (Keras's imagenet_class_index) or the
    number for each name (its class_indices); or an object that has one of these as `id2label` (Hugging Face's
    config.json), `label_names` (timm's) or `names`.
    """
    if isinstance(value, dict):
        descriptions = value.get("label_descriptions")  # timm's `label_names` are WordNet ids then
        value = next((value[key] for key in _NAMES_KEYS if isinstance(value.get(key), dict | list)), value)
        if isinstance(descriptions, dict) and isinstance(value, list):
            value = [[name, descriptions.get(name)] if isinstance(name, str) else name for name in value]
    if isinstance(value, dict):
        count = len(value)
        if all(type(index) is int for index in value.values()):
            value = dict(sorted((index, name) for name, index in value.items()))
            value = [*value.values()] if [*value] == [*range(count)] else []
        else:
            value = [value.get(str(index)) for index in range(count)]
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_CLASSES:
        return None
    names = [item if isinstance(item, list) and len(item) == 2 else [item] for item in value]
    if not all(is_text(part, 1) for parts in names for part in parts):
        return None
    return tuple(" ".join(parts) for parts in names)


def _parse_dict_repr(text: str) -> dict[str, object] | None:
    """Reads "{0: 'a', 1: 'b'}" or "{'a': 0, 'b': 1}", and nothing that is nested or longer, which might end Python."""
    import ast
    import warnings

    if _DICT_REPR.fullmatch(text) is None:
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes that Python does not know
            names = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return None
    return {str(key): value for key, value in names.items()}


def _parse_yaml(text: str) -> tuple[str, ...] | None:
    import yaml

    try:
        # It makes texts of all scalars, so a class may be called "no" or "2024", and nothing else of any value.
        return names_of(yaml.load(text, Loader=yaml.BaseLoader))
    except (yaml.YAMLError, RecursionError, TypeError):  # TypeError: a list as a key
        return None
