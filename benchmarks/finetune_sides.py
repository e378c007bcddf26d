"""The sides of finetune.py: each is a whole process, and all use the same pictures."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from transfer_data import Task

from visiontool import Classifier
from visiontool.hub import cache

FIRST, SECOND, TORCH, SKLEARN = "visiontool, first run", "visiontool, second run", "torch loop", "scikit-learn"

TORCH_RUN = """
import contextlib, json, sys
import timm, torch
from timm.data import create_transform, resolve_model_data_config
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.datasets import ImageFolder
with contextlib.suppress(ImportError):
    import visiontool.pytorch.architectures  # what timm lacks

def main(folder, data, seed, epochs, learning_rate, mirror):
    torch.manual_seed(seed)
    model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval().requires_grad_(False)
    config = resolve_model_data_config(model)
    channels, height, width = config['input_size']
    gray = [T.Grayscale()] if channels == 1 else []
    augment = T.Compose([
        *gray, T.RandomResizedCrop((height, width), scale=(0.5, 1.0)), *([T.RandomHorizontalFlip()] if mirror else []),
        T.ToTensor(), T.Normalize(config['mean'], config['std']),
    ])
    plain = T.Compose([*gray, create_transform(**config)])
    train, val = ImageFolder(f'{data}/train', augment), ImageFolder(f'{data}/val', plain)
    loader = DataLoader(train, batch_size=32, shuffle=True, num_workers=2, persistent_workers=True)

    @torch.no_grad()
    def embed(pictures):
        return model.forward_head(model.forward_features(pictures), pre_logits=True)

    head = nn.Linear(embed(torch.zeros(1, channels, height, width)).shape[1], len(train.classes))
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    for _ in range(epochs):
        for pictures, targets in loader:
            loss = nn.functional.cross_entropy(head(embed(pictures)), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    right = 0
    with torch.inference_mode():
        for pictures, targets in DataLoader(val, batch_size=32, num_workers=2):
            right += (head(embed(pictures)).argmax(1) == targets).sum().item()
    print(json.dumps({'accuracy': right / len(val)}))

if __name__ == '__main__':
    main(*sys.argv[1:3], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]), sys.argv[6] == 'mirror')
"""
SKLEARN_RUN = """
import json, sys
from pathlib import Path
from sklearn.linear_model import LogisticRegression
from visiontool import Classifier

classifier = Classifier.load(sys.argv[1])
def split(name):
    files = [path for path in Path(sys.argv[2], name).rglob('*') if path.suffix.lower() in ('.jpg', '.jpeg', '.png')]
    return classifier.embed(files), [path.parent.name for path in files]
head = LogisticRegression(max_iter=1000, random_state=int(sys.argv[3])).fit(*split('train'))
print(json.dumps({'accuracy': head.score(*split('val'))}))
"""
ULTRALYTICS_RUN = """
import sys
from ultralytics import YOLO
data, seed, epochs, size = sys.argv[1], *map(int, sys.argv[2:5])
YOLO('yolov8n-cls.yaml').train(data=data, epochs=epochs, imgsz=size, batch=32, workers=2, seed=seed, device='cpu',
                               freeze=9, pretrained=False, plots=False, project='ultralytics_runs')
"""
FASTAI_RUN = """
import sys
from fastai.vision.all import ImageDataLoaders, Resize, accuracy, aug_transforms, set_seed, vision_learner
from torchvision.models import squeezenet1_1

def main(data, seed, epochs, size):
    set_seed(seed)
    loaders = ImageDataLoaders.from_folder(data, train='train', valid='val', item_tfms=Resize(size),
                                           batch_tfms=aug_transforms(), bs=32, num_workers=2)
    learner = vision_learner(loaders, squeezenet1_1, pretrained=False, metrics=accuracy)
    learner.freeze()
    learner.fit_one_cycle(epochs)

if __name__ == '__main__':
    main(sys.argv[1], *map(int, sys.argv[2:5]))
