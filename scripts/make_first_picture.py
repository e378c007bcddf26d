"""Draw docs/first.png: six samples with what the default model answers, as a row of bars each.

python scripts/make_first_picture.py [--output FILE]
"""

import argparse
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from visiontool import Classifier

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ("balloon", "school_bus", "daisy", "ladybug", "mushroom", "orange")
WIDTH, HEIGHT = 1200, 335  # pixels
TOP, COLORS = 3, 256
INK, BAR = "#24292f", "#2f81f7"


def draw(path: Path) -> None:
    """Writes the picture, in a palette of `COLORS` colors."""
    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100, facecolor="white")
    axes = figure.subplots(2, len(SAMPLES), height_ratios=(1.75, 1), squeeze=False)
    results = Classifier.load().predict([ROOT / "samples" / f"{name}.jpg" for name in SAMPLES], top_k=TOP)
    for result, picture, bars in zip(results, *axes, strict=True):
        with Image.open(result.path) as opened:
            side = min(opened.size)
            left, top = (opened.width - side) // 2, (opened.height - side) // 2
            picture.imshow(opened.crop((left, top, left + side, top + side)).resize((360, 360)))
        picture.axis("off")
        picture.set_title(Path(result.path).name, color=INK, fontsize=11)
        for row, prediction in enumerate(result.predictions):
            bars.barh(row, prediction.probability, height=0.3, color=BAR)
            bars.text(0, row - 0.27, prediction.label, color=INK, fontsize=10, va="bottom")
            bars.text(1, row - 0.27, f"{prediction.probability:.1%}", color=INK, fontsize=10, va="bottom", ha="right")
        bars.set(xlim=(0, 1), ylim=(TOP - 0.6, -0.9))
        bars.axis("off")
    figure.subplots_adjust(left=0.01, right=0.99, top=0.93, bottom=0.01, wspace=0.08, hspace=0.02)
    figure.savefig(drawn := BytesIO(), format="png")
    Image.open(drawn).convert("RGB").quantize(COLORS).save(path, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "first.png", metavar="FILE")
    draw(parser.parse_args().output)
