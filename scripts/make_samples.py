"""Draw the sample pictures: objects for the default model, handwritten-looking digits for LeNet-5.

Everything is drawn from scratch with Pillow and NumPy, from fixed seeds: every run writes the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Array = NDArray[np.floating]
Colour = Array | tuple[float, float, float]  # one colour, or one for every pixel

SCALE = 2  # everything is drawn at twice the size, then reduced
GLASS, INK, WHITE = (74, 94, 110), (26, 24, 26), (252, 252, 252)


class Canvas:
    """A picture in floats, 0 to 255, to paint on through masks (0 to 1); coordinates are the finished picture's."""

    def __init__(self, width: int, height: int, top: Colour, bottom: Colour, seed: int) -> None:
        self.width, self.height = width, height
        self.rng = np.random.default_rng(seed)
        rows, columns = np.mgrid[0 : height * SCALE, 0 : width * SCALE].astype(np.float32)
        self.x, self.y = columns / SCALE, rows / SCALE
        self.pixels = blend(top, bottom, self.y / height)

    def mask(self, draw: Callable[[ImageDraw.ImageDraw], None], blur: float = 0.5) -> Array:
        image = Image.new("L", (self.width * SCALE, self.height * SCALE))
        draw(ImageDraw.Draw(image))
        return np.asarray(image.filter(ImageFilter.GaussianBlur(blur * SCALE)), np.float32) / 255

    def polygon(self, points: Array, blur: float = 0.5) -> Array:
        corners = [(float(x), float(y)) for x, y in points * SCALE]
        return self.mask(lambda draw: draw.polygon(corners, fill=255), blur)

    def box(self, left: float, top: float, right: float, bottom: float, radius: float = 0, blur: float = 0.5) -> Array:
        corners = [value * SCALE for value in (left, top, right, bottom)]
        return self.mask(lambda draw: draw.rounded_rectangle(corners, radius * SCALE, fill=255), blur)

    def ellipse(self, x: float, y: float, rx: float, ry: float, blur: float = 0.5) -> Array:
        corners = [value * SCALE for value in (x - rx, y - ry, x + rx, y + ry)]
        return self.mask(lambda draw: draw.ellipse(corners, fill=255), blur)

    def stroke(self, points: Array, width: float | Array, blur: float = 0.5) -> Array:
        """A line drawn with a round brush; `width` may vary from point to point."""
        steps = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
        along = np.linspace(0, steps[-1], int(steps[-1] * SCALE) + 2)
        radius = np.broadcast_to(width, len(points)) / 2
        x, y, r = (np.interp(along, steps, values) * SCALE for values in (*points.T, radius))

        def draw(pen: ImageDraw.ImageDraw) -> None:
            for dab in zip(x - r, y - r, x + r, y + r, strict=True):
                pen.ellipse(dab, fill=255)

        return self.mask(draw, blur)

    def below(self, line: float | Array, softness: float = 1) -> Array:
        return np.clip((self.y - line) / softness, 0, 1)

    def noise(self, wide: float, high: float, octaves: int = 1) -> Array:
        """Smooth noise around 0; its blots are about so many pixels wide and high."""
        total = np.zeros_like(self.x)
        for factor in 2 ** np.arange(octaves):
            cells = max(2, int(self.height * factor / high)), max(2, int(self.width * factor / wide))
            grid = Image.fromarray(self.rng.normal(0, 1 / factor, cells).astype(np.float32))
            total += np.asarray(grid.resize(self.x.shape[::-1], Image.Resampling.BICUBIC))
        return total

    def paint(self, mask: Array, colour: Colour, grain: Array | float = 0) -> None:
        self.pixels = blend(self.pixels, np.asarray(colour) + np.asarray(grain, np.float32)[..., None], mask)

    def shade(self, mask: Array, amount: float) -> None:
        """Darken (amount below 0) or lighten (above 0)."""
        self.paint(mask * abs(amount), (255, 255, 255) if amount > 0 else (0, 0, 0))

    def ball(self, x: float, y: float, rx: float, ry: float, dark: Colour, lit: Colour, gloss: float) -> Array:
        """The colours of a ball lit from the upper left."""
        nx, ny = (self.x - x) / rx, (self.y - y) / ry
        light = np.clip(0.72 * np.sqrt(np.clip(1 - nx**2 - ny**2, 0, 1)) - 0.42 * nx - 0.55 * ny, 0, 1)
        return blend(blend(dark, lit, light), (255, 250, 240), light**24 * gloss)

    def sky(self, wide: float, cloud: float) -> None:
        self.paint(np.clip(self.noise(wide, wide / 3, 4) * 0.5 - cloud, 0, 0.85), WHITE)

    def table(self, top: float, far: Colour, near: Colour) -> None:
        depth = (self.y - top) / (self.height - top)
        self.paint(self.below(top), blend(far, near, depth), self.noise(160, 5, 2) * 9)

    def finish(self) -> Image.Image:
        pixels = np.clip(self.pixels + 0.5, 0, 255).astype(np.uint8)
        return Image.fromarray(pixels).resize((self.width, self.height), Image.Resampling.BOX)


