"""PNG files drawn with matplotlib: the same bytes for the same content, whatever the user's matplotlibrc says."""

import contextlib
import unicodedata
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's, for any kind of color vision.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DPI = 100
# For scripts that matplotlib's own DejaVu Sans lacks, as Linux, Windows and macOS come with them.
_OTHER_FONTS = ("Noto Sans CJK SC", "Microsoft YaHei", "Malgun Gothic", "Nirmala UI", "PingFang SC", "Arial Unicode MS")


@contextlib.contextmanager
def page(
    file: Path, inches: tuple[float, float], layout: Literal["compressed"] | None = "compressed"
) -> Iterator["Figure"]:
    """A figure to draw on, written to `file` as a PNG at the end; without `layout` the caller makes room for texts."""
    import matplotlib
    from matplotlib import font_manager
    from matplotlib.figure import Figure  # pyplot would need a screen and keep every figure

    installed = set(font_manager.get_font_names())
    fonts = ["DejaVu Sans", *(font for font in _OTHER_FONTS if font in installed)]
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box is drawn
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"font.family": fonts, "text.parse_math": False})
        figure = Figure(figsize=inches, dpi=DPI, layout=layout)
        yield figure
        # To compress more takes longer than to draw.
        figure.savefig(file, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": 1})


def legible(label: str, columns: int) -> str:
    """`label` on one line of about so many Latin letters, without its middle where it is too long."""
    text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in label)
    if any(unicodedata.east_asian_width(char) in "WF" for char in text):
        columns //= 2
    tail = (columns - 1) // 2
    return text if len(text) <= columns else f"{text[: columns - 1 - tail]}\N{HORIZONTAL ELLIPSIS}{text[-tail:]}"