"""
PEERS = {"Ultralytics": ("ultralytics", ULTRALYTICS_RUN), "fastai": ("fastai", FASTAI_RUN)}


def timed(command: list[Any], folder: Path) -> tuple[float, str]:
    """Seconds of a whole process, and what it printed.

    Raises:
        subprocess.CalledProcessError: it failed, so its time means nothing.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": str(folder)}
    # What pip installs is compiled; a checkout would be compiled anew by each of its runs.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.perf_counter()
    ran = subprocess.run([str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True)
    elapsed = time.perf_counter() - start
    if ran.returncode:
        print(ran.stderr, file=sys.stderr)
        ran.check_returncode()
    return elapsed, ran.stdout


class Ran(NamedTuple):
    """One side, once."""

    side: str
    seconds: float  # of the whole process
    accuracy: float | None  # on val; None where the weights are random


class Sides:
    """The sides, on one task."""

    def __init__(self, task: Task, folder: Path, epochs: int, learning_rate: float, peer_python: str) -> None:
        self._task = task
        self._folder = folder
        self._epochs = epochs
        self._learning_rate = learning_rate
        self._peer_python = peer_python
        self._size = json.loads((task.weights / "config.json").read_text())["pretrained_cfg"]["input_size"][1]
        self.embedded: dict[str, int] = {}  # pictures that went through the backbone in visiontool's last runs

    def finetune(self, seed: int, *options: str, data: Path | None = None) -> tuple[float, dict[str, Any]]:
        """`visiontool finetune`: seconds, and what its metrics.json says."""
        run = self._folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        task, mirror = self._task, () if self._task.mirror else ("--no-mirror",)
        command = [sys.executable, "-m", "visiontool", "finetune", data or task.data, "-m", task.model, "-o", run]
        seconds, _ = timed([*command, "--seed", seed, *mirror, *options, "-q"], self._folder)
        return seconds, json.loads((run / "metrics.json").read_text())

    def visiontool(self, seed: int) -> list[Ran]:
        """The first and the second run."""
        shutil.rmtree(cache.features(), ignore_errors=True)
        ran = []
        for side in (FIRST, SECOND):
            seconds, metrics = self.finetune(seed)
            self.embedded[side] = metrics["backbone_passes"]
            ran.append(Ran(side, seconds, metrics["val"]["accuracy"]))
        return ran

    def torch(self, seed: int, epochs: int | None = None) -> list[Ran]:
        """The plain torch loop, in so many epochs instead of the usual ones."""
        mirror = "mirror" if self._task.mirror else "no mirror"
        arguments = [self._task.weights, self._task.data, seed, epochs or self._epochs, self._learning_rate, mirror]
        return [Ran(TORCH, *self._with_accuracy(TORCH_RUN, arguments))]

    def sklearn(self, seed: int) -> list[Ran]:
        """Logistic regression on embeddings of the pictures as they are."""
        return [Ran(SKLEARN, *self._with_accuracy(SKLEARN_RUN, [self._task.model, self._task.data, seed]))]

    def peer(self, name: str, seed: int) -> list[Ran]:
        """Ultralytics or fastai, on a copy of the data, since Ultralytics writes into it."""
        data = self._folder / "copy"
        if not data.is_dir():
            shutil.copytree(self._task.data, data)
        command = [self._peer_python, self._script(PEERS[name][1]), data, seed, self._epochs, self._size]
        return [Ran(name, timed(command, self._folder)[0], None)]

    def has(self, name: str) -> bool:
        """Whether that peer is installed."""
        code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({PEERS[name][0]!r}) is None)"
        return subprocess.run([self._peer_python, "-c", code]).returncode == 0

    def one_pass(self) -> float:
        """Seconds of one backbone pass."""
        classifier = Classifier.load(self._task.model, threads=1)
        files = self._task.pictures()
        start = time.perf_counter()
        results = list(classifier.predict_stream(files, timeout=10.0, isolate=True))
        elapsed = time.perf_counter() - start
        assert all(result.status == "ok" for result in results)
        return elapsed

    def _with_accuracy(self, script: str, arguments: list[Any]) -> tuple[float, float]:
        seconds, printed = timed([sys.executable, self._script(script), *arguments], self._folder)
        return seconds, json.loads(printed)["accuracy"]

    def _script(self, text: str) -> Path:
        path = self._folder / "side.py"  # a file, since workers of data loaders import it
        path.write_text(text)
        return path
