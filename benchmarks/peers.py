"""visiontool beside other tools, each in a virtual environment of its own: the table of the README.

    python benchmarks/peers.py ants_and_bees.tar [--environments FOLDER] [--rounds 5] [--finetunings 3]

For each tool: the size of what pip installs; the time of one answer; the time to finetune on the 244 training photos
of PyTorch's tutorial, and judge 153; and whether the two work where torch cannot be imported. Times are those of whole
processes, with the weights already there: medians of rounds in which all tools take turns, after each has answered
once. FOLDER keeps the environments; those that are there are used as they are.

All answer with a ResNet-18, except Ultralytics, with its YOLOv8n-cls. visiontool and timm finetune EfficientNet-Lite0
with its ImageNet weights; the Hugging Face Trainer finetunes a ResNet-18 and Ultralytics YOLOv8n-cls, with random
weights, which do not affect speed. The backbone is frozen everywhere, and all but visiontool run 10 epochs in batches
of 32. timm's package comes without its scripts, so a plain loop stands for them (finetune_sides.py). rembg is only
installed: it removes backgrounds, and its networks are downloads.
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cold_start import PEERS, PICTURE, ROOT
from finetune_sides import TORCH_RUN, ULTRALYTICS_RUN, timed

from visiontool.data.loader import cores
from visiontool.files import CACHE_VARIABLE

EPOCHS, SIZE, LEARNING_RATE, SEED = 10, 224, 1e-3, 0
REQUIREMENTS = {
    "visiontool": [str(ROOT)],
    "ultralytics": ["ultralytics"],
    "timm": ["timm"],
    "transformers": ["transformers[torch]", "torchvision", "pillow"],
    "rembg": ["rembg[cpu]"],
}
TRAINER_RUN = """
import sys
from pathlib import Path
import torch
from PIL import Image
from transformers import ConvNextImageProcessor, ResNetForImageClassification, Trainer, TrainingArguments

class Pictures(torch.utils.data.Dataset):
    def __init__(self, folder):
        self.processor = ConvNextImageProcessor.from_pretrained('resnet18')
        labels = sorted(path for path in folder.iterdir() if path.is_dir())
        self.samples = [(path, index) for index, label in enumerate(labels) for path in label.glob('*.jp*g')]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        path, label = self.samples[index]
        pixels = self.processor(Image.open(path).convert('RGB'), return_tensors='pt')['pixel_values'][0]
        return {'pixel_values': pixels, 'labels': label}

def main(data, seed, epochs):
    model = ResNetForImageClassification.from_pretrained('resnet18', num_labels=2, ignore_mismatched_sizes=True)
    model.resnet.requires_grad_(False)
    settings = TrainingArguments('trainer', num_train_epochs=epochs, per_device_train_batch_size=32, use_cpu=True,
                                 per_device_eval_batch_size=32, dataloader_num_workers=2, seed=seed, report_to=[],
                                 save_strategy='no')
    trainer = Trainer(model, settings, train_dataset=Pictures(Path(data, 'train')),
                      eval_dataset=Pictures(Path(data, 'val')))
    trainer.train()
    trainer.evaluate()

if __name__ == '__main__':
    main(sys.argv[1], *map(int, sys.argv[2:4]))
"""


def environment(name: str, folder: Path) -> tuple[Path, float]:
    """The Python of the tool's environment, made where it is not there yet; and how many MB the environment has."""
    home = folder / name
    if not home.is_dir():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
        subprocess.run(["pip", "--python", home, "install", "-q", *REQUIREMENTS[name]], check=True)
    files = (path for path in home.rglob("*") if path.is_file() and not path.is_symlink())
    return home / "bin" / "python", sum(path.stat().st_size for path in files) / 1e6


