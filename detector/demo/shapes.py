"""The things that the demo draws, as tables.

Shapes are given in their own unit square (x right, y down, both -0.5..0.5), as polygons painted one over the other.
"""

from collections.abc import Sequence
from math import cos, pi, sin

import numpy as np

Points = Sequence[tuple[float, float]]
Part = tuple[str, Points]  # role of its color ("main", "second" or a fixed one) and its outline


def _oval(x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360) -> Points:
    """Points of an ellipse, or of its arc from `start` to `end` degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, end, 28))
    return [(x + rx * cos(angle), y + ry * sin(angle)) for angle in angles]


def _rectangle(left: float, top: float, right: float, bottom: float) -> Points:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _star(tips: int, inner: float) -> Points:
    """A star of radius 0.5 whose inner corners lie at radius `inner`."""
    radii = [0.5 if corner % 2 == 0 else inner for corner in range(2 * tips)]
    return [(radius * sin(pi * i / tips), -radius * cos(pi * i / tips)) for i, radius in enumerate(radii)]


# each thing's parts, from back to front
BOAT: tuple[Part, ...] = (
    ("wood", _rectangle(-0.03, -0.5, 0.02, 0.25)),
    ("white", [(0.04, -0.46), (0.2, -0.2), (0.42, 0.15), (0.04, 0.15)]),
    ("second", [(-0.05, -0.38), (-0.05, 0.15), (-0.4, 0.15), (-0.2, -0.12)]),
    ("main", [(-0.5, 0.22), (0.5, 0.22), (0.42, 0.36), (0.3, 0.46), (-0.3, 0.46), (-0.42, 0.36)]),
)
BALLOON: tuple[Part, ...] = (
    ("wood", [(-0.11, 0.18), (-0.09, 0.18), (-0.05, 0.4), (-0.07, 0.4)]),
    ("wood", [(0.11, 0.18), (0.09, 0.18), (0.05, 0.4), (0.07, 0.4)]),
    ("main", [*_oval(0, -0.15, 0.36, 0.35, 150, 390), (0.12, 0.24), (-0.12, 0.24)]),
    ("second", [*_oval(0, -0.15, 0.21, 0.35, 150, 390), (0.07, 0.24), (-0.07, 0.24)]),
    ("main", [*_oval(0, -0.15, 0.08, 0.35, 150, 390), (0.03, 0.24), (-0.03, 0.24)]),
    ("wood", [(-0.1, 0.36), (0.1, 0.36), (0.08, 0.5), (-0.08, 0.5)]),
)
FISH: tuple[Part, ...] = (
    ("second", [(0.2, 0.0), (0.5, -0.24), (0.43, 0.0), (0.5, 0.24)]),
    ("second", [(-0.15, -0.18), (0.02, -0.33), (0.2, -0.28), (0.16, -0.1)]),
    ("main", [*_oval(-0.08, 0.1, 0.42, 0.32, 195, 345), *_oval(-0.08, -0.1, 0.42, 0.32, 15, 165)]),
    ("second", [(-0.02, -0.2), (0.07, -0.19), (0.1, 0.0), (0.07, 0.19), (-0.02, 0.2), (0.01, 0.0)]),
    ("second", [(-0.14, 0.02), (-0.02, 0.04), (-0.06, 0.14)]),
    ("white", _oval(-0.29, -0.05, 0.055, 0.055)),
    ("dark", _oval(-0.3, -0.05, 0.025, 0.025)),
)
MUSHROOM: tuple[Part, ...] = (
    ("white", [(-0.12, 0.0), (0.12, 0.0), (0.13, 0.3), (0.2, 0.5), (-0.2, 0.5), (-0.13, 0.3)]),
    ("main", [*_oval(0, 0.06, 0.48, 0.54, 180, 360), *_oval(0, 0.06, 0.48, 0.1, 0, 180)]),
    ("white", _oval(-0.24, -0.1, 0.085, 0.075)),
    ("white", _oval(0.06, -0.27, 0.1, 0.085)),
    ("white", _oval(0.27, -0.04, 0.075, 0.065)),
    ("white", _oval(0.02, 0.0, 0.06, 0.05)),
)
HOUSE: tuple[Part, ...] = (
    ("wood", _rectangle(0.2, -0.46, 0.32, -0.1)),
    ("second", _rectangle(-0.4, -0.08, 0.4, 0.48)),
    ("main", [(-0.5, -0.03), (-0.03, -0.48), (0.03, -0.48), (0.5, -0.03)]),
    ("wood", _rectangle(0.08, 0.12, 0.28, 0.48)),
    ("glass", _rectangle(-0.3, 0.1, -0.06, 0.3)),
)
# category id, name, supercategory, parts; the ids have gaps, as COCO's have
CATEGORIES = (
    (3, "sailing boat", "vehicle", BOAT),
    (7, "balloon", "vehicle", BALLOON),
    (8, "fish", "animal", FISH),
    (21, "mushroom", "plant", MUSHROOM),
    (90, "house", "building", HOUSE),
)
# things of the same style that are no category
DISTRACTORS: tuple[tuple[Part, ...], ...] = (
    (("main", _star(5, 0.21)),),
    (("main", _star(4, 0.16)), ("second", _oval(0, 0, 0.1, 0.1))),
    (("main", _star(12, 0.42)), ("second", _oval(0, 0, 0.2, 0.2))),
    (("main", [*_oval(0, 0, 0.45, 0.45, 50, 310), *_oval(0.14, 0, 0.33, 0.36, 290, 70)]),),
    (("main", _rectangle(-0.5, -0.2, 0.5, 0.2)), ("second", _rectangle(-0.2, -0.2, 0.2, 0.2))),
    (("main", [(0, -0.45), (0.45, 0.4), (-0.45, 0.4)]), ("second", [(0, -0.15), (0.2, 0.25), (-0.2, 0.25)])),
    (("main", _oval(0, 0, 0.45, 0.45)), ("second", _oval(0, 0, 0.28, 0.28))),
)
