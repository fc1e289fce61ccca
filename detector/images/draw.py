"""Detections drawn into their image, and many images on one plot."""

import colorsys
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from math import ceil

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps

from detector.errors import printable
from detector.structures import Detections

Color = tuple[int, int, int]
Box = tuple[int, int, int, int]  # left, top, right, bottom pixel; right and bottom are the last ones inside
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# tried in order: Pillow's own font ("") knows little more than ASCII, the others come with Linux, macOS or Windows
FONTS = (
    "",
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "Arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "msyh.ttc",
)
GAP = 6  # pixels between the cells of a contact sheet
GRID_COLOR: Color = (250, 250, 250)


def label_color(label: int) -> Color:
    """The RGB color of a label, always the same; neighboring labels get hues far apart."""
    hue = (0.58 + label * 0.618034) % 1.0  # the golden ratio never comes back to a hue
    value, saturation = ((0.95, 0.85), (0.75, 0.95), (1.0, 0.5))[label // 8 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _text_color(background: Color) -> Color:
    """Black or white, whichever stands out more from the background (WCAG relative luminance)."""
    red, green, blue = ((channel / 255) ** 2.2 for channel in background)
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else (255, 255, 255)


@lru_cache(maxsize=64)
def _font(name: str, size: int) -> Font | None:
    """A font of the system by its file name, or Pillow's own for ""; None if the system has no such font."""
    try:
        return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _has_glyph(font_name: str, character: str) -> bool:
    font = _font(font_name, 20)
    if font is None:
        return False
    glyph, missing = font.getmask(character), font.getmask("\uffff")
    return character.isspace() or glyph.size != missing.size or bytes(glyph) != bytes(missing)


def _choose_font(text: str) -> tuple[str, str]:
    """The first of FONTS that lacks the fewest characters of `text`, and the text to write.

    A character that it lacks is written without its accents, else as "?".
    """
    text = printable(text)
    name = min(FONTS, key=lambda font: sum(not _has_glyph(font, character) for character in text))
    known = []
    for character in text:
        choices = (character, unicodedata.normalize("NFKD", character)[0], "?")
        known.append(next(choice for choice in choices if _has_glyph(name, choice) or choice == "?"))
    return name, "".join(known)


def _to_pixels(box: Sequence[float], width: int, height: int) -> Box:
    """First and last pixel that a fractional xyxy box covers by at least a half, at least one, inside the image."""
    left, top = min(max(round(box[0]), 0), width - 1), min(max(round(box[1]), 0), height - 1)
    right, bottom = min(round(box[2]), width) - 1, min(round(box[3]), height) - 1
    return left, top, max(right, left), max(bottom, top)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def _chip_place(box: Box, size: tuple[int, int], image: tuple[int, int], taken: Sequence[Box]) -> Box:
    """Where a chip goes: above its box, else inside at the top or bottom, else below, where it covers fewest chips.

    size and image are width, height in pixels; the chip stays inside the image as far as it fits at all.
    """
    places = []
    for left in (box[0], box[2] - size[0] + 1):
        for top in (box[1] - size[1], box[1], box[3] - size[1] + 1, box[3] + 1):
            x, y = max(min(left, image[0] - size[0]), 0), max(min(top, image[1] - size[1]), 0)
            places.append((x, y, x + size[0] - 1, y + size[1] - 1))
    return min(places, key=lambda place: sum(_overlap(place, chip) for chip in taken))


def fit_text(text: str, size: int, width: int) -> tuple[str, Font, tuple[int, int]]:
    """The text as it can be written, its font (smaller if a chip would be wider than `width`) and the chip's size."""
    name, text = _choose_font(text)
    font = _font(name, size) or ImageFont.load_default(size)
    needed = font.getlength(text) + size // 2
    if needed > width and size > 6:
        return fit_text(text, max(min(int(size * width / needed), size - 1), 6), width)
    return text, font, (ceil(needed), round(1.5 * size))


def draw_detections(
    image: UInt8[np.ndarray, "height width 3"], detections: Detections, side: float | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """A copy of the RGB image with a box and a chip "name 0.87" for each detection, better scores on top.

    Tracked ones have "name #7 0.87" and the color of their track. The detections are in the image's own frame; lines and
    text are sized for an image of `side` pixels, this one's mean side if None.
    """
    names, colors = detections.names, detections.labels.tolist()
    if detections.track_ids is not None:
        colors = detections.track_ids.tolist()
        names = [f"{name} #{track}" if track else name for name, track in zip(names, colors, strict=True)]
    texts = [f"{name} {score:.2f}" for name, score in zip(names, detections.scores.tolist(), strict=True)]
    return draw_boxes(image, detections.boxes.tolist(), colors, texts, side)


def draw_boxes(
    image: UInt8[np.ndarray, "height width 3"],
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    texts: Sequence[str],
    side: float | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """A copy of the RGB image with boxes (xyxy, its pixels) in their labels' colors, each with its text on a chip.

    An empty text makes no chip; what comes first lies on top; `side` as in `draw_detections`.
    """
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    side = (canvas.width + canvas.height) / 2 if side is None else side
    line, text_size = ceil(side / 250), max(round(side / 38), 11)
    places = [_to_pixels(box, canvas.width, canvas.height) for box in boxes]
    for box, label in reversed(list(zip(places, labels, strict=True))):
        draw.rectangle(box, outline=label_color(label), width=line)
    chips: list[Box] = []
    drawn = []
    for box, label, given in zip(places, labels, texts, strict=True):
        if given:
            text, font, size = fit_text(given, text_size, canvas.width)
            chips.append(_chip_place(box, size, canvas.size, chips))
            drawn.append((chips[-1], label_color(label), text, font))
    for chip, color, text, font in reversed(drawn):
        draw.rectangle(chip, fill=color)
        middle = ((chip[0] + chip[2] + 1) / 2, (chip[1] + chip[3] + 1) / 2)
        draw.text(middle, text, fill=_text_color(color), font=font, anchor="mm")
    return np.array(canvas)


def contact_sheet(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]], columns: int, cell: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """RGB images row by row on one light plot, each fitted whole and centered in a cell of (width, height) pixels."""
    rows = -(-len(images) // columns)
    size = (columns * (cell[0] + GAP) + GAP, rows * (cell[1] + GAP) + GAP)
    plot = Image.new("RGB", size, GRID_COLOR)
    for index, image in enumerate(images):
        corner = (GAP + index % columns * (cell[0] + GAP), GAP + index // columns * (cell[1] + GAP))
        plot.paste(ImageOps.pad(Image.fromarray(image), cell, color=GRID_COLOR), corner)
    return np.array(plot)
