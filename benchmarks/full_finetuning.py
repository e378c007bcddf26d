"""A head on a frozen backbone beside full finetuning of the same backbone in torch, with few pictures a class.

    python benchmarks/full_finetuning.py mnist=FOLDER textures=FOLDER ... [--counts 5,20] [--seeds 1]

FOLDER is as in heads.py. Both sides get the same pictures. Full finetuning trains every layer for 30 epochs, with crops
and mirrors (but for MNIST and glyphs), Nesterov SGD, a cosine schedule, batches of 16, and of three learning rates the
one with the least cross-entropy on a fifth of the pictures. Its seconds are those of the last training alone, without
the search; visiontool's are those of the backbone's passes without a cache, and of the head. Target: at least the same
accuracy on the mean of the sets, in a twentieth of the time. Needs the extra [train].
"""

import argparse
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from heads import Ints, Outputs, draw, ours, outputs_of
from torch.nn import functional

from visiontool.data.loader import DEFAULT_OPTIONS, cores
from visiontool.data.splits import folds
from visiontool.images.augment import LEVELS, Augment, views
from visiontool.images.decode import DEFAULT_LIMITS
from visiontool.inference.classifier import Classifier
from visiontool.inference.embeddings import embed_views
from visiontool.pytorch import weights
from visiontool.pytorch.exporters import OnnxWrapper
from visiontool.pytorch.train.batches import VAL, Key, Opened, Pictures, loader
from visiontool.pytorch.train.recipe import Recipe
from visiontool.training.embed_dataset import seen_by_heads
from visiontool.training.settings import Settings

RATES, EPOCHS, BATCH = (3e-3, 1e-2, 3e-2), 30, 16
NOT_MIRRORED = ("mnist", "glyphs")


class Full:
    """Full finetuning on some pictures of a data set."""

    def __init__(self, backbone: Classifier, data: Outputs, drawn: Ints, augment: Augment, seed: int) -> None:
        self.backbone, self.seed, self.count = backbone, seed, len(drawn)
        paths = [*(data.paths[0][index] for index in drawn.tolist()), *data.paths[1]]
        self.ids = np.concatenate([data.train_ids[drawn], data.test_ids]).astype(np.int64)
        none = np.empty(0, np.int64)
        recipe = Recipe.of_options({"unfreeze": "all"})
        assert recipe is not None
        pictures = Pictures(paths, paths, self.ids, none, none)
        self.opened = Opened(pictures, backbone.spec, augment, recipe, seed, DEFAULT_LIMITS)

    def judged(self, rate: float, train: Ints, judge: Ints) -> tuple[float, float, float]:
        """Trains on the pictures `train`: accuracy and cross-entropy on `judge`, and the seconds of the training."""
        start = time.perf_counter()
        torch.manual_seed(self.seed)
        model = weights.from_folder(self.backbone.path.parent)
        model.reset_classifier(int(self.ids.max()) + 1)  # type: ignore[operator]
        normalized = OnnxWrapper(model, self.backbone.spec.input).normalized
        optimizer = torch.optim.SGD(model.parameters(), rate, 0.9, weight_decay=1e-4, nesterov=True)
        keys = [batch for epoch in range(EPOCHS) for batch in self.batches(train, epoch)]
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(keys))
        model.train()
        for pixels, targets, _ in loader(self.opened, keys, None):
            optimizer.zero_grad()
            functional.cross_entropy(model(normalized(pixels)), targets).backward()
            optimizer.step()
            schedule.step()
        seconds, right, loss = time.perf_counter() - start, 0, 0.0
        model.eval()
        with torch.inference_mode():
            for pixels, targets, _ in loader(self.opened, self.batches(judge, VAL), None):
                logits = model(normalized(pixels))
                right += int((logits.argmax(dim=1) == targets).sum())
                loss += float(functional.cross_entropy(logits, targets, reduction="sum"))
        return right / len(judge), loss / len(judge), seconds

    def batches(self, indices: Ints, epoch: int) -> list[list[Key]]:
        """The batches of an epoch; of training a last one of a single picture is left out."""
        order = indices if epoch == VAL else np.random.default_rng([self.seed, epoch]).permutation(indices)
        parts = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        return [[(epoch, index) for index in part.tolist()] for part in parts if len(part) > 1 or epoch == VAL]

    def run(self) -> tuple[float, float, float]:
        """Accuracy on the test, seconds of the training and the learning rate."""
        drawn, test = np.arange(self.count), np.arange(self.count, len(self.ids))
        is_out = np.array(folds(self.ids[drawn], drawn, 5, self.seed)) == 0
        rate = min(RATES, key=lambda each: self.judged(each, drawn[~is_out], drawn[is_out])[1])
        accuracy, _, seconds = self.judged(rate, drawn, test)
        return accuracy, seconds, rate


def frozen(backbone: Classifier, data: Outputs, drawn: Ints, augment: Augment, seed: int) -> tuple[float, float]:
    """Accuracy on the test, and seconds of the passes and the head."""
    with seen_by_heads(Settings(data=Path()), backbone) as (joined, _):
        start = time.perf_counter()
        paths = [data.paths[0][index] for index in drawn.tolist()]
        embed_views(joined, paths, views(1 + augment.mirror, augment, seed), DEFAULT_OPTIONS, use_cache=False)
        passes = time.perf_counter() - start
    side = ours(data, drawn, seed)
    return side.accuracy, passes + side.seconds


def main() -> int:
    """Prints the table; returns 1 where the target is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("-m", "--model", default="efficientnet_lite0")
    parser.add_argument("--counts", default="5,20", help="pictures a class")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--most", type=int, default=200, help="pictures a class that are opened at all")
    arguments = parser.parse_args()
    print(f"{platform.platform()}, {cores()} cores, torch {torch.__version__}, {arguments.model}\n")
    print("| set | pictures a class | visiontool | s | full finetuning | s | learning rates | times as fast |")
    print("|---|---|---|---|---|---|---|---|")
    backbone, gains, ratios = Classifier.load(arguments.model, threads=1), [], []
    for name, folder in (text.split("=") for text in arguments.sets):
        data = outputs_of(arguments.model, Path(folder), None, arguments.most)
        mirror = LEVELS["none" if name in NOT_MIRRORED else "light"]
        for count in map(int, arguments.counts.split(",")):
            rows = []
            for seed in range(arguments.seeds):
                drawn = draw(data.train_ids, count, seed)
                crops = Augment(mirror=mirror.mirror, crop=0.5)
                full = Full(backbone, data, drawn, crops, seed).run()
                rows.append((*frozen(backbone, data, drawn, mirror, seed), *full))
            accuracy, seconds, theirs, their_seconds, _ = map(statistics.mean, zip(*rows, strict=True))
            gains.append(accuracy - theirs)
            ratios.append(their_seconds / seconds)
            rates = ", ".join(f"{row[-1]:g}" for row in rows)
            cells = f"{accuracy:.3f} | {seconds:.1f} | {theirs:.3f} | {their_seconds:.0f} | {rates} | {ratios[-1]:.0f}"
            print(f"| {name} | {count} | {cells} |", flush=True)
    print(f"\nmean gain {statistics.mean(gains):+.3f}, median {statistics.median(ratios):.0f} times as fast")
    return 0 if statistics.mean(gains) >= 0 and statistics.median(ratios) >= 20 else 1


if __name__ == "__main__":
    sys.exit(main())
