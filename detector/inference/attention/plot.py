"""The attention maps of one image on one plot to look at: heat-map overlays, a row a layer, then a row a detection."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw

from detector.images.draw import GAP, GRID_COLOR, Color, draw_boxes, fit_text
from detector.images.grids import fitted
from detector.inference.attention.maps import AttentionLayer, AttentionMaps
from detector.structures import Detections

MAX_SHOWN = 6
"""Detections on a plot: the best of each class, then the second of each, and so on."""
SIDE = 300  # pixels, the longer side of a panel's image
NARROWEST = 270  # pixels, of a panel, so that its captions can be read
TEXT = 14  # pixels
LINE = 20  # pixels
INK: Color = (20, 20, 20)
BOX: Color = (255, 255, 255)
QUERY: Color = (0, 255, 255)  # nothing in the color map is like it
COLORMAP = matplotlib.colormaps["inferno"]
"""Rises evenly in lightness: it reads the same in gray print and for color-blind eyes."""
MIN_RANGE = 2.0
"""The brightest color stands for at least this multiple of uniform attention, so that noise stays dark."""
FEWEST_COLUMNS = 3  # so that the legend can be read below the plot of a model without attention layers
ATTENTION_LEGEND = (
    "Attention: gray is uniform attention (1 / number of cells) or less; brightest is the maximum of the panel, given in"
    f" its caption, but at least {MIN_RANGE:g} × uniform.",
    "Rows of layers: what a cell receives from all cells of the image. Rows of detections: what it receives from the marked"
    " cell, that of the detection's center.",
)
ACTIVATION_LEGEND = (
    "Class activation: what speaks for the class of the detection in the map that the head reads (LayerCAM); gray is"
    " nothing."
)


class Panel(NamedTuple):
    """An image of the plot and its two lines of caption."""

    title: str
    caption: str
    image: UInt8[np.ndarray, "_height _width 3"]


def plot_attention(
    image: UInt8[np.ndarray, "height width 3"], maps: AttentionMaps
) -> UInt8[np.ndarray, "grid_height grid_width 3"]:
    """The overlays of an RGB image, to which `maps` belong.

    A row a layer: the detections, then what each cell receives, by the mean of the heads and by each head. A row a detection
    and layer: the detection, where its center looks, by the mean and by each head, and its class activation. Without
    attention layers the detections, then a row a detection with its class activation alone.
    """
    small, factor = fitted(image, SIDE)
    shown = choose_shown(maps.detections, MAX_SHOWN)
    found = found_panel(small, factor, maps.detections, shown)
    rows: list[list[Panel]] = []
    for number, layer in enumerate(maps.layers, start=1):
        rows.append([found, *attention_panels(f"layer {number}: received", layer, layer.received(), small)])
    if not maps.layers:
        rows.append([found])
    for index in shown:
        box = (maps.detections.boxes[index] * factor).tolist()
        x, y = ((maps.detections.boxes[index, :2] + maps.detections.boxes[index, 2:]) / 2).tolist()
        of_layers = []
        for number, layer in enumerate(maps.layers, start=1):
            cell = (layer.cell_box(*layer.cell(x, y))[0] * factor).tolist()
            looks = attention_panels(f"layer {number}: from its center", layer, layer.looked_from(x, y), small)
            marked = [panel._replace(image=_marked(panel.image, box, cell)) for panel in looks]
            of_layers.append([_detection_panel(small, maps.detections, index, box, cell), *marked])
        of_layers = of_layers or [[_detection_panel(small, maps.detections, index, box, None)]]
        of_layers[0].append(_activation_panel(small, maps, index, box))
        rows += of_layers
    plot = _grid(rows)
    return np.concatenate([plot, _legend(maps, plot.shape[1])])


def choose_shown(detections: Detections, limit: int) -> list[int]:
    """Choose at most `limit` detections, by index: the best of each class first, then the second of each, and so on."""
    count: Counter[int] = Counter()
    ranks = []
    for index, label in enumerate(detections.labels.tolist()):
        ranks.append((count[label], index))
        count[label] += 1
    return [index for _, index in sorted(ranks)[:limit]]


def overlay(
    image: UInt8[np.ndarray, "height width 3"],
    heat: Float32[np.ndarray, "heat_height heat_width"],
    low: float,
    high: float,
) -> UInt8[np.ndarray, "height width 3"]:
    """The image in gray under the heat: nothing at `low` and below, brightest at `high`; any size of heat is fitted."""
    height, width = image.shape[:2]
    heat = cv2.resize(heat, (width, height), interpolation=cv2.INTER_AREA)
    strength = ((heat - low) / (high - low)).clip(0, 1)[..., None]
    gray = image.mean(axis=2, keepdims=True) * 0.65
    opacity = 0.9 * strength**0.6
    color: np.ndarray = 255 * COLORMAP(0.2 + 0.8 * strength[..., 0])[..., :3]  # its first fifth is as dark as the gray
    return np.asarray((gray * (1 - opacity) + color * opacity).round(), np.uint8)


def attention_panels(
    title: str,
    layer: AttentionLayer,
    attention: Float32[np.ndarray, "heads rows columns"],
    image: UInt8[np.ndarray, "height width 3"],
) -> list[Panel]:
    """The mean of the heads, then each head, of an image of any size; `attention` in × uniform.

    The maximum in a caption, at which the colors end, is that of the cells in the image.
    """
    inside = layer.in_image()
    named = [(f"{title}, mean of {len(attention)} heads", attention.mean(axis=0))]
    named += [(f"{title}, head {number}", head) for number, head in enumerate(attention, start=1)]
    panels = []
    for text, head in named:
        heat = layer.letterbox.map_to_original(head)
        maximum = float(head[inside].max())
        padding = "" if inside.all() else f"; {head[~inside].sum() / head.sum():.0%} on padding"
        lit = overlay(image, heat, 1.0, max(maximum, MIN_RANGE))
        panels.append(Panel(text, f"maximum: {maximum:.1f} × uniform{padding}", lit))
    return panels


def found_panel(
    image: UInt8[np.ndarray, "height width 3"], factor: float, found: Detections, shown: Sequence[int]
) -> Panel:
    """All boxes, `factor` of this image's pixels to one of theirs, and the names of those that have rows of their own."""
    texts = [found.names[index] if index in shown else "" for index in range(len(found))]
    not_shown = f"{len(shown)} of {len(found)} detections shown" if len(shown) < len(found) else ""
    drawn = draw_boxes(image, (found.boxes * factor).tolist(), found.labels.tolist(), texts)
    return Panel(f"{len(found)} detections", not_shown, drawn)