def blend(first: Colour, second: Colour, share: Array) -> Array:
    low, high = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return low + np.clip(share, 0, 1)[..., None] * (high - low)


def slopes(ground: Array) -> Array:
    """How rough ground catches light from the upper left: above 0 where lit, below where in shade."""
    return ground - np.pad(ground, ((0, 5), (0, 8)), mode="edge")[5:, 8:]


def peel(c: Canvas) -> Array:
    """The grain of an orange's or a lemon's skin: blots, and pores that catch the light."""
    return c.noise(5, 5) * 4 + c.noise(60, 60) * 3 + slopes(c.noise(7, 7)) * 4


def points(text: str, x: float = 0, y: float = 0, scale: float = 1) -> Array:
    """The points of "1,2 3,4", scaled, then moved."""
    return np.array([pair.split(",") for pair in text.split()], np.float32) * scale + np.array([x, y], np.float32)


def curve(text: str, x: float = 0, y: float = 0, *, closed: bool = False, scale: float = 1) -> Array:
    """A smooth (Catmull-Rom) line through such points."""
    knots = points(text, x, y, scale)
    first, last = (knots[-1:], knots[:2]) if closed else (knots[:1], knots[-1:])
    knots = np.concatenate([first, knots, last])
    t = np.linspace(0, 1, 16, dtype=np.float32)[:, None]
    spans = [
        b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
        for a, b, c, d in zip(knots, knots[1:], knots[2:], knots[3:], strict=False)
    ]
    return np.concatenate(spans)


def orange() -> Image.Image:
    c = Canvas(640, 480, (236, 232, 222), (214, 206, 190), seed=1)
    c.table(300, (176, 124, 78), (150, 100, 60))
    c.shade(c.ellipse(360, 398, 185, 34, blur=14), -0.55)
    fruit = c.ellipse(320, 240, 172, 172)
    c.paint(fruit, c.ball(320, 240, 172, 172, (200, 70, 0), (255, 140, 10), 0.5), peel(c))
    leaf = "4,-30 60,-74 130,-70 190,-24 130,-8 60,-12"
    c.shade(c.ellipse(318, 100, 34, 14, blur=6), -0.35)
    c.shade(c.polygon(curve(leaf, 314, 134, closed=True), 8) * fruit, -0.4)
    c.paint(c.stroke(curve("0,-14 2,-40 10,-54", 314, 112), 9), (96, 102, 46))
    c.paint(c.polygon(curve(leaf, 314, 112, closed=True)), blend((96, 160, 56), (34, 84, 26), c.below(40, 70)))
    c.paint(c.stroke(curve("4,-30 60,-44 130,-40 186,-25", 314, 112), 2.5), (150, 196, 96))
    return c.finish()


def lemon() -> Image.Image:
    c = Canvas(600, 480, (96, 124, 84), (70, 96, 60), seed=2)
    c.table(290, (150, 110, 74), (120, 84, 54))
    c.shade(c.ellipse(330, 384, 205, 30, blur=14), -0.55)
    upper = "-232,4 -206,-28 -160,-82 -60,-138 60,-138 150,-88 206,-36 236,-16 "
    outline = curve(upper + "242,4 228,22 200,48 140,102 50,138 -60,136 -160,84 -206,34", 300, 246, closed=True)
    skin = c.ball(300, 246, 236, 150, (190, 152, 8), (255, 238, 66), 0.7)
    c.paint(c.polygon(outline), skin, peel(c))
    for x in (102, 500):
        c.shade(c.stroke(curve("2,-28 -4,0 0,34", x, 246), 8, blur=5), -0.22)
    return c.finish()


