"""The figures of gpu.py as Markdown, and whether they meet the targets."""

from collections.abc import Iterator, Mapping
from typing import Any

PARTS = ("network", "torch", "tensorrt", "parity", "resize", "files")
TARGET_RATE, TARGET_SHARE = 30_000, 0.9
NOT_MEASURED = "not measured"

Figures = Mapping[str, Mapping[str, Mapping[str, Any]]]
Verdict = tuple[str, bool | None]


def tables(figures: Figures, facts: Mapping[str, str], judged: list[Verdict]) -> str:
    """All of it: what it was made with, the figures, the targets."""
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    for kind, title in (("host", "from pixels on the host to logits there"), ("device", "on the device alone")):
        lines += ["", f"Pictures/s {title}:", "", *_rates(figures, kind)]
    lines += ["", "Logits against the CPU's:", "", *_parities(figures)]
    lines += ["", "Pictures/s from JPEG files:", "", *_files(figures), ""]
    words = {True: "met", False: "MISSED", None: NOT_MEASURED}
    return "\n".join([*lines, *(f"- {words[verdict]}: {said}" for said, verdict in judged)]) + "\n"


def verdicts(figures: Figures, gpus: str) -> list[Verdict]:
    """Each target, and whether it is met; None where that was not measured."""
    ours = {title: found for title, found in _sides(figures) if not title.startswith(("torch", "network: fp32"))}
    by_torch = figures.get("torch", {}).get("compiled", {})
    judged: list[Verdict] = []
    for size in _sizes(figures):
        title, rate = max(((title, _rate(found, size)) for title, found in ours.items()), key=lambda side: side[1] or 0)
        target = _rate(by_torch, size)
        name = f"batch {size}, the network alone: {_said(rate)}{f' ({title})' if rate else ''}"
        is_met = None if rate is None or target is None else rate >= target
        judged.append((f"{name}; at least torch.compile's {_said(target)}", is_met))
    best = max((_rate(found, size) or 0 for found in ours.values() for size in _sizes(figures)), default=0)
    is_met = best >= TARGET_RATE if best and "H200" in gpus else None
    judged.append((f"the network alone: {_said(best or None)}; {TARGET_RATE:,} pictures/s on an H200", is_met))
    share = figures.get("files", {}).get("fp16", {}).get("share")
    is_met = share >= TARGET_SHARE if share is not None and gpus else None
    said = NOT_MEASURED if share is None else f"{share:.2f}"
    judged.append((f"from files: {said} of the rate of opening alone; {TARGET_SHARE} of it", is_met))
    return judged


def _sides(figures: Figures) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The figures that have rates."""
    for part in ("network", "torch", "tensorrt"):
        for title, found in figures.get(part, {}).items():
            yield f"{part}: {title}", found


def _sizes(figures: Figures) -> list[int]:
    return sorted({int(size) for _, found in _sides(figures) for size in found.get("rates", {})})


def _rate(found: Mapping[str, Any], size: int, kind: str = "host") -> float | None:
    rate: float | None = found.get("rates", {}).get(str(size), {}).get(kind)
    return rate


def _said(rate: float | None) -> str:
    return NOT_MEASURED if rate is None else f"{rate:,.0f}"


def _rates(figures: Figures, kind: str) -> Iterator[str]:
    sizes = _sizes(figures)
    yield f"| side |{''.join(f' batch {size} |' for size in sizes)} seconds to open |"
    yield f"|---|{'---|' * len(sizes)}---|"
    for title, found in _sides(figures):
        cells = [_said(_rate(found, size, kind)) for size in sizes]
        opening = f"{found['opening_s']:.1f}" if "opening_s" in found else ""
        yield f"| {' | '.join([title, *cells, found.get('why', opening)])} |"


def _parities(figures: Figures) -> Iterator[str]:
    yield "| side | relative L2 | largest | largest of probabilities | same top-1 |"
    yield "|---|---|---|---|---|"
    for part in ("parity", "resize"):
        for title, found in figures.get(part, {}).items():
            if "why" in found:
                cells = [f"{NOT_MEASURED}: {found['why']}", "", "", ""]
            else:
                numbers = (found[name] for name in ("relative_l2", "max_absolute", "max_probability_difference"))
                cells = [*(f"{number:.1e}" for number in numbers), f"{found['same_top1']} of {found['pictures']}"]
            yield f"| {' | '.join([f'{part}: {title}', *cells])} |"


def _files(figures: Figures) -> Iterator[str]:
    yield "| side | opening alone | from files | share |"
    yield "|---|---|---|---|"
    for title, found in figures.get("files", {}).items():
        if "why" in found:
            cells = [f"{NOT_MEASURED}: {found['why']}", "", ""]
        else:
            cells = [_said(found["opening"]), _said(found["end_to_end"]), f"{found['share']:.2f}"]
        yield f"| {' | '.join([title, *cells])} |"
