"""Draws how several runs were trained, in one plot: python examples/curves.py runs/sgd runs/adam -o curves.png"""

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("runs", nargs="+", type=Path)
parser.add_argument("-o", "--output", type=Path, default=Path("curves.png"))
arguments = parser.parse_args()

figure, panels = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for number, run in enumerate(arguments.runs):
    with open(run / "history.csv", newline="") as file:
        epochs = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    for panel, name, style in ((0, "loss", "-"), (0, "val_loss", "--"), (1, "accuracy", "-")):
        label = f"{run.name}, val" if name == "val_loss" else run.name
        values = [epoch[name] for epoch in epochs]
        panels[panel].plot([epoch["epoch"] for epoch in epochs], values, style, color=f"C{number}", label=label)
for panel, title in zip(panels, ("loss", "accuracy on val"), strict=True):
    panel.set(xlabel="epoch", title=title)
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small")
figure.savefig(arguments.output, dpi=100)
