"""Validation images worth looking at: the best, the worst, the most confused, each with its truth beside what was found."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image, ImageDraw

from detector.evaluation.matching import ImageMatch
from detector.images.draw import GRID_COLOR, draw_boxes, fit_text
from detector.images.grids import LEGEND_CLASSES, fitted
from detector.structures import Categories

CELL = 560  # pixels, the longer side of an image as drawn
GAP = 8
HEADING = 30  # pixels


def choose(matches: Sequence[ImageMatch], limit: int) -> dict[str, list[ImageMatch]]:
    """Choose at most `limit` images of each kind, those that show it most first; an image is of one kind only.

    worst: lowest `ImageMatch.quality`; confused: highest `ImageMatch.confusion` of the rest; best: highest quality of the rest
    that have an object.
    """
    left = sorted(matches, key=lambda o: o.quality())
    count = min(limit, -(-len(left) // 3))
    worst = [o for o in left if o.quality() < 1][:count]
    left = [o for o in left if o not in worst]
    confused = sorted((o for o in left if o.confusion() > 0), key=lambda o: -o.confusion())[:count]
    left = [o for o in left if o not in confused]
    best = [o for o in reversed(left) if len(o.image.truth_boxes) > 0 and o.right.any()][:count]
    return {"best": best, "worst": worst, "confused": confused}


def draw_match(
    image: UInt8[np.ndarray, "height width 3"], match: ImageMatch, categories: Categories
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """The truth on the left, what was found on the right."""
    return side_by_side(
        ("truth", draw_truth(image, match, categories)), ("found", draw_found(image, match, categories))
    )


def draw_truth(
    image: UInt8[np.ndarray, "height width 3"], match: ImageMatch, categories: Categories, side: int = CELL
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """The objects; what was missed has a chip. side: pixels of the longer side as drawn."""
    large, factor = fitted(image, side)
    boxes, objects = match.image, ~match.image.crowd
    return draw_boxes(
        large,
        corners(boxes.truth_boxes[objects] * factor),
        boxes.truth_labels[objects].tolist(),
        [
            join_text(name_in_image(label, categories), "missed" if missed else "")
            for label, missed in zip(boxes.truth_labels[objects].tolist(), match.missed[objects], strict=True)
        ],
    )


def draw_found(
    image: UInt8[np.ndarray, "height width 3"], match: ImageMatch, categories: Categories, side: int = CELL
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """The detections with their scores; wrong ones say how. side: pixels of the longer side as drawn."""
    large, factor = fitted(image, side)
    boxes = match.image
    faults = np.where(match.wrong_class, "wrong class", np.where(match.duplicate, "twice", ""))
    faults = np.where(match.background, "no label", faults)
    return draw_boxes(
        large,
        corners(boxes.boxes * factor),
        boxes.labels.tolist(),
        [
            join_text(name_in_image(label, categories), f"{score:.2f}", str(fault))
            for label, score, fault in zip(boxes.labels.tolist(), boxes.scores, faults, strict=True)
        ],
    )


def name_in_image(label: int, categories: Categories) -> str:
    """The name of a label, empty where a legend has them all."""
    return categories.names[label] if len(categories) > LEGEND_CLASSES else ""


def join_text(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def corners(xywh: Float64[np.ndarray, "n 4"]) -> list[list[float]]:
    """x, y, width, height as xyxy."""
    boxes: list[list[float]] = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).tolist()
    return boxes


def side_by_side(
    *panels: tuple[str, UInt8[np.ndarray, "height width 3"]],
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """RGB images of one size, each with a heading."""
    height, width = panels[0][1].shape[:2]
    step = width + GAP
    plot = Image.new("RGB", (len(panels) * step - GAP, height + HEADING), GRID_COLOR)
    draw = ImageDraw.Draw(plot)
    for place, (heading, image) in enumerate(panels):
        text, font, _ = fit_text(heading, 20, width)
        draw.text((place * step + 2, HEADING / 2), text, fill=(20, 20, 20), font=font, anchor="lm")
        plot.paste(Image.fromarray(image), (place * step, HEADING))
    return np.array(plot)
