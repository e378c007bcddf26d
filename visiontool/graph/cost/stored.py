"""What the classics cost, kept with the package, so that nobody needs weights or torch to look at their layers.

scripts/check_conversions.py measures and writes them.
"""

import json
from dataclasses import asdict, fields
from pathlib import Path

from visiontool.graph.cost import Cost, Layer

_FOLDER = Path(__file__).parent / "classics"


def stored(architecture: str) -> Cost | None:
    """The cost of a classic at its usual input size; None for other architectures."""
    path = _FOLDER / f"{architecture}.json"
    if not path.is_file():
        return None
    read = json.loads(path.read_bytes())
    names = [field.name for field in fields(Layer)]
    layers = [dict(zip(names, values, strict=True)) for values in read.pop("layers")]
    for layer in layers:
        layer["output_shape"] = layer["output_shape"] and tuple(layer["output_shape"])
    return Cost(**read, layers=tuple(Layer(**layer) for layer in layers))


def store(architecture: str, cost: Cost) -> None:
    """Writes the cost of a classic, one line a layer, for `stored`."""
    facts = asdict(cost)
    layers = ",\n".join(json.dumps(list(layer.values())) for layer in facts.pop("layers"))
    head = json.dumps(facts).removesuffix("}")
    _FOLDER.mkdir(exist_ok=True)
    (_FOLDER / f"{architecture}.json").write_text(f'{head}, "layers": [\n{layers}\n]}}\n', encoding="utf-8")
