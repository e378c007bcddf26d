"""A result as a notebook shows it: a thumbnail and bars, in plain HTML that inherits the colors of the page."""

import base64
from contextlib import suppress
from html import escape
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visiontool.data.loader import load
from visiontool.data.prepare import Recipe
from visiontool.errors import VisiontoolError
from visiontool.images.decode import Limits
from visiontool.inference.result import Result

SIDE = 160  # of a thumbnail, in pixels
_GRID = "display:grid;grid-template-columns:minmax(0,max-content) 200px max-content;gap:2px 10px;align-items:center"
_LABEL = "overflow:hidden;text-overflow:ellipsis;white-space:nowrap"
_TRACK = "background:rgba(128,128,128,0.25);border-radius:3px;height:10px"  # legible on white and on black
_BAR = "background:#4a90d9;border-radius:3px;height:10px"


def html_of(result: Result) -> str:
    """The result in HTML; the thumbnail of a file is made now, and left out where it cannot be read."""
    path = result.to_dict()["path"]  # which can be written as UTF-8
    heading = " · ".join(f"<bdi>{escape(text)}</bdi>" for text in (path, result.model) if text)
    remarks = [f"Error: {result.error}"] if result.error is not None else []
    remarks += ["Unknown: the best probability is below the minimum."] if result.unknown else []
    rows = "".join(
        f'<div style="{_LABEL}"><bdi>{escape(item.label)}</bdi></div>'
        f'<div style="{_TRACK}"><div style="{_BAR};width:{item.probability:.1%}"></div></div>'
        f'<div style="text-align:right">{item.probability:.1%}</div>'
        for item in result.predictions
    )
    lines = "".join(f"<div>{escape(text)}</div>" for text in (*remarks, *result.notes))
    return (
        f'<div style="display:flex;gap:16px;align-items:flex-start;font-size:13px;line-height:1.5">{_picture(result)}'
        f'<div style="min-width:0;overflow-wrap:anywhere"><div style="opacity:0.7;margin-bottom:4px">{heading}</div>'
        f'<div style="{_GRID}">{rows}</div>{lines}</div></div>'
    )


def thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """A JPEG of pixels (h, w, 3): at most 160 a side, and nearly so for the smallest picture."""
    image = Image.fromarray(pixels)
    if (factor := SIDE // max(image.size)) > 1:
        image = image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    image.thumbnail((SIDE, SIDE))
    file = BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


def _picture(result: Result) -> str:
    data = result.thumbnail
    if data is None and result.path is not None and result.error is None:
        whole = {"size": (SIDE, SIDE), "crop_mode": "border", "crop_pct": 1.0}
        with suppress(VisiontoolError):
            (item,) = load([result.path], Recipe(whole, SIDE, Limits(on_truncated="fill"), whole=True))
            data = None if item.pixels is None else thumbnail(item.pixels)
    if data is None:
        return ""
    source = f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"
    return f'<img src="{source}" alt="" style="flex:none;margin:0"/>'
