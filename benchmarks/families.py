"""One network of each family, as a user runs it: pulled and converted, then one answer as a whole process.

    python benchmarks/families.py [--pairs 5] [FAMILY...]

The smallest classic of each family that has published weights is pulled from a file of random weights, which do not
affect speed. Then `visiontool predict -m NAME`, which is prevented from importing torch, alternates with the barest
script on the same graph. Target: at most 1.15 times the barest script, by the median of the families' ratios.
Needs the extra [train].
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cold_start import PICTURE, ROOT, TARGET, compare

# A name that is None in sys.modules cannot be imported.
COMMAND = """
import sys
sys.modules.update(dict.fromkeys(("torch", "torchvision", "timm", "onnx", "huggingface_hub")))
from visiontool.__main__ import main
main()
"""


def pulled(name: str, folder: Path) -> tuple[str, Path, float]:
    """The name in the cache and the model file of the classic `name` with random weights, and the seconds it took."""
    weights = folder / f"{name}.pth"
    code = (
        "import sys, torch; from visiontool.pytorch import weights\n"
        "torch.manual_seed(0); torch.save(weights.create(sys.argv[1]).state_dict(), sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, name, str(weights)], check=True, capture_output=True)
    start = time.perf_counter()
    command = [sys.executable, "-m", "visiontool", "models", "pull", name, "--weights", str(weights), "-q"]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    model = Path(ran.stdout.strip())
    return model.parent.name, model, time.perf_counter() - start


def main() -> int:
    """Returns 0 where the median ratio is within the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    from visiontool.hub import catalog

    smallest: dict[str, catalog.Entry] = {}
    for entry in catalog.classics():
        family = entry.classic.family if entry.classic else ""
        if not entry.source or entry.source == "built-in" or (arguments.families and family not in arguments.families):
            continue
        if family not in smallest or entry.params < smallest[family].params:
            smallest[family] = entry
    print("| family, network, seconds to pull | visiontool s | barest s | median of the pairs' ratios |")
    print("|---|---|---|---|")
    ratios = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["VISIONTOOL_CACHE"] = str(folder / "cache")  # for the processes
        for family, entry in smallest.items():
            name, model, seconds = pulled(entry.architecture, folder)
            ours = [sys.executable, "-c", COMMAND, "predict", str(PICTURE), "-m", name]
            barest = [sys.executable, str(ROOT / "benchmarks" / "barest.py"), str(PICTURE), "-m", str(model)]
            title = f"{family}, {entry.architecture}, {seconds:.0f}"
            ratios.append(compare(title, ours, barest, folder, arguments.pairs))
    median = statistics.median(ratios)
    print(f"\nmedian ratio {median:.2f}, worst {max(ratios):.2f}; target: a median of at most {TARGET}")
    return 0 if median <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
