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
from timm.models._hub import save_config_for_hf

from visiontool.hub import catalog
from visiontool.hub.skeleton import CONFIG_KEY, SKELETONS
from visiontool.model.spec import InputSpec
from visiontool.pytorch import weights
from visiontool.pytorch.exporters import OnnxWrapper, tidy

PREFIX = "model."  # of the parameters, inside the exporter's wrapper
NORMALIZATION = ("mean", "std")  # are given at filling too, since tags of a network differ in them


def skeleton_of(name: str) -> onnx.ModelProto:
    """The skeleton of one entry of the catalog."""
    model = weights.create(name)
    cfg = model.pretrained_cfg
    spec = InputSpec(size=tuple(cfg["input_size"][1:]), mean=cfg["mean"], std=cfg["std"])
    wrapper = OnnxWrapper(model, spec)
    program = torch.onnx.export(
        wrapper,
        (torch.zeros((2, *spec.size, 3), dtype=torch.uint8),),
        input_names=[spec.name],
        output_names=list(wrapper.outputs),
        dynamic_shapes=({0: "N"},),
        external_data=False,
        optimize=False,
        verbose=False,
        dynamo=True,
    )
    graph = program.model.graph
    for key in (*NORMALIZATION, *(PREFIX + key for key in model.state_dict())):
        if (value := graph.initializers.pop(key, None)) is not None:
            value.const_value = None
            graph.inputs.append(value)
        elif not key.endswith("num_batches_tracked"):
            raise ValueError(f"{name}: {key} is no parameter of the graph")
    program.optimize()
    tidy(program.model)
    for value in graph.inputs[1:]:
        value.name = value.name.removeprefix(PREFIX)
    with tempfile.TemporaryDirectory() as folder:
        save_config_for_hf(model, str(Path(folder, "config.json")))
        config = json.loads(Path(folder, "config.json").read_bytes())
    for key in ("url", "hf_hub_id", "hf_hub_filename", "file", "custom_load"):
        config["pretrained_cfg"].pop(key, None)
    program.model.metadata_props[CONFIG_KEY] = json.dumps(config)
    proto = onnx_ir.to_proto(program.model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


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
