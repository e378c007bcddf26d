"""Makes a built-in model of a folder in timm's hub format, or makes the one that is there anew.

    python scripts/add_builtin.py FOLDER [--name NAME] [--pictures DIR]

FOLDER holds config.json, model.safetensors and README.md (its card). They are copied to weights/NAME, and model.onnx
is made from them and compared with torch on the pictures (default: samples/). Without FOLDER's files changed, the
result is the same to the byte. Needs the extra [train].
"""

import argparse
import shutil
import sys
from pathlib import Path

from visiontool.data.discover import find_images
from visiontool.errors import VisiontoolError
from visiontool.pytorch.convert import convert_folder

ROOT = Path(__file__).resolve().parent.parent
FILES = ("config.json", "model.safetensors", "README.md")


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", help="name of the built-in model (default: the folder's name)")
    parser.add_argument("--pictures", default=str(ROOT / "samples"), help="pictures to compare with torch on")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    target = ROOT / "weights" / (arguments.name or folder.name)
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        print(f"Error: {folder} lacks {', '.join(missing)}", file=sys.stderr)
        return 2
    target.mkdir(parents=True, exist_ok=True)
    try:
        spec = convert_folder(folder, target / "model.onnx", list(find_images([arguments.pictures])), name=target.name)
    except VisiontoolError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 5
    if folder != target:
        for name in FILES:
            shutil.copyfile(folder / name, target / name)
    print(
        f"{target}: {spec.architecture}, {len(spec.labels)} classes, {(target / 'model.onnx').stat().st_size:,} bytes"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