def school_bus() -> Image.Image:
    c = Canvas(640, 480, (120, 174, 226), (214, 230, 240), seed=3)
    c.sky(170, 0.3)
    c.paint(c.below(190 + c.noise(60, 999, 3) * 20, 4), (70, 102, 48), c.noise(30, 24, 3) * 14)
    c.paint(c.below(344), (176, 172, 164))
    c.paint(c.below(356), blend((126, 126, 124), (88, 88, 90), c.below(356, 124)), c.noise(4, 4) * 4)
    c.shade(c.ellipse(325, 404, 275, 20, blur=9), -0.7)
    hood = c.polygon(np.concatenate([curve("500,250 578,262 596,290 598,380"), points("490,384 490,250")]))
    body = np.maximum(c.box(60, 120, 516, 384, 26), hood)
    c.paint(body, blend((255, 198, 30), (226, 146, 0), c.below(110, 270)))
    c.shade(c.box(66, 122, 510, 136, 9, blur=4), 0.45)
    for y in (246, 290, 330):
        c.paint(c.box(50, y, 620, y + 6) * body, INK)
    for left in range(84, 410, 56):
        c.paint(c.box(left, 168, left + 48, 234, 6), INK)
        c.paint(c.box(left + 4, 172, left + 44, 230, 4), blend(GLASS, (176, 196, 210), (c.x + 230 - left - c.y) / 70))
        c.paint(c.box(left + 4, 199, left + 44, 203), INK)
    c.paint(c.box(424, 164, 470, 372, 5), INK)
    for left in (430, 450):
        c.paint(c.box(left, 172, left + 14, 364, 3), blend((110, 132, 150), (50, 60, 70), c.below(172, 190)))
    c.paint(c.polygon(points("480,168 508,168 518,240 480,240")), GLASS)
    c.paint(c.box(586, 296, 604, 322, 8), (255, 246, 210))
    c.paint(c.box(52, 366, 606, 386, 6), INK)
    for x in (160, 536):
        for radius, colour in ((50, INK), (42, (46, 46, 50)), (22, (190, 186, 176)), (9, (100, 98, 94))):
            c.paint(c.ellipse(x, 380, radius, radius), colour)
    return c.finish()


def ladybug() -> Image.Image:
    c = Canvas(640, 480, (120, 170, 70), (80, 136, 44), seed=5)
    leaf = c.polygon(np.concatenate([curve("-80,200 100,60 330,20 560,70 740,160"), points("740,560 -80,560")]), 1.5)
    c.paint(leaf, blend((110, 170, 54), (58, 116, 30), c.below(60, 400)), c.noise(40, 40, 4) * 9)
    ribs = [curve("-40,430 150,370 400,300 700,190")]
    for x, y in points("60,402 220,352 380,305 540,250"):
        ribs += [curve("0,0 30,-90 100,-180", x, y), curve("0,0 100,50 160,140", x, y)]
    for rib in ribs:
        c.shade(c.stroke(rib + 3, 5, 2), -0.16)
        c.paint(c.stroke(rib, 4, 1), (158, 200, 100))
    centre = np.array([330, 250])
    axes = np.array([[0.375, 0.65], [-0.65, 0.375]])  # the beetle's own: backwards, sideways

    def placed(text: str, side: int = 1, *, closed: bool = True) -> Array:
        return curve(text, closed=closed) * (1, side) @ axes + centre

    wings = placed("-124,0 -110,-84 -40,-138 60,-132 140,-76 170,0 140,76 60,132 -40,138 -110,84")
    c.shade(c.polygon(wings + centre / 24, 9), -0.5)
    for side in (1, -1):
        for limb in (
            "-90,90 -130,140 -172,150",
            "0,120 -4,172 -30,196",
            "80,100 120,150 150,158",
            "-176,24 -206,44 -222,40",
        ):
            c.paint(c.stroke(placed(limb, side, closed=False), 5), INK)
    c.paint(c.polygon(placed("-196,0 -186,36 -160,54 -120,96 -80,0 -120,-96 -160,-54 -186,-36")), INK)
    for side in (1, -1):
        c.paint(c.polygon(placed("-160,48 -140,82 -112,92 -124,60", side)), WHITE)
        c.paint(c.polygon(placed("-186,14 -180,30 -170,26 -176,12", side)), WHITE)
    shell = c.polygon(wings)
    c.paint(shell, c.ball(327, 247, 132, 126, (130, 8, 0), (238, 56, 22), 0))
    c.paint(c.stroke(placed("-120,0 170,0", closed=False), 3), INK)
    spots = points("-104,0 -50,78 -50,-78 34,62 34,-62 90,84 90,-84") @ axes + centre
    for (x, y), radius in zip(spots, (18, 16, 16, 18, 18, 12, 12), strict=True):
        c.paint(c.ellipse(x, y, radius, radius) * shell, INK)
    c.shade(c.ellipse(292, 198, 33, 16, 7), 0.6)
    return c.finish()