class Tools:
    """The tools' commands, all run in one folder."""

    def __init__(self, pythons: dict[str, Path], data: Path, folder: Path) -> None:
        self._pythons = pythons
        self._data = data
        self._folder = folder
        self._copy = shutil.copytree(data, folder / "copy")  # since Ultralytics writes into its data
        for peer in ("timm", "transformers", "ultralytics"):
            self._run(peer, "-c", PEERS[peer][0])
            (folder / f"answer_{peer}.py").write_text(PEERS[peer][1])
        for peer, script in (("timm", TORCH_RUN), ("transformers", TRAINER_RUN), ("ultralytics", ULTRALYTICS_RUN)):
            (folder / f"finetune_{peer}.py").write_text(script)
        (folder / "blocked").mkdir()
        (folder / "blocked" / "torch.py").write_text("raise ImportError('torch is blocked')")
        pull = self._visiontool("models", "pull", "resnet18", "--weights", "resnet18.pth")
        self._resnet18 = pull[1].strip()
        self._backbone = Path(self._visiontool("models", "path", "efficientnet_lite0")[1].strip()).parent

    def answer(self, tool: str) -> float:
        """Seconds to the answer for one picture."""
        if tool == "visiontool":
            return self._visiontool("predict", PICTURE, "-m", self._resnet18)[0]
        return self._run(tool, f"answer_{tool}.py", PICTURE)[0]

    def finetune(self, tool: str) -> float:
        """Seconds to finetune; nothing is cached of earlier runs."""
        if tool == "visiontool":
            shutil.rmtree(Path(os.environ[CACHE_VARIABLE], "features"), ignore_errors=True)
            return self._visiontool("finetune", self._data, "-o", "run", "--force", "-q")[0]
        options = {
            "timm": [self._backbone, self._data, SEED, EPOCHS, LEARNING_RATE, "mirror"],
            "transformers": [self._data, SEED, EPOCHS],
            "ultralytics": [self._copy, SEED, EPOCHS, SIZE],
        }
        return self._run(tool, f"finetune_{tool}.py", *options[tool])[0]

    def works_without_torch(self, tool: str, action: Callable[[str], float]) -> bool:
        """Whether it does where `import torch` fails."""
        os.environ["PYTHONPATH"] = str(self._folder / "blocked")
        try:
            action(tool)
        except subprocess.CalledProcessError:
            return False
        finally:
            del os.environ["PYTHONPATH"]
        return True

    def _visiontool(self, *words: Any) -> tuple[float, str]:
        return self._run("visiontool", "-m", "visiontool", *words)

    def _run(self, tool: str, *words: Any) -> tuple[float, str]:
        return timed([self._pythons[tool], *words], self._folder)


def medians(tools: list[str], rounds: int, action: Callable[[str], float]) -> dict[str, float]:
    """The median seconds of each tool; who begins changes from round to round."""
    seconds: dict[str, list[float]] = {tool: [] for tool in tools}
    for count in range(rounds):
        start = count % len(tools)
        for tool in tools[start:] + tools[:start]:
            seconds[tool].append(action(tool))
            print(f"{action.__name__} {tool}: {seconds[tool][-1]:.2f} s", file=sys.stderr, flush=True)
    return {tool: statistics.median(values) for tool, values in seconds.items()}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="ants_and_bees.tar, with train/ and val/ in ants_and_bees/")
    parser.add_argument("--environments", type=Path, metavar="FOLDER", help="default: a temporary folder")
    parser.add_argument("--rounds", type=int, default=5, help="of answers")
    parser.add_argument("--finetunings", type=int, default=3)
    arguments = parser.parse_args()
    os.environ.pop("PYTHONPATH", None)  # each tool uses its own environment
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ[CACHE_VARIABLE] = str(folder / "cache")
        with tarfile.open(arguments.archive) as tar:
            tar.extractall(folder, filter="data")
        environments = arguments.environments or folder / "environments"
        found = {tool: environment(tool, environments.absolute()) for tool in REQUIREMENTS}
        tools = Tools({tool: python for tool, (python, _) in found.items()}, folder / "ants_and_bees", folder)
        names = [tool for tool in REQUIREMENTS if tool != "rembg"]
        for tool in names:  # from a disk that has not read them yet
            tools.answer(tool)
        answers = medians(names, arguments.rounds, tools.answer)
        finetunings = medians(names, arguments.finetunings, tools.finetune)
        print(f"\n{platform.platform()}, {cores()} cores, Python {platform.python_version()}\n")
        print("| tool | MB installed | first answer, s | finetuning, s | without torch |")
        print("|---|---|---|---|---|")
        for tool, (_, size) in found.items():
            if tool not in names:
                print(f"| {tool} | {size:,.0f} | | | |")
                continue
            actions = {"answers": tools.answer, "finetunes": tools.finetune}
            works = [word for word, action in actions.items() if tools.works_without_torch(tool, action)]
            figures = f"{size:,.0f} | {answers[tool]:.2f} | {finetunings[tool]:.1f}"
            print(f"| {tool} | {figures} | {', '.join(works) or 'nothing'} |", flush=True)


if __name__ == "__main__":
    main()
