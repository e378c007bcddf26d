"""Write the pictures of docs/explain.md: runs each of its commands that writes one, and keeps it in 256 colors.

python scripts/make_explain_pictures.py
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Writes docs/explain-*.png."""
    page = (ROOT / "docs" / "explain.md").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        for command, name in re.findall(r"^visiontool (explain .* -o (explain-\w+\.png))$", page, re.MULTILINE):
            file = Path(folder, name)
            subprocess.run([sys.executable, "-m", "visiontool", *command.split()[:-1], file], cwd=ROOT, check=True)
            with Image.open(file) as drawn:
                drawn.convert("RGB").quantize(256, kmeans=3).save(ROOT / "docs" / name, optimize=True)


if __name__ == "__main__":
    main()