def _detection_panel(
    image: UInt8[np.ndarray, "height width 3"],
    found: Detections,
    index: int,
    box: Sequence[float],
    cell: Sequence[float] | None,
) -> Panel:
    drawn = _marked(draw_boxes(image, [box], [int(found.labels[index])], [""]), None, cell)
    caption = "" if cell is None else "square: the cell of its center"
    return Panel(f"{found.names[index]} {float(found.scores[index]):.2f}", caption, drawn)


def _activation_panel(
    image: UInt8[np.ndarray, "height width 3"], maps: AttentionMaps, index: int, box: Sequence[float]
) -> Panel:
    activation = maps.activations[index]
    heat = maps.letterbox.map_to_original(activation)
    cell = maps.letterbox.input_height // activation.shape[0]
    title = f"class activation for {maps.detections.names[index]}"
    lit = overlay(image, heat, 0.0, max(float(heat.max()), 1e-12))
    return Panel(title, f"cells of {cell} px of the network input", _marked(lit, box, None))


def _marked(
    image: UInt8[np.ndarray, "height width 3"], box: Sequence[float] | None, cell: Sequence[float] | None
) -> UInt8[np.ndarray, "height width 3"]:
    """A copy with a detection's box and the cell that looks, xyxy pixels of `image`."""
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    for corners, color, width in ((box, BOX, 1), (cell, QUERY, 2)):
        if corners is not None:
            left, top, right, bottom = (round(value) for value in corners)
            draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=color, width=width)
    return np.array(canvas)


def _grid(rows: Sequence[Sequence[Panel]]) -> UInt8[np.ndarray, "grid_height grid_width 3"]:
    """The panels on a light plot, all in cells of one size, captions above them."""
    height, width = rows[0][0].image.shape[:2]
    cell = (max(width, NARROWEST) + GAP, height + 2 * LINE + GAP)
    columns = max(FEWEST_COLUMNS, *map(len, rows))
    plot = Image.new("RGB", (columns * cell[0] + GAP, len(rows) * cell[1] + GAP), GRID_COLOR)
    draw = ImageDraw.Draw(plot)
    for row, panels in enumerate(rows):
        for column, panel in enumerate(panels):
            x, y = GAP + column * cell[0], GAP + row * cell[1]
            _write(draw, panel.title, (x, y + LINE / 2), cell[0] - GAP)
            _write(draw, panel.caption, (x, y + 3 * LINE / 2), cell[0] - GAP)
            plot.paste(Image.fromarray(panel.image), (x, y + 2 * LINE))
    return np.array(plot)


def _legend(maps: AttentionMaps, width: int) -> UInt8[np.ndarray, "legend_height grid_width 3"]:
    """What the colors mean, and the layers' names."""
    input_text = f"network input of {maps.letterbox.input_width} x {maps.letterbox.input_height} px"
    if maps.layers:
        names = [
            f"layer {number}: {layer.name}, {layer.query_rows} x {layer.query_columns} cells look at"
            f" {layer.rows} x {layer.columns}"
            for number, layer in enumerate(maps.layers, start=1)
        ]
        lines = [*ATTENTION_LEGEND, ACTIVATION_LEGEND, f"{'; '.join(names)}; {input_text}."]
    else:
        lines = [ACTIVATION_LEGEND, f"The model has no attention layers; {input_text}."]
    bar = np.repeat(np.linspace(0, 1, width - 2 * GAP, dtype=np.float32)[None], LINE, axis=0)
    strip = Image.new("RGB", (width, (len(lines) + 1) * LINE + 2 * GAP), GRID_COLOR)
    strip.paste(Image.fromarray(overlay(np.full((*bar.shape, 3), 128, np.uint8), bar, 0.0, 1.0)), (GAP, 0))
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        _write(draw, line, (GAP, GAP + (number + 1.5) * LINE), width - 2 * GAP)
    return np.array(strip)


def _write(draw: ImageDraw.ImageDraw, text: str, place: tuple[float, float], width: int) -> None:
    """A line of text from the left, its middle at `place`, smaller if it would be wider than `width`."""
    text, font, _ = fit_text(text, TEXT, width)
    draw.text(place, text, fill=INK, font=font, anchor="lm")
