"""The generated tables: names.csv of all names of timm, torchvision and this project, classics.csv of the classics.

No field has a comma or a quote in it, so the module csv, whose import costs as much as the search, is not needed.
"""

from collections.abc import Iterator
from pathlib import Path

from visiontool.catalog.entry import Entry

NAMES = Path(__file__).with_name("names.csv")
CLASSICS = Path(__file__).with_name("classics.csv")  # the rows of their default weights, so that names.csv stays closed
COLUMNS = "name,library,license,params,macs,input,interpolation,crop_mode,crop_pct,mean,std,classes,source,sha256"


def read(path: Path) -> Iterator[Entry]:
    """Every row: those of one architecture together, its default weights first. What is said in networks.py and
    papers.py is not in them.
    """
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.startswith(("#", COLUMNS)):
                yield _entry(line.rstrip("\n"))


def _entry(line: str) -> Entry:
    name, library, license, params, macs, size, *fitting, mean, std, classes, source, sha256 = line.split(",")
    interpolation, crop_mode, crop_pct = fitting
    architecture, _, tag = name.partition(".")
    channels, height, width = size.split("x")
    return Entry(
        name=name,
        architecture=architecture,
        tag=tag,
        library=library,
        license=license,
        params=int(params),
        macs=int(macs) if macs else None,
        input_size=(int(channels), int(height), int(width)),
        classes=int(classes),
        source=source + name if source.endswith("/") else source,
        sha256=tuple(sha256.split()),
        interpolation=interpolation,
        crop_mode=crop_mode,
        crop_pct=float(crop_pct),
        mean=tuple(map(float, mean.split(" "))),
        std=tuple(map(float, std.split(" "))),
        top1=None,
        classic=None,
    )
