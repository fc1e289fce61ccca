"""The attention maps of one picture on one sheet to look at: heat-map overlays, a row a layer, then a row a detection."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw

from detector.inference.attention_maps import AttentionLayer, AttentionMaps
from detector.inference.draw import GAP, SHEET_COLOUR, Colour, draw_boxes, fit_text
from detector.inference.sheets import fitted
from detector.structures import Detections

MOST_SHOWN = 6
"""Detections on a sheet: the best of each class, then the second of each, and so on."""
SIDE = 300  # pixels, the longer side of a panel's picture
NARROWEST = 270  # pixels, of a panel, so that its captions can be read
TEXT = 14  # pixels
LINE = 20  # pixels
INK: Colour = (20, 20, 20)
BOX: Colour = (255, 255, 255)
QUERY: Colour = (0, 255, 255)  # nothing in the colour map is like it
COLOURS = matplotlib.colormaps["inferno"]
"""Rises evenly in lightness: it reads the same in grey print and for colour-blind eyes."""
LEAST_RANGE = 2.0
"""Even shares that are brightest at least: attention that prefers nothing stays dark instead of showing its noise."""
FEWEST_COLUMNS = 3  # so that the legend can be read below the sheet of a model without attention layers
ATTENTION_LEGEND = (
    "Attention: grey is an even share (1 / number of cells) or less; brightest is the most that a cell of the panel gets, in its"
    f" caption, but at least {LEAST_RANGE:g} even shares.",
    "Rows of layers: what a cell receives from all cells of the picture. Rows of detections: what it receives from the marked"
    " cell, that of the detection's centre.",
)
ACTIVATION_LEGEND = (
    "Class activation: what speaks for the class of the detection in the map that the head reads (LayerCAM); grey is"
    " nothing."
)


class Panel(NamedTuple):
    """A picture of the sheet and its two lines of caption."""

    title: str
    scale: str
    picture: UInt8[np.ndarray, "_height _width 3"]


def attention_sheet(
    picture: UInt8[np.ndarray, "height width 3"], maps: AttentionMaps
) -> UInt8[np.ndarray, "sheet_height sheet_width 3"]:
    """The overlays of an RGB picture, to which `maps` belong.

    A row a layer: the detections, then what each cell receives, by the mean of the heads and by each head. A row a detection
    and layer: the detection, where its centre looks, by the mean and by each head, and its class activation. Without
    attention layers the detections, then a row a detection with its class activation alone.
    """
    small, factor = fitted(picture, SIDE)
    shown = choose_shown(maps.detections, MOST_SHOWN)
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
            looks = attention_panels(f"layer {number}: from its centre", layer, layer.seen_from(x, y), small)
            marked = [panel._replace(picture=_marked(panel.picture, box, cell)) for panel in looks]
            of_layers.append([_detection_panel(small, maps.detections, index, box, cell), *marked])
        of_layers = of_layers or [[_detection_panel(small, maps.detections, index, box, None)]]
        of_layers[0].append(_activation_panel(small, maps, index, box))
        rows += of_layers
    sheet = _grid(rows)
    return np.concatenate([sheet, _legend(maps, sheet.shape[1])])


def choose_shown(detections: Detections, most: int) -> list[int]:
    """At most `most` detections, by index: the best of each class first, then the second of each, and so on."""
    seen: Counter[int] = Counter()
    ranks = []
    for index, label in enumerate(detections.labels.tolist()):
        ranks.append((seen[label], index))
        seen[label] += 1
    return [index for _, index in sorted(ranks)[:most]]


def overlay(
    picture: UInt8[np.ndarray, "height width 3"],
    heat: Float32[np.ndarray, "heat_height heat_width"],
    low: float,
    high: float,
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture in grey under the heat: nothing at `low` and below, brightest at `high`; any size of heat is fitted."""
    height, width = picture.shape[:2]
    heat = cv2.resize(heat, (width, height), interpolation=cv2.INTER_AREA)
    strength = ((heat - low) / (high - low)).clip(0, 1)[..., None]
    grey = picture.mean(axis=2, keepdims=True) * 0.65
    opacity = 0.9 * strength**0.6
    colour: np.ndarray = 255 * COLOURS(0.2 + 0.8 * strength[..., 0])[..., :3]  # its first fifth is as dark as the grey
    return np.asarray((grey * (1 - opacity) + colour * opacity).round(), np.uint8)


def attention_panels(
    title: str,
    layer: AttentionLayer,
    shares: Float32[np.ndarray, "heads rows columns"],
    picture: UInt8[np.ndarray, "height width 3"],
) -> list[Panel]:
    """The mean of the heads, then each head, of a picture of any size; `shares` in even shares.

    The most that a caption states, and the colours end at, is that of the cells in the picture.
    """
    inside = layer.in_picture()
    named = [(f"{title}, mean of {len(shares)} heads", shares.mean(axis=0))]
    named += [(f"{title}, head {number}", head) for number, head in enumerate(shares, start=1)]
    panels = []
    for text, head in named:
        heat = layer.letterbox.map_to_original(head)
        most = float(head[inside].max())
        padding = "" if inside.all() else f"; {head[~inside].sum() / head.sum():.0%} on padding"
        lit = overlay(picture, heat, 1.0, max(most, LEAST_RANGE))
        panels.append(Panel(text, f"most: {most:.1f} even shares{padding}", lit))
    return panels


