"""A training batch on one plot: each image with its targets, and a legend of the colors."""

from math import ceil

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from detector.images.draw import GRID_COLOR, contact_sheet, draw_boxes, fit_text, label_color
from detector.structures import Batch, Categories

LEGEND_CLASSES = 10
"""With at most so many classes a legend names the colors, with more each box has its name: chips hide small objects."""
LEGEND_TEXT = 18  # pixels


def plot_batch(
    batch: Batch, categories: Categories, columns: int = 4, cell: int = 320
) -> UInt8[np.ndarray, "height width 3"]:
    """The images of `batch`, which has one at least, with their boxes, in cells of `cell` pixels; a legend below."""
    images = []
    for pixels, targets in zip(batch.images, batch.targets, strict=True):
        image, factor = fitted(pixels.permute(1, 2, 0).numpy(), cell)
        labels = targets.labels.tolist()
        texts = ["" if len(categories) <= LEGEND_CLASSES else categories.names[label] for label in labels]
        images.append(draw_boxes(image, (targets.boxes * factor).tolist(), labels, texts))
    plot = contact_sheet(images, min(columns, len(images)), (cell, cell))
    return plot if len(categories) > LEGEND_CLASSES else np.concatenate([plot, legend(categories, plot.shape[1])])


def fitted(
    image: UInt8[np.ndarray, "height width 3"], side: int
) -> tuple[UInt8[np.ndarray, "new_height new_width 3"], float]:
    """The image with its longer side brought to `side` pixels, and new pixels per old one."""
    height, width = image.shape[:2]
    factor = side / max(height, width)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    method = Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.LANCZOS
    return np.array(Image.fromarray(image).resize(size, method)), factor


def legend(categories: Categories, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """A strip with a square in each class's color and its name, in as many lines as it takes."""
    line, gap = 2 * LEGEND_TEXT, LEGEND_TEXT
    places, x, y = [], gap, 0
    for label, name in enumerate(categories.names):
        text, font, (needed, _) = fit_text(name, LEGEND_TEXT, width - 4 * gap)
        if x > gap and x + needed + 2 * gap > width:
            x, y = gap, y + line
        places.append((x, y, label, text, font))
        x += needed + 3 * gap
    strip = Image.new("RGB", (width, y + line), GRID_COLOR)
    draw = ImageDraw.Draw(strip)
    for x, y, label, text, font in places:
        top = y + (line - LEGEND_TEXT) // 2
        draw.rectangle((x, top, x + LEGEND_TEXT, top + LEGEND_TEXT), fill=label_color(label))
        draw.text((x + ceil(1.5 * LEGEND_TEXT), y + line / 2), text, fill=(20, 20, 20), font=font, anchor="lm")
    return np.array(strip)
