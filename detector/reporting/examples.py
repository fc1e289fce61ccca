"""Validation pictures worth looking at: the best, the worst, the most confused, each with its truth beside what was found."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image, ImageDraw

from detector.evaluation.matching import Outcome
from detector.inference.draw import SHEET_COLOUR, draw_boxes, fit_text
from detector.inference.sheets import LEGEND_CLASSES, fitted
from detector.structures import Categories

CELL = 560  # pixels, the longer side of a picture as drawn
GAP = 8
HEADING = 30  # pixels


def choose(outcomes: Sequence[Outcome], most: int) -> dict[str, list[Outcome]]:
    """At most `most` pictures of each kind, those that show it most first; a picture is of one kind only.

    worst: lowest `Outcome.quality`; confused: highest `Outcome.confusion` of the rest; best: highest quality of the rest
    that have an object.
    """
    left = sorted(outcomes, key=lambda o: o.quality())
    share = min(most, -(-len(left) // 3))
    worst = [o for o in left if o.quality() < 1][:share]
    left = [o for o in left if o not in worst]
    confused = sorted((o for o in left if o.confusion() > 0), key=lambda o: -o.confusion())[:share]
    left = [o for o in left if o not in confused]
    best = [o for o in reversed(left) if len(o.picture.truth_boxes) > 0 and o.right.any()][:share]
    return {"best": best, "worst": worst, "confused": confused}


def draw_outcome(
    picture: UInt8[np.ndarray, "height width 3"], outcome: Outcome, categories: Categories
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """The truth on the left (what was missed has a chip), what was found on the right (wrong ones say how)."""
    large, factor = fitted(picture, CELL)
    named = len(categories) > LEGEND_CLASSES
    boxes, objects = outcome.picture, ~outcome.picture.crowd
    truth = draw_boxes(
        large,
        corners(boxes.truth_boxes[objects] * factor),
        boxes.truth_labels[objects].tolist(),
        [
            joined(categories.names[label] if named else "", "missed" if missed else "")
            for label, missed in zip(boxes.truth_labels[objects], outcome.missed[objects], strict=True)
        ],
    )
    faults = np.where(outcome.wrong_class, "wrong class", np.where(outcome.duplicate, "twice", ""))
    faults = np.where(outcome.background, "no label", faults)
    found = draw_boxes(
        large,
        corners(boxes.boxes * factor),
        boxes.labels.tolist(),
        [
            joined(categories.names[label] if named else "", f"{score:.2f}", str(fault))
            for label, score, fault in zip(boxes.labels, boxes.scores, faults, strict=True)
        ],
    )
    return side_by_side(("truth", truth), ("found", found))


def joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def corners(xywh: Float64[np.ndarray, "n 4"]) -> list[list[float]]:
    """x, y, width, height as xyxy."""
    boxes: list[list[float]] = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).tolist()
    return boxes


def side_by_side(
    left: tuple[str, UInt8[np.ndarray, "height width 3"]], right: tuple[str, UInt8[np.ndarray, "height width 3"]]
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """Two RGB pictures of one size, each with a heading."""
    height, width = left[1].shape[:2]
    sheet = Image.new("RGB", (2 * width + GAP, height + HEADING), SHEET_COLOUR)
    draw = ImageDraw.Draw(sheet)
    for x, (heading, picture) in ((0, left), (width + GAP, right)):
        text, font, _ = fit_text(heading, 20, width)
        draw.text((x + 2, HEADING / 2), text, fill=(20, 20, 20), font=font, anchor="lm")
        sheet.paste(Image.fromarray(picture), (x, HEADING))
    return np.array(sheet)
