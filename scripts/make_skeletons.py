"""Writes the skeletons: for each classic with published weights its graph, as torch exports it, without the numbers.

    python scripts/make_skeletons.py [NAME...]

A skeleton is an ONNX graph whose parameters are inputs, in the order and under the names of timm's state dict, so that
`visiontool.graph.fill` makes a model file of it and any weights of the network. What does not depend on parameters is
folded by onnxscript, as when torch exports a model file. Its metadata has timm's config.json.

scripts/check_conversions.py compares them, filled, with torch. Needs the extra [train].
"""

import argparse
import gzip
import json
import sys
import tempfile
import warnings
from pathlib import Path

import onnx
import onnx_ir
import torch
from onnx import helper
from timm.models._hub import save_config_for_hf
from torch import nn

from visiontool.hub import catalog
from visiontool.hub.skeleton import CONFIG_KEY, NORMALIZATION, SIZES_KEY, SKELETONS
from visiontool.model.spec import InputSpec
from visiontool.pytorch import weights
from visiontool.pytorch.exporters import OnnxWrapper, program_of, tidy

PREFIX = "model."  # of the parameters, inside the exporter's wrapper


def skeleton_of(name: str) -> onnx.ModelProto:
    """The skeleton of one entry of the catalog."""
    model = weights.create(name)
    height, width = model.pretrained_cfg["input_size"][1:]
    skeleton = exported(model, (height, width))
    is_fixed = model.pretrained_cfg["fixed_input_size"]
    # Odd ones: how much TensorFlow's networks pad depends on that. A smaller one: VGG has a layer that depends on that.
    others = (height + 65, height // 2 | 1)
    is_any = not is_fixed and same(skeleton, *(exported(model, (side, side)) for side in others))
    helper.set_model_props(skeleton, {CONFIG_KEY: config_of(model), SIZES_KEY: "any" if is_any else "one"})
    onnx.checker.check_model(skeleton, full_check=True)
    return skeleton


def exported(model: nn.Module, size: tuple[int, int]) -> onnx.ModelProto:
    """The graph for pictures of that size, with the parameters as inputs."""
    cfg = model.pretrained_cfg
    wrapper = OnnxWrapper(model, InputSpec(size=size, mean=cfg["mean"], std=cfg["std"]))
    program = program_of(wrapper, torch.zeros((2, *size, 3), dtype=torch.uint8), ["image"], optimize=False)
    graph = program.model.graph
    for key in (*NORMALIZATION, *(PREFIX + key for key in model.state_dict())):
        if (value := graph.initializers.pop(key, None)) is not None:
            value.const_value = None
            graph.inputs.append(value)
        elif not key.endswith("num_batches_tracked"):
            raise ValueError(f"{key} is no parameter of the graph")
    program.optimize()
    tidy(program.model)
    for value in graph.inputs[1:]:
        value.name = value.name.removeprefix(PREFIX)
    return onnx_ir.to_proto(program.model)


def same(*skeletons: onnx.ModelProto) -> bool:
    """Whether they differ in the shapes of values only, so that one serves for all sizes."""
    parts = ([*skeleton.graph.node, *skeleton.graph.initializer] for skeleton in skeletons)
    return len({tuple(part.SerializeToString(deterministic=True) for part in each) for each in parts}) == 1


def config_of(model: nn.Module) -> str:
    """timm's config.json, without where the weights come from."""
    with tempfile.TemporaryDirectory() as folder:
        save_config_for_hf(model, str(Path(folder, "config.json")))
        config = json.loads(Path(folder, "config.json").read_bytes())
    for key in ("url", "hf_hub_id", "hf_hub_filename", "file", "custom_load"):
        config["pretrained_cfg"].pop(key, None)
    return json.dumps(config)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="architectures (default: every classic)")
    names = parser.parse_args().names
    warnings.simplefilter("ignore")  # they are about the exporter's own code
    for entry in catalog.classics():
        if entry.source in ("", "built-in") or (names and entry.architecture not in names):
            continue
        data = skeleton_of(entry.name).SerializeToString(deterministic=True)
        path = SKELETONS / f"{entry.architecture}.onnx.gz"
        path.write_bytes(gzip.compress(data, mtime=0))
        print(f"{entry.architecture}: {len(data):,} bytes, {path.stat().st_size:,} compressed", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