def mushroom() -> Image.Image:
    c = Canvas(640, 480, (90, 110, 60), (60, 70, 36), seed=21)
    c.paint(np.clip(c.noise(120, 120) * 0.5, 0, 1), (200, 210, 130))
    grass = c.noise(14, 30, 3)
    green = blend((90, 130, 40), (50, 70, 24), c.below(360, 120))
    c.paint(np.maximum.accumulate(c.below(370 - grass * 14, 14), axis=0), green, grass * 14)
    stem = c.polygon(curve("-18,0 -16,80 -23,176 0,190 23,176 16,80 18,0", 320, 240, closed=True))
    white = blend((250, 240, 218), (150, 130, 100), (c.x - 280) / 96)
    c.paint(stem, white, c.noise(6, 60) * 7)
    c.paint(np.clip((grass * 14 + c.y - 402) / 8, 0, 1), green, grass * 14)  # the blades in front of the stem
    gills = np.sin(np.arctan2((c.y - 232) * 3, c.x - 320) * 110)
    under = c.ellipse(320, 259, 147, 32)
    c.paint(under, blend((240, 226, 202), (150, 120, 90), (c.y - 240) / 56), gills * 28)
    c.paint(under * stem * c.below(264, 5), white * 0.8)
    outline = "-152,16 -128,-56 -64,-112 0,-125 64,-112 128,-56 152,16 80,11 0,16 -80,11"
    cap = c.ball(320, 256, 164, 152, (94, 52, 24), (214, 152, 92), 0.3)
    c.paint(c.polygon(curve(outline, 320, 240, closed=True)), cap, c.noise(60, 40, 3) * 10)
    return c.finish()


def teapot() -> Image.Image:
    c = Canvas(600, 480, (120, 146, 160), (96, 122, 138), seed=12)
    c.table(350, (130, 86, 54), (110, 72, 44))
    dark, lit = (104, 104, 112), (254, 251, 244)
    c.shade(c.ellipse(320, 400, 160, 22, blur=12), -0.6)
    handle = curve("120,-60 200,-80 216,0 170,56 110,66", 300, 280)
    c.paint(c.stroke(handle, 22), blend(dark, lit, (810 - c.x - c.y) / 200))
    spout = curve("-100,60 -170,10 -190,-60 -236,-96 -206,-108 -164,-70 -140,-30 -90,-30", 300, 280)
    c.paint(c.polygon(spout), blend(lit, dark, c.below(180, 240)))
    c.paint(c.box(226, 380, 374, 408, 10), blend((206, 202, 196), (96, 96, 104), (c.x - 220) / 150))
    c.paint(c.ellipse(300, 280, 142, 122), c.ball(300, 280, 150, 128, dark, lit, 0.8))
    c.paint(c.ellipse(300, 174, 76, 20), dark)
    c.paint(c.ellipse(300, 166, 70, 32), c.ball(300, 174, 76, 44, dark, lit, 0.6))
    c.paint(c.ellipse(300, 126, 17, 15), c.ball(300, 126, 19, 17, dark, lit, 0.6))
    return c.finish()


