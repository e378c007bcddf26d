"""Compares model files of every classic with torch, on random weights: docs/conversions.csv and docs/skeletons.csv.

    python scripts/check_conversions.py [NAME...] [--table conversions|skeletons] [--again]

The first table is of files that torch's exporter wrote, the second of skeletons that were filled without torch. Each
name has a process of its own and gets its row as soon as it is done, so the script can be stopped and started again:
names that have a row are skipped unless --again is given. It exits with 1 where a row is outside its limits.

conversions.csv:

input_size        C x H x W, that of the weights that the catalog takes first
params            of the network that visiontool converts
reference         whose network it is compared with: torchvision's, timm's, or a sum worked by hand
reference_params  its parameters; params must be the same
macs              multiply-accumulates, counted in the file
gmacs_of          who publishes how many
reference_gmacs   how many, in 10^9: within 1 % of torchvision's figure, 3 % of timm's, beside what rounding hides
exporter          which of visiontool.pytorch.exporters wrote the file
relative_1        how far the logits of onnxruntime are from torch's at batch 1, on pictures of samples/, as a share of
                  their length: at most 1e-5
relative_3        the same at batch 3
spread            how far the logits of two pictures are apart, as such a share: at least 0.001, a hundred times what
                  may differ, else the answers would be too much alike to show anything
seconds           for all of it

skeletons.csv has all classics with published weights:

bytes             of the skeleton, compressed
params            that it has numbers for: those of the network, exactly
relative_N        as above, the largest of logits, embedding and feature map, at batch N; 32 is empty where it would
                  take more than a few GB
seconds           to fill it, and write the model

Needs the extra [train].
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

MAX_RELATIVE = 1e-5
MIN_SPREAD = 0.001
TABLES = {name: ROOT / "docs" / f"{name}.csv" for name in ("conversions", "skeletons")}
SKELETON_COLUMNS = ("name", "bytes", "params", "reference_params", *(f"relative_{n}" for n in (1, 2, 7, 32)), "seconds")
COLUMNS = (
    "name",
    "input_size",
    "params",
    "reference",
    "reference_params",
    "macs",
    "gmacs_of",
    "reference_gmacs",
    "exporter",
    "relative_1",
    "relative_3",
    "spread",
    "seconds",
)

# What torchvision calls a network that timm calls otherwise. Only those that are the same to the last parameter.
TORCHVISION_NAMES = {
    "mnasnet_050": "mnasnet0_5",
    "mnasnet_075": "mnasnet0_75",
    "mnasnet_100": "mnasnet1_0",
    "mnasnet_140": "mnasnet1_3",
    "mobilenetv2_100": "mobilenet_v2",
    "mobilenetv3_large_100": "mobilenet_v3_large",
    "mobilenetv3_small_100": "mobilenet_v3_small",
    "vit_base_patch16_224": "vit_b_16",
    "vit_base_patch32_224": "vit_b_32",
    "vit_large_patch16_224": "vit_l_16",
    "swin_tiny_patch4_window7_224": "swin_t",
    "swin_small_patch4_window7_224": "swin_s",
    "swin_base_patch4_window7_224": "swin_b",
    "regnety_004": "regnet_y_400mf",
    "regnety_008": "regnet_y_800mf",
    "regnety_016": "regnet_y_1_6gf",
    "regnety_032": "regnet_y_3_2gf",
    "regnety_080_tv": "regnet_y_8gf",
    "regnety_160": "regnet_y_16gf",
    "regnety_320": "regnet_y_32gf",
    "regnetx_004_tv": "regnet_x_400mf",
    "regnetx_008": "regnet_x_800mf",
    "regnetx_016": "regnet_x_1_6gf",
    "regnetx_032": "regnet_x_3_2gf",
    "regnetx_080": "regnet_x_8gf",
    "regnetx_160": "regnet_x_16gf",
    "regnetx_320": "regnet_x_32gf",
}

# Source: huggingface/pytorch-image-models, results/benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv (infer_gmacs).
TIMM_GMACS = {
    "inception_v4": 12.28,
    "inception_resnet_v2": 13.18,
    "resnetv2_50": 4.11,
    "resnetv2_101": 7.83,
    "resnetv2_152": 11.55,
    "legacy_xception": 8.40,
    "mobilenetv1_100": 0.58,
    "legacy_seresnet18": 1.82,
    "legacy_seresnet34": 3.67,
    "legacy_seresnet50": 3.88,
    "legacy_seresnet101": 7.61,
    "legacy_seresnet152": 11.33,
    "seresnet50": 4.11,
    "mobilenetv2_050": 0.10,
    "mobilenetv2_140": 0.60,
    "mnasnet_small": 0.07,
    "semnasnet_100": 0.32,
    "efficientnet_b1": 0.59,  # at 224 pixels, where torchvision takes 240
    "efficientnet_b2": 0.89,
    "efficientnet_b3": 1.63,
    "efficientnet_b4": 3.13,
    "efficientnet_b5": 9.59,
    "tf_efficientnet_b6": 19.40,
    "tf_efficientnet_b7": 38.33,
    "regnetx_002": 0.20,
    "regnety_002": 0.20,
    "vit_tiny_patch16_224": 1.26,
    "vit_small_patch16_224": 4.61,
    "deit_tiny_patch16_224": 1.26,
    "deit_small_patch16_224": 4.61,
    "deit_base_patch16_224": 17.58,
    "deit_tiny_distilled_patch16_224": 1.27,
    "deit_small_distilled_patch16_224": 4.63,
    "deit_base_distilled_patch16_224": 17.68,
    "swin_large_patch4_window7_224": 34.53,
    "maxvit_tiny_tf_224": 5.60,
    "maxvit_small_tf_224": 11.66,
    "maxvit_base_tf_224": 24.04,
    "maxvit_large_tf_224": 43.68,
}

# Sums worked by hand in tests/pytorch/test_architectures.py, for the networks that neither timm nor torchvision has.
BY_HAND = {
    "lenet5": 61_706,
    "nin": 7_595_176,
    "bn_inception": 11_295_240,
    **{f"cifar_resnet{version}20": 269_722 for version in ("", "v2_")},
    **{f"cifar_resnet{version}32": 464_154 for version in ("", "v2_")},
    **{f"cifar_resnet{version}44": 658_586 for version in ("", "v2_")},
    **{f"cifar_resnet{version}56": 853_018 for version in ("", "v2_")},
}


# Random biases that are not 0.1: see tests/random_weights.py.
BIASES = {"tf_efficientnet_b6": 0.5, "tf_efficientnet_b7": 0.5}


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="architectures (default: every classic)")
    parser.add_argument("--again", action="store_true", help="check names that have a row as well")
    parser.add_argument("--table", choices=TABLES, default="conversions")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)  # this script in its process for one name
    arguments = parser.parse_args()
    table = arguments.table
    check, known, columns = {
        "conversions": (checked, classics, COLUMNS),
        "skeletons": (checked_skeleton, with_skeleton, SKELETON_COLUMNS),
    }[table]
    if arguments.one:
        csv.writer(sys.stdout).writerow(check(arguments.one))
        return 0
    names, rows = arguments.names or known(), read_table(table)
    failed = []
    for name in names:
        if name in rows and not arguments.again:
            continue
        command = [sys.executable, __file__, "--table", table, "--one", name]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if ran.returncode:
            failed.append(name)
            print(f"{name}: failed", file=sys.stderr)
            continue
        rows[name] = dict(zip(columns, next(csv.reader([ran.stdout])), strict=True))
        print(",".join(rows[name].values()), flush=True)
        write_table(table, columns, rows)
    outside = [name for name in names if name in rows and is_outside(rows[name])]
    for name in outside:
        print(f"{name}: outside its limits: {rows[name]}", file=sys.stderr)
    return 1 if failed or outside else 0


def classics() -> list[str]:
    """The architectures of the catalog's classics."""
    from visiontool.hub import catalog

    return list(dict.fromkeys(entry.architecture for entry in catalog.classics()))


