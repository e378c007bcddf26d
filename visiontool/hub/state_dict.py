"""Which tensors of a file are the weights of a network, and how they differ from those that it expects.

A checkpoint of somebody's training has them somewhere, with some prefix before their names; docs/models.md says which
are taken.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, NamedTuple

from visiontool.errors import ModelError
from visiontool.hub.weights import Tensor, read_weights
from visiontool.text import some

# The keys of weights in a checkpoint, in timm's order: averaged weights first.
_TIMM_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
_MAX_DEPTH = 4
_MAX_PREFIXES, _MAX_PREFIX_CHARS = 20, 1000
_MAX_NAME_CHARS = 100  # in an error
_COUNTER = "num_batches_tracked"  # of batch normalization, which only training uses; many files lack it


class Candidate(NamedTuple):
    """Tensors that may be the weights of a network."""

    place: str  # in the file, "" for all of it
    rank: int  # less is better: timm's choice comes first
    tensors: Mapping[str, Tensor]


class Fit(NamedTuple):
    """A candidate under the names of a network."""

    candidate: Candidate
    tensors: Mapping[str, Any]
    faults: str  # what does not fit, "" where all does
    fault_count: int


def read(file: Path, expected: Iterable[str]) -> list[Candidate]:
    """The sets of tensors in a file that may be the weights of a network whose state dict has these names.

    Raises ModelError where it cannot be read, or holds no weights.
    """
    content = read_weights(file)
    found = candidates(content, len(learned(expected)) // 2)
    if not found[0].tensors:
        keys = shown([*map(str, content)]) or "nothing"
        raise ModelError(f"{file}: holds no weights, only {keys}; expected a state dict")
    return found


def fits(
    found: Iterable[Candidate],
    expected: Mapping[str, tuple[int, ...]],
    rename: Callable[[Mapping[str, Tensor]], Mapping[str, Any]],
) -> list[Fit]:
    """How the candidates fit the names and shapes `expected`, the best first; `rename` brings them under these."""
    result = []
    for candidate in found:
        tensors = rename(candidate.tensors)
        got = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        result.append(Fit(candidate, tensors, *faults(expected, got)))
    return sorted(result, key=lambda fit: (fit.fault_count, fit.candidate.rank))


def chosen(fits: Sequence[Fit], network: str, file: Path) -> Mapping[str, Any]:
    """The tensors of the first of `fits`; raises ModelError where they are not the weights of `network`."""
    best, *others = fits
    if best.faults:
        raise ModelError(f"{file}: these are not the weights of {network}.\n{best.faults}")
    if unusable := not_finite(best.candidate.tensors):
        raise ModelError(
            f"{file}: these weights are not numbers (NaN): {shown(unusable)}.\n"
            "Save them again as finite tensors of float numbers."
        )
    if same := [fit for fit in others if not fit.faults and fit.candidate.rank == best.candidate.rank]:
        places = ", ".join(fit.candidate.place for fit in (best, *same))
        raise ModelError(
            f"{file}: holds several sets of weights of {network}: {places}.\n"
            "Save the one that is meant in a file of its own."
        )
    return best.tensors


def candidates(content: Mapping[str, Any], least: int) -> list[Candidate]:
    """The sets of at least `least` tensors, however nested, with and without common prefixes; else what timm takes."""
    found = []
    for path, tensors in _nested(content):
        rank = _TIMM_KEYS.index(path[0]) if path and path[0] in _TIMM_KEYS else len(_TIMM_KEYS)
        prefixes = Counter(prefix for key in tensors for prefix in _prefixes(key)).most_common(_MAX_PREFIXES)
        for prefix in ["", *(prefix for prefix, count in prefixes if count >= least)]:
            chosen = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            if len(chosen) >= least:
                found.append(Candidate(".".join(filter(None, (*path, prefix.rstrip(".")))), rank, chosen))
    if found:
        return found
    usual = next((content[key] for key in _TIMM_KEYS if isinstance(content.get(key), Mapping)), content)
    return [Candidate("", 0, next(_nested(usual))[1])]


def learned(names: Iterable[str]) -> list[str]:
    """The names of the tensors that a file of weights must have, all but the counters of batch normalization."""
    return [name for name in names if not name.endswith(_COUNTER)]


def faults(expected: Mapping[str, tuple[int, ...]], got: Mapping[str, tuple[int, ...]]) -> tuple[str, int]:
    """What is missing, left over or of another shape in `got`, "" where nothing is; and how many tensors that are."""
    kinds = {
        "missing": [name for name in learned(expected) if name not in got],
        "left over": [name for name in learned(got) if name not in expected],
        "of another shape": [
            f"{name} {got[name]} for {shape}" for name, shape in expected.items() if got.get(name, shape) != shape
        ],
    }
    text = "; ".join(f"{kind}: {shown(names)}" for kind, names in kinds.items() if names)
    return text, sum(map(len, kinds.values()))


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors with NaN or infinity in them."""
    import numpy as np

    return [name for name, tensor in tensors.items() if not np.isfinite(tensor.array()).all()]


def shown(names: Iterable[str]) -> str:
    """The first few names, cut where they are long, and how many more there are."""
    return some([name[:_MAX_NAME_CHARS] for name in names])


def _prefixes(key: str) -> Iterator[str]:
    """The first few starts of a name that end at a dot."""
    return islice(accumulate(f"{part}." for part in key[:_MAX_PREFIX_CHARS].split(".")[:-1]), _MAX_PREFIXES)


def _nested(
    value: Mapping[Any, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """The tensors of each mapping in `value`, itself included. An optimizer's are numbered, and so left out."""
    named = {key: item for key, item in value.items() if isinstance(key, str)}
    yield path, {key: item for key, item in named.items() if isinstance(item, Tensor)}
    for key, item in named.items():
        if isinstance(item, Mapping) and len(path) < _MAX_DEPTH:
            yield from _nested(item, (*path, key))