def candle() -> Image.Image:
    c = Canvas(480, 600, (10, 8, 10), (20, 12, 10), seed=13)
    c.paint(np.exp(-(((c.x - 240) / 170) ** 2) - ((c.y - 210) / 190) ** 2) * 0.4, (236, 140, 40))
    c.shade(c.below(540), -0.3)
    edge = 1 - np.clip(np.abs(c.x - 240) / 62, 0, 1) ** 3 * 0.4
    c.paint(c.box(182, 300, 298, 560, 8), blend((255, 226, 160), (150, 96, 56), c.below(290, 260)) * edge[..., None])
    c.paint(c.ellipse(240, 302, 58, 13), (255, 236, 180))
    c.paint(c.stroke(points("240,304 242,262"), 5), (40, 26, 20))
    flame = "0,-146 28,-66 24,-18 0,0 -24,-18 -28,-66"
    c.paint(c.polygon(curve(flame, 240, 276, closed=True), 3), (255, 168, 40))
    c.paint(c.polygon(curve(flame, 240, 270, closed=True, scale=0.75), 4), (255, 240, 170))
    return c.finish()


def lighthouse() -> Image.Image:
    c = Canvas(480, 640, (64, 132, 206), (208, 226, 238), seed=10)
    c.sky(170, 0.15)
    c.paint(c.below(520), blend((30, 84, 130), (24, 70, 110), c.below(520, 120)), c.noise(40, 4, 2) * 8)
    hill = 540 - 50 * np.exp(-(((c.x - 250) / 170) ** 2)) + c.noise(40, 999, 4) * 6
    c.paint(c.below(hill, 2), blend((58, 54, 46), (160, 146, 120), 0.5 + 1.5 * slopes(c.noise(70, 50, 5))))
    half = 38 + (c.y - 170) / 330 * 24
    light = np.clip(1 - ((c.x - 240) / half + 0.35) ** 2 * 0.5, 0, 1)
    stripes = blend((250, 248, 242), (200, 30, 30), (c.y - 170) // 67 % 2)
    c.paint(c.polygon(points("202,170 278,170 302,500 178,500")), stripes * light[..., None])
    c.paint(c.box(186, 160, 294, 174, 3), INK)
    c.paint(c.box(212, 104, 268, 162), (255, 240, 180))
    for x in (212, 230, 250, 268):
        c.paint(c.box(x - 2, 104, x + 2, 162), INK)
    c.paint(c.box(237, 54, 243, 80, 3), INK)
    c.paint(c.polygon(points("204,106 276,106 250,74 230,74")), blend((206, 40, 36), (110, 14, 16), (c.x - 215) / 60))
    for y in (262, 394):
        c.paint(c.box(231, y, 249, y + 30, 8), (50, 56, 66))
    return c.finish()


def seashore() -> Image.Image:
    c = Canvas(640, 426, (86, 150, 220), (206, 226, 240), seed=9)
    c.sky(180, 0.2)
    cape = 182 - np.clip((c.x - 400) / 4, 0, 50) - c.noise(60, 999, 4) * 8
    c.paint(c.below(cape, 2), (74, 80, 64))
    c.paint(c.below(170), blend((20, 88, 140), (70, 180, 190), c.below(170, 120)), c.noise(60, 4, 3) * 10)
    for y, height in ((186, 3), (208, 6), (240, 11)):  # breaking waves: shade under a crest of foam
        line = y + c.noise(200, 400) * 4 + c.noise(40, 300) * 1.5
        reach = np.clip(0.6 + c.noise(220, 600) * 0.8, 0, 1)
        c.shade(np.exp(-(((c.y - line) / height + 0.9) ** 2) * 1.6) * reach, -0.35)
        crest = np.exp(-np.where(c.y < line, (line - c.y) * 3, c.y - line) / height)
        c.paint(crest * reach * np.clip(0.85 + c.noise(9, 5, 2) * 0.35, 0, 1), WHITE)
    edge = 300 + (c.x - 320) * 0.16 + c.noise(170, 400) * 9 + c.noise(40, 400) * 2.5
    sand = blend((150, 122, 86), (232, 208, 160), c.below(edge, 30))
    c.paint(c.below(edge, 3), sand, c.noise(3, 3) * 4 + c.noise(50, 14) * 5)
    for offset, width, strength in ((0, 9, 1.3), (28, 5, 1.0)):
        line = edge - offset * (1 - (c.x - 320) / 2200) + c.noise(70, 300) * 4
        foam = np.exp(-(((c.y - line) / width) ** 2)) * np.clip(0.75 + c.noise(14, 4) * 0.4, 0, 1)
        c.paint(foam * strength, WHITE)
    return c.finish()


def alp() -> Image.Image:
    c = Canvas(640, 440, (58, 108, 184), (186, 210, 234), seed=3)
    c.sky(160, 0.2)
    relief = c.noise(90, 70, 6)
    light = np.clip(slopes(relief) * 2.2, -1, 1)

    def ridge(text: str, roughness: float) -> Array:
        jags = (c.rng.normal(0, roughness * 40 / n, n) for n in (12, 24, 48, 96, 190))
        jag = sum(np.interp(c.x[0], np.linspace(0, c.width, len(jag)), jag) for jag in jags)
        return (np.interp(c.x[0], *points(text).T) + jag).astype(np.float32)

    far = ridge("0,220 120,170 240,230 400,210 540,150 640,200", 5)
    c.paint(c.below(far), blend((130, 154, 190), (222, 232, 244), 0.5 + light))
    near = ridge("0,290 90,230 150,250 230,140 300,52 330,80 380,170 430,140 470,180 540,240 640,270", 5)
    shadow = np.clip((c.x - 300 - (c.y - 52) * 0.25 + relief * 60) / 24, 0, 1)
    sun = 0.66 + 0.45 * light - 0.4 * shadow
    bare = ((c.y - 260) / 130 + relief * 0.55 + np.abs(light) * 0.2 - 0.2) * 4
    snow, rock = blend((100, 126, 176), (255, 255, 255), sun), blend((34, 36, 46), (146, 132, 120), sun)
    c.paint(c.below(near), blend(snow, rock, bare))
    meadow = ridge("0,350 150,382 330,372 480,384 640,345", 2)
    c.paint(c.below(meadow), blend((94, 130, 60), (44, 78, 32), c.below(350, 90)), c.noise(12, 5, 3) * 9)
    return c.finish()


def balloon() -> Image.Image:
    c = Canvas(640, 480, (52, 120, 206), (206, 228, 242), seed=30)
    c.sky(170, 0.2)
    hills = c.below(440 + c.noise(120, 999, 3) * 12, 2)
    c.paint(hills, blend((96, 140, 80), (50, 90, 44), c.below(422, 70)), c.noise(30, 8, 3) * 8)
    side = curve("0,38 72,54 125,100 141,166 120,230 78,284 35,332 21,350")  # half the width at each height
    half = np.interp(c.y, side[:, 1], side[:, 0]) + 1e-3
    gore = np.arcsin(np.clip((c.x - 320) / half, -1, 1)) / np.pi * 8 + 4
    colours = np.array([(204, 36, 40), (250, 190, 30), (30, 110, 180), (250, 190, 30)], np.float32)
    cloth = colours[(gore // 1 + (c.y - 30) // 37).astype(int) % 4]
    light = np.clip(1.2 - (c.x - 180) / 640 - c.y / 720, 0.35, 1.1) * (1 - 0.22 * np.abs(gore % 1 * 2 - 1) ** 4)
    for x in (-18, -6, 6, 18):
        c.paint(c.stroke(points(f"{x},340 {x * 0.8},392", 320), 2), INK)
    c.paint(c.polygon(points("299,348 341,348 336,366 304,366")), (150, 30, 30))
    outline = np.concatenate([side, side[::-1] * (-1, 1)])
    c.paint(c.polygon(outline + np.array([320, 0])), cloth * light[..., None])
    c.paint(c.box(297, 388, 343, 418, 4), blend((160, 106, 56), (90, 54, 24), (c.x - 297) / 46), c.noise(6, 4) * 10)
    c.paint(c.box(294, 385, 346, 392, 3), (80, 48, 22))
    return c.finish()


def daisy() -> Image.Image:
    c = Canvas(600, 480, (110, 150, 70), (60, 100, 40), seed=31)
    c.paint(np.clip(c.noise(130, 130) * 0.5, 0, 1), (40, 76, 26))
    c.paint(c.stroke(curve("300,250 306,380 330,520"), 14), blend((110, 150, 60), (60, 96, 30), (c.x - 300) / 14))
    petal = curve("0.1,0 0.3,0.09 0.7,0.14 0.93,0.1 1,0 0.93,-0.1 0.7,-0.14 0.3,-0.09", closed=True)
    bright = 0.78 + 0.22 * np.clip(np.hypot(c.x - 300, c.y - 235) / 120, 0, 1)
    for number in range(34):  # 17 behind, then 17 in front
        angle = (number + number // 17 / 2) / 17 * 2 * np.pi + c.rng.normal(0, 0.05)
        cos, sin = np.cos(angle), np.sin(angle)
        shape = petal * 180 * (1 + c.rng.normal(0, 0.04)) @ np.array([[cos, sin], [-sin, cos]]) + (300, 235)
        across = (c.y - 235) * cos - (c.x - 300) * sin
        light = bright - 0.05 * np.cos(across / 2.2) ** 2 - 0.1 * np.clip(across / 24, 0, 1)
        c.shade(c.polygon(shape + 3, 4), -0.22)
        c.paint(c.polygon(shape), blend((0, 0, 0), WHITE, light * (0.84 if number < 17 else 1)))
    c.shade(c.ellipse(300, 238, 60, 58, 5), -0.3)
    c.paint(c.ellipse(300, 235, 54, 52), c.ball(300, 235, 58, 56, (196, 120, 0), (255, 214, 40), 0), c.noise(5, 5) * 16)
    return c.finish()


OBJECTS = (orange, lemon, school_bus, ladybug, mushroom, teapot, candle, lighthouse, seashore, alp, balloon, daisy)

DIGITS = (  # the strokes of 0 to 9, in a box of 100 by 100
    ["56,2 30,12 16,48 26,88 52,98 78,80 84,42 70,8 52,4"],
    ["60,2 54,35 47,70 42,98"],
    ["18,24 34,5 62,4 76,24 62,52 36,78 16,94", "16,94 46,90 88,95"],
    ["22,12 46,2 72,14 66,36 42,46 70,54 80,76 60,95 34,96 18,84"],
    ["32,4 22,32 14,56 44,56 88,50", "72,6 66,46 60,98"],
    ["34,6 28,26 24,46 48,40 74,52 78,76 56,95 32,96 16,86", "34,6 58,7 84,2"],
    ["66,2 40,20 22,54 26,86 50,98 74,84 74,62 54,52 32,64 25,80"],
    ["14,10 40,8 84,5", "84,5 64,40 48,70 42,98"],
    ["76,16 54,3 30,12 32,34 54,48 74,66 72,90 48,98 26,86 32,64 54,46 74,30 76,15"],
    ["78,20 58,4 32,10 22,34 38,52 62,44 77,22", "78,18 76,46 70,74 62,98"],
)


def digit(number: int) -> Image.Image:
    c = Canvas(140, 140, (248, 247, 244), (240, 238, 234), seed=100 + number)
    c.pixels += (c.noise(3, 3) * 1.5)[..., None]
    for text in DIGITS[number]:
        line = curve(text, 22, 22, scale=0.96)
        tremor = np.cumsum(c.rng.normal(0, 0.12, line.shape), axis=0)
        pressure = 1 + 0.12 * np.sin(np.linspace(0, 7, len(line)) + number)
        c.paint(c.stroke(line + tremor, 10.5 * pressure, 0.6), (32, 34, 48))
    return c.finish().convert("L")


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the sample pictures.")
    default = Path(__file__).resolve().parent.parent / "samples"
    parser.add_argument("--output", type=Path, default=default, help="folder to write to (default: samples)")
    output: Path = parser.parse_args().output
    (output / "digits").mkdir(parents=True, exist_ok=True)
    for draw in OBJECTS:
        draw().save(output / f"{draw.__name__}.jpg", quality=92)
    for number in range(len(DIGITS)):
        digit(number).save(output / "digits" / f"{number}.png", optimize=True)


if __name__ == "__main__":
    main()
