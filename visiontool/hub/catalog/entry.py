"""What the catalog says of a model. Named tuples, because two frozen dataclasses would cost 2 ms of every start."""

from typing import NamedTuple


class Classic(NamedTuple):
    """A network that made history, and the paper it comes from."""

    name: str  # the architecture
    aliases: tuple[str, ...]
    family: str
    year: int
    title: str
    paper: str  # an address
    note: str  # one line, or ""


class Entry(NamedTuple):
    """One set of weights of one architecture; the architecture alone where nothing is published."""

    name: str  # "vgg16.tv_in1k"
    architecture: str  # what `timm.create_model` takes after `import visiontool.pytorch.architectures`
    tag: str  # "" where nothing is published
    library: str  # timm, torchvision or visiontool
    license: str  # of the weights, SPDX in lower case as timm writes it; "" where unknown
    params: int
    macs: int | None  # of one picture of `input_size`; None where nobody has counted
    input_size: tuple[int, int, int]  # (C, H, W)
    classes: int  # 0 where the network gives features only
    source: str  # "hf-hub:...", an address, "built-in", or "" where there are no weights
    sha256: tuple[str, ...]  # first digits of the SHA-256 of files that are known to hold these weights
    interpolation: str  # how pictures are fitted, in the words of `preprocess.fit`
    crop_mode: str
    crop_pct: float
    mean: tuple[float, ...]  # one number a channel, on the scale 0 to 1
    std: tuple[float, ...]
    top1: float | None  # ImageNet-1k validation in percent, as their publisher says
    classic: Classic | None

    @property
    def is_untrained(self) -> bool:
        """Whether there are no weights for it."""
        return not self.source


_SEPARATORS = str.maketrans("- ./", "____")


def fold(name: str) -> str:
    """`name` without what people write differently: case, and separators, but between digits (1_6 is not 16)."""
    folded = ""
    for part in name.lower().translate(_SEPARATORS).split("_"):
        if folded[-1:].isdigit() and part[:1].isdigit():
            folded += "_"
        folded += part
    return folded
