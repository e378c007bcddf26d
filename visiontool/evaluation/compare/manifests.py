"""What two model files say of themselves and must not say differently."""

from collections.abc import Sequence
from itertools import zip_longest

from visiontool.model.spec import ModelSpec
from visiontool.text import short_repr


def differences(a: ModelSpec, b: ModelSpec) -> list[str]:
    """All that changes what a user sees, a line each; empty where nothing does."""
    lines = label_differences(a, b)
    if a.temperature != b.temperature:
        lines += [f"the temperature is {a.temperature:g} in A, {b.temperature:g} in B, so the probabilities are others"]
    return lines + preprocessing_differences(a, b)


def label_differences(a: ModelSpec, b: ModelSpec) -> list[str]:
    """The first label that differs, and the first id where both have ids."""
    lines = _first("label", a.labels, b.labels)
    if not lines and a.label_ids is not None and b.label_ids is not None:
        lines = _first("label id", a.label_ids, b.label_ids)
    return lines


def preprocessing_differences(a: ModelSpec, b: ModelSpec) -> list[str]:
    """What is done otherwise with a picture on its way to the network.

    That the one is resized by its graph and the other before it is no difference here, nor another layout, type or
    order of colors of the same pixels; what that costs shows in the answers.
    """
    pairs: list[tuple[str, object, object]] = [
        ("input size", a.input.size, b.input.size),
        ("crop mode", a.crop_mode, b.crop_mode),
        ("crop_pct", a.crop_pct, b.crop_pct),
        ("interpolation", a.interpolation, b.interpolation),
    ]
    if (a.input.dtype == "uint8") == (b.input.dtype == "uint8"):  # else one may do inside what the other has done
        pairs += [
            ("mean", _of_channels(a.input.mean), _of_channels(b.input.mean)),
            ("std", _of_channels(a.input.std), _of_channels(b.input.std)),
        ]
    return [f"the {name} is {_told(one)} in A, {_told(other)} in B" for name, one, other in pairs if one != other]


def _of_channels(numbers: tuple[float, ...]) -> tuple[float, ...]:
    return (numbers * 3)[:3]  # one for all, or one each


def _first(what: str, a: Sequence[str], b: Sequence[str]) -> list[str]:
    differing = [i for i, (one, other) in enumerate(zip_longest(a, b)) if one != other]
    if not differing:
        return []
    first = differing[0]
    one, other = (short_repr(names[first]) if first < len(names) else "none" for names in (a, b))
    more = f"; {len(differing):,} differ" if len(differing) > 1 else ""
    return [f"{what} {first} is {one} in A, {other} in B{more}"]


def _told(value: object) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(f"{number:g}" for number in value) + ")"
    return f"{value:g}" if isinstance(value, float) else str(value)