def with_skeleton() -> list[str]:
    """The architectures of the classics with published weights."""
    from visiontool.hub import catalog

    return [entry.architecture for entry in catalog.classics() if entry.source not in ("", "built-in")]


def checked(name: str) -> list[object]:
    """The row of one architecture in conversions.csv."""
    import numpy as np
    import torch
    from random_weights import random_weights

    from visiontool import Classifier
    from visiontool.data.discover import find_images
    from visiontool.graph.cost import STORED
    from visiontool.graph.cost.layers import measure
    from visiontool.hub import catalog
    from visiontool.model.difference import relative_l2
    from visiontool.model.spec import InputSpec, ModelSpec
    from visiontool.pytorch import parity, weights
    from visiontool.pytorch.convert import convert
    from visiontool.pytorch.exporters import EXPORTERS, OnnxWrapper

    started = time.monotonic()
    torch.manual_seed(0)
    model = weights.create(catalog.find(name).name)
    cfg = model.pretrained_cfg
    spec = ModelSpec(
        name=name,
        labels=tuple(f"class {index}" for index in range(model.num_classes)),
        input=InputSpec(size=cfg["input_size"][1:], mean=cfg["mean"], std=cfg["std"]),
    )
    pictures = list(find_images([str(ROOT / "samples")]))
    pixels = parity.pixels_of(pictures, spec, 3)
    random_weights(model, parity.normalized(pixels, spec.input), bias=BIASES.get(name, 0.1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        spec = convert(model, spec, path, pictures, batches=(1, 3))
        expected = parity.answers(OnnxWrapper(model, spec.input), spec.input, pixels)["logits"]
        classifier = Classifier.load(path, device="cpu")
        relative = [relative_l2(expected[:n], classifier.outputs(pixels[:n], "logits")) for n in (1, 3)]
        measured = measure(path)
    facts = asdict(measured)  # as `stored` reads them: one line a layer
    layers = ",\n".join(json.dumps(list(layer.values())) for layer in facts.pop("layers"))
    head = json.dumps(facts).removesuffix("}")
    (STORED / f"{name}.json").write_text(f'{head}, "layers": [\n{layers}\n]}}\n', encoding="utf-8")
    spread = float(np.linalg.norm(expected[0] - expected[1]) / np.linalg.norm(expected[0]))
    reference, reference_params = reference_of(name)
    return [
        name,
        "x".join(map(str, cfg["input_size"])),
        sum(parameter.numel() for parameter in model.parameters()),
        reference,
        reference_params,
        measured.macs,
        *gmacs_of(name),
        spec.tools.get("exporter", next(iter(EXPORTERS))),
        *(f"{value:.1e}" for value in relative),
        f"{spread:.3f}",
        round(time.monotonic() - started),
    ]


def checked_skeleton(name: str, batches: Sequence[int] | None = None, img_size: int | None = None) -> list[object]:
    """The row of one architecture in skeletons.csv; for a test with fewer batches, and at another size in pixels."""
    import torch
    from random_weights import random_weights

    from visiontool.hub import catalog, skeleton
    from visiontool.hub.resolve import sample_pictures
    from visiontool.model.difference import batches_for
    from visiontool.model.spec import InputSpec, ModelSpec
    from visiontool.pytorch import parity, weights
    from visiontool.pytorch.exporters import OnnxWrapper

    entry = catalog.find(name)
    size = entry.input_size[1:] if img_size is None else (img_size, img_size)
    model = weights.create(entry.name)
    spec = ModelSpec(name=name, labels=("a", "b"), input=InputSpec(size=size, mean=entry.mean, std=entry.std))
    batches = batches or batches_for(spec.input.size)
    pixels = parity.pixels_of(sample_pictures(), spec, max(batches))  # not the digits, which such weights magnify
    random_weights(model, parity.normalized(pixels[:8], spec.input), bias=BIASES.get(name, 0.1))
    expected = parity.answers(OnnxWrapper(model, spec.input), spec.input, pixels)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "weights.pth")
        torch.save(model.state_dict(), file)
        started = time.monotonic()
        filled = skeleton.fill_from(entry, file, name=name, source="", license="", img_size=img_size)
        filled.write(Path(folder))
        seconds = time.monotonic() - started
        relative = parity.check(Path(folder, "model.onnx"), spec.input, pixels, expected, batches)
    return [
        name,
        skeleton.path(name).stat().st_size,
        filled.spec.weights["params"],
        sum(parameter.numel() for parameter in model.parameters()),
        *(f"{relative[n]:.1e}" if n in relative else "" for n in (1, 2, 7, 32)),
        f"{seconds:.1f}",
    ]


def reference_of(name: str) -> tuple[str, int]:
    """Whose network `name` is compared with, and its number of parameters."""
    import timm
    import torchvision
    from torch import nn

    def count(model: nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    if name in BY_HAND:
        return "by hand", BY_HAND[name]
    theirs = TORCHVISION_NAMES.get(name, name)
    if theirs not in torchvision.models.list_models(torchvision.models):
        return "timm", count(timm.create_model(name))
    without_auxiliary = {"aux_logits": False, "init_weights": False} if theirs in ("googlenet", "inception_v3") else {}
    return "torchvision", count(torchvision.models.get_model(theirs, **without_auxiliary))


def gmacs_of(name: str) -> tuple[str, float | str]:
    """Who publishes the multiply-accumulates of `name`, and how many, in 10^9; empty where nobody does."""
    import torchvision

    if name in TIMM_GMACS:
        return "timm", TIMM_GMACS[name]
    theirs = TORCHVISION_NAMES.get(name, name)
    if theirs in torchvision.models.list_models(torchvision.models):
        return "torchvision", torchvision.models.get_model_weights(theirs).DEFAULT.meta["_ops"]
    return "", ""


def is_outside(row: dict[str, str]) -> bool:
    """Whether the row says that something is wrong."""
    within = [row["params"] == row["reference_params"]]
    within += [float(value) <= MAX_RELATIVE for key, value in row.items() if key.startswith("relative_") and value]
    within += [float(row["spread"]) >= MIN_SPREAD] if "spread" in row else []
    if row.get("gmacs_of"):
        share, rounding = {"torchvision": (0.01, 0.0005), "timm": (0.03, 0.005)}[row["gmacs_of"]]
        published, counted = float(row["reference_gmacs"]), int(row["macs"] or 0) / 1e9
        within.append(abs(counted - published) <= share * published + rounding)
    return not all(within)


def read_table(table: str) -> dict[str, dict[str, str]]:
    """The rows there are, by name."""
    if not TABLES[table].is_file():
        return {}
    with TABLES[table].open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def write_table(table: str, columns: Sequence[str], rows: dict[str, dict[str, str]]) -> None:
    """Writes the table anew, so that it is whole at every moment."""
    unfinished = TABLES[table].with_suffix(".partial")
    with unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[name] for name in sorted(rows))
    unfinished.replace(TABLES[table])


if __name__ == "__main__":
    sys.exit(main())
