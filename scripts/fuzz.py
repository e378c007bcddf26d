"""Looks for bytes that make reading a picture, a manifest or weights fail in another way than by its own error.

    pip install atheris        (into an environment with visiontool[test]; it is needed for nothing else)
    python scripts/fuzz.py image CORPUS [-max_total_time=600 ...]
    python scripts/fuzz.py manifest CORPUS [...]
    python scripts/fuzz.py weights CORPUS [...]

CORPUS is a folder; where it is empty, small pictures of every format, the manifests and graphs of the built-in models,
or small files of weights of each kind, are put there first. What else is given goes to libFuzzer. What is found is
written to crash-*, and stays as a quick test with as few bytes as show it (tests/images/test_damage.py,
tests/model/test_spec.py, test_scan.py, tests/hub/test_weight_files.py).
"""

import json
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

with atheris.instrument_imports(include=["PIL", "visiontool"]):
    from PIL import (  # noqa: F401  Instrumented here, imported one by one when a file needs them.
        AvifImagePlugin,
        BmpImagePlugin,
        GifImagePlugin,
        IcoImagePlugin,
        Jpeg2KImagePlugin,
        JpegImagePlugin,
        PngImagePlugin,
        PpmImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    from visiontool.errors import ModelError, PictureError
    from visiontool.hub.state_dict import candidates, not_finite
    from visiontool.hub.weights import read_weights
    from visiontool.images.decode import Limits, open_image
    from visiontool.model.scan import scan
    from visiontool.model.spec import MANIFEST_KEY, ModelSpec

LIMITS = Limits(max_pixels=100_000, max_bytes=2**20)
FILE = Path(tempfile.mkdtemp(prefix="fuzz-")) / "input"


def image(data: bytes) -> None:
    """Opens `data` as a file, at a smaller size where its length is odd."""
    FILE.write_bytes(data)
    try:
        picture = open_image(FILE, resize_to=8 if len(data) % 2 else None, limits=LIMITS)
    except PictureError as error:
        assert str(error).isprintable(), str(error)
        assert 0 < len(str(error)) < 400, str(error)
        return
    assert picture.image.mode == "RGB", picture.image.mode
    assert 0 < picture.image.width * picture.image.height <= LIMITS.max_pixels, picture.image.size
    assert len(picture.image.tobytes()) == picture.image.width * picture.image.height * 3


def manifest(data: bytes) -> None:
    """Reads `data` as a manifest where it could be JSON, else as a model file."""
    try:
        if data[:1] in (b"{", b"[", b'"'):
            spec = ModelSpec.from_json(data.decode("utf-8", "surrogateescape"))
            assert ModelSpec.from_json(spec.to_json()) == spec
            return
        FILE.write_bytes(data)
        found = scan(FILE).metadata.get(MANIFEST_KEY)
        if found is not None:
            ModelSpec.from_json(found)
    except ModelError as error:
        assert str(error).replace("\n", "").isprintable(), str(error)
        assert 0 < len(str(error)) < 600, str(error)


def weights(data: bytes) -> None:
    """Reads `data` as a file of weights, and all numbers in it."""
    file = FILE.with_suffix(".pth")
    file.write_bytes(data)
    try:
        content = read_weights(file)
    except ModelError as error:
        assert str(error).replace("\n", "").isprintable(), str(error)
        assert 0 < len(str(error)) < 600, str(error)
        return
    for candidate in candidates(content, 1):
        not_finite(candidate.tensors)


def image_seeds() -> list[bytes]:
    import oddities

    kinds = (oddities.plain_pictures(), oddities.good_pictures(), oddities.broken_pictures())
    return [data for pictures in kinds for data in pictures.values()]


def manifest_seeds() -> list[bytes]:
    seeds = []
    for path in sorted((ROOT / "weights").rglob("*.onnx")):
        data, text = path.read_bytes(), scan(path).metadata[MANIFEST_KEY]
        short = {key: value[:3] if key.startswith("label") else value for key, value in json.loads(text).items()}
        seeds += [json.dumps(short).encode(), text.encode(), data[:20_000], data[-60_000:]]
    from conftest import COLOR_SPEC, color_graph
    from onnx import helper

    graph = color_graph()
    helper.set_model_props(graph, COLOR_SPEC.to_metadata())
    return [*seeds, graph.SerializeToString()]


def weights_seeds() -> list[bytes]:
    import io

    import torch
    from safetensors.torch import save

    plain = {
        f"m.{name}": torch.ones(2, 3).to(getattr(torch, name)) for name in ("float32", "bfloat16", "int64", "bool")
    }
    odd = {"state_dict": {**plain, "t": torch.ones(4, 2).t(), "e": torch.zeros(0), "n": torch.tensor(1.5)}, "epoch": 3}
    seeds = [save(plain)]
    for content in (plain, odd):
        for options in ({}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}):
            torch.save(content, file := io.BytesIO(), **options)
            seeds.append(file.getvalue())
    return seeds


def main() -> None:
    targets = {
        "image": (image, image_seeds),
        "manifest": (manifest, manifest_seeds),
        "weights": (weights, weights_seeds),
    }
    target, seeds = targets[sys.argv[1]]
    corpus = Path(sys.argv[2])
    corpus.mkdir(parents=True, exist_ok=True)
    if not any(corpus.iterdir()):
        for number, data in enumerate(seeds()):
            (corpus / f"seed-{number:03}").write_bytes(data)
    warnings.simplefilter("ignore")
    # Nearly every change to a PNG would end at a checksum.
    PngImagePlugin.ChunkStream.crc = PngImagePlugin.ChunkStream.crc_skip
    options = ["-timeout=10", "-rss_limit_mb=3000", "-max_len=100000", *sys.argv[3:]]
    atheris.Setup([sys.argv[0], str(corpus), *options], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