def found_panel(
    picture: UInt8[np.ndarray, "height width 3"], factor: float, found: Detections, shown: Sequence[int]
) -> Panel:
    """All boxes, `factor` of this picture's pixels to one of theirs, and the names of those that have rows of their own."""
    texts = [found.names[index] if index in shown else "" for index in range(len(found))]
    left_out = f"{len(shown)} of {len(found)} detections shown" if len(shown) < len(found) else ""
    drawn = draw_boxes(picture, (found.boxes * factor).tolist(), found.labels.tolist(), texts)
    return Panel(f"{len(found)} detections", left_out, drawn)


def _detection_panel(
    picture: UInt8[np.ndarray, "height width 3"],
    found: Detections,
    index: int,
    box: Sequence[float],
    cell: Sequence[float] | None,
) -> Panel:
    drawn = _marked(draw_boxes(picture, [box], [int(found.labels[index])], [""]), None, cell)
    caption = "" if cell is None else "square: the cell of its centre"
    return Panel(f"{found.names[index]} {float(found.scores[index]):.2f}", caption, drawn)


def _activation_panel(
    picture: UInt8[np.ndarray, "height width 3"], maps: AttentionMaps, index: int, box: Sequence[float]
) -> Panel:
    activation = maps.activations[index]
    heat = maps.letterbox.map_to_original(activation)
    cell = maps.letterbox.frame_height // activation.shape[0]
    title = f"class activation for {maps.detections.names[index]}"
    lit = overlay(picture, heat, 0.0, max(float(heat.max()), 1e-12))
    return Panel(title, f"cells of {cell} px of the network input", _marked(lit, box, None))


def _marked(
    picture: UInt8[np.ndarray, "height width 3"], box: Sequence[float] | None, cell: Sequence[float] | None
) -> UInt8[np.ndarray, "height width 3"]:
    """A copy with a detection's box and the cell that looks, xyxy pixels of `picture`."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for corners, colour, width in ((box, BOX, 1), (cell, QUERY, 2)):
        if corners is not None:
            left, top, right, bottom = (round(value) for value in corners)
            draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=colour, width=width)
    return np.array(image)


def _grid(rows: Sequence[Sequence[Panel]]) -> UInt8[np.ndarray, "sheet_height sheet_width 3"]:
    """The panels on a light sheet, all in cells of one size, captions above them."""
    height, width = rows[0][0].picture.shape[:2]
    cell = (max(width, NARROWEST) + GAP, height + 2 * LINE + GAP)
    columns = max(FEWEST_COLUMNS, *map(len, rows))
    sheet = Image.new("RGB", (columns * cell[0] + GAP, len(rows) * cell[1] + GAP), SHEET_COLOUR)
    draw = ImageDraw.Draw(sheet)
    for row, panels in enumerate(rows):
        for column, panel in enumerate(panels):
            x, y = GAP + column * cell[0], GAP + row * cell[1]
            _write(draw, panel.title, (x, y + LINE / 2), cell[0] - GAP)
            _write(draw, panel.scale, (x, y + 3 * LINE / 2), cell[0] - GAP)
            sheet.paste(Image.fromarray(panel.picture), (x, y + 2 * LINE))
    return np.array(sheet)


def _legend(maps: AttentionMaps, width: int) -> UInt8[np.ndarray, "legend_height sheet_width 3"]:
    """What the colours mean, and the layers' names."""
    frame = f"network input of {maps.letterbox.frame_width} x {maps.letterbox.frame_height} px"
    if maps.layers:
        names = [
            f"layer {number}: {layer.name}, {layer.query_rows} x {layer.query_columns} cells look at"
            f" {layer.rows} x {layer.columns}"
            for number, layer in enumerate(maps.layers, start=1)
        ]
        lines = [*ATTENTION_LEGEND, ACTIVATION_LEGEND, f"{'; '.join(names)}; {frame}."]
    else:
        lines = [ACTIVATION_LEGEND, f"The model has no attention layers; {frame}."]
    bar = np.repeat(np.linspace(0, 1, width - 2 * GAP, dtype=np.float32)[None], LINE, axis=0)
    strip = Image.new("RGB", (width, (len(lines) + 1) * LINE + 2 * GAP), SHEET_COLOUR)
    strip.paste(Image.fromarray(overlay(np.full((*bar.shape, 3), 128, np.uint8), bar, 0.0, 1.0)), (GAP, 0))
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        _write(draw, line, (GAP, GAP + (number + 1.5) * LINE), width - 2 * GAP)
    return np.array(strip)


def _write(draw: ImageDraw.ImageDraw, text: str, place: tuple[float, float], width: int) -> None:
    """A line of text from the left, its middle at `place`, smaller if it would be wider than `width`."""
    text, font, _ = fit_text(text, TEXT, width)
    draw.text(place, text, fill=INK, font=font, anchor="lm")
