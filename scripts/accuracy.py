"""Accuracy of a model on pictures in folders named by label or label id: such as the figures of the card of LeNet-5.

    python scripts/accuracy.py FOLDER [-m MODEL] [--inverted]

A folder of `FOLDER` is a class; pictures anywhere below it count. `visiontool evaluate` is to take this script's place.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageOps

from visiontool import Classifier
from visiontool.data.discover import find_images
from visiontool.images.decode import ImageSource, open_image


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-m", "--model")
    parser.add_argument("--inverted", action="store_true", help="black for white")
    arguments = parser.parse_args()
    classifier = Classifier.load(arguments.model)
    paths = list(find_images([str(arguments.folder)]))
    targets = [Path(path).relative_to(arguments.folder).parts[0] for path in paths]

    def pictures() -> Iterator[ImageSource]:
        for path in paths:
            yield ImageOps.invert(opened(path)) if arguments.inverted else path

    top1 = top5 = failed = 0
    for target, result in zip(targets, classifier.predict_stream(pictures(), batch_size=32), strict=True):
        names = [{item.label, item.label_id} for item in result.predictions]
        failed += result.error is not None
        top1 += any(target in name for name in names[:1])
        top5 += any(target in name for name in names)
    count = len(paths)
    print(f"{classifier.spec.name}: {count} pictures, {failed} not readable", end="")
    print(f", top-1 {top1 / count:.4f}, top-5 {top5 / count:.4f}" if count else "")
    return 0 if count else 3


def opened(path: str) -> Image.Image:
    """The picture at `path`."""
    return open_image(path).image


if __name__ == "__main__":
    sys.exit(main())
