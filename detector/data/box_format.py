"""Boxes that are well-formed but of another format than x, y, width, height in pixels, which no error shows later."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float64, Int64

from detector.errors import DataError

FEWEST_BOXES = 3
NEARLY_ALL = 0.98
MISREAD = 0.05
"""Fraction of boxes that reach out of their image when corners or centers are read as x, y: 0.15 to 0.8 for usual objects,
less for tiny ones, which stay unnoticed; 0 for boxes of the right format."""
SLACK = 0.01  # of the image's side
FRACTIONS = "fractions of the image"

Boxes: TypeAlias = Float64[np.ndarray, "boxes 4"]


class Format(NamedTuple):
    """What boxes are, what to do about it, and what does it: boxes to x, y, width, height; None where several readings fit."""

    name: str
    remedy: str
    convert: Callable[[Boxes], Boxes] | None


def require_pixels_xywh(xywh: Boxes, sizes: Int64[np.ndarray, "boxes 2"], path: Path) -> None:
    """Raise DataError naming `path` and the remedy where nearly all boxes must be fractions, corners or centers.

    sizes: (width, height) in pixels of the image of each box. Boxes without area tell nothing.
    """
    some = (xywh[:, 2:] > 0).all(axis=1)
    if np.count_nonzero(some) < FEWEST_BOXES:
        return
    boxes, sizes = xywh[some], sizes[some]
    formats, remedies = [], []
    if nearly_all(are_fractions(boxes, sizes)):
        formats.append(FRACTIONS)
        remedies.append("multiply them by its width and height")
        sizes = np.ones_like(sizes)
    if (other := other_format(boxes, sizes)) is not None:
        formats.append(other.name)
        remedies.append(other.remedy)
    if formats:
        raise DataError(
            f"{path}: annotations[].bbox must be x, y, width, height in pixels, but nearly all boxes are"
            f" {' and '.join(formats)}: {', then '.join(remedies)}"
        )


def are_fractions(boxes: Boxes, sizes: Int64[np.ndarray, "boxes 2"]) -> Bool[np.ndarray, " boxes"]:
    """Which boxes must be fractions of their image, in whatever format."""
    conditions = boxes >= 0, boxes[:, 2:] <= 1, boxes[:, :2] + boxes[:, 2:] <= 2, sizes > 2
    return np.asarray(np.column_stack(conditions).all(axis=1))


def other_format(boxes: Boxes, sizes: Int64[np.ndarray, "boxes 2"]) -> Format | None:
    """Corners or centers, if nearly all boxes are within their image then, and some not as x, y, width, height."""
    first, second, rim = boxes[:, :2], boxes[:, 2:], sizes * SLACK
    if (first + second > sizes + rim).any(axis=1).mean() < MISREAD:
        return None
    ordered, rim_yx, sizes_yx = second > first, rim[:, ::-1], sizes[:, ::-1]
    xy = nearly_all(ordered, first >= -rim, second <= sizes + rim)
    yx = nearly_all(ordered, first >= -rim_yx, second <= sizes_yx + rim_yx)
    if xy or yx:
        orders = ["x1, y1, x2, y2"] * xy + ["y1, x1, y2, x2"] * yx
        convert = None if xy and yx else from_corners if xy else _from_corners_yx
        return Format(f"corners {' or '.join(orders)}", "write x1, y1, x2 - x1, y2 - y1", convert)
    if nearly_all(first - second / 2 >= -rim, first + second / 2 <= sizes + rim):
        return Format("center x, center y, width, height", "take half of width and height off x and y", from_center)
    return None


def from_corners(boxes: Boxes) -> Boxes:
    """x1, y1, x2, y2 as x, y, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _from_corners_yx(boxes: Boxes) -> Boxes:
    return from_corners(boxes[:, [1, 0, 3, 2]])


def from_center(boxes: Boxes) -> Boxes:
    """Center x, center y, width, height as x, y, width, height."""
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)


def nearly_all(*conditions: Bool[np.ndarray, "boxes *_"]) -> bool:
    """Whether all conditions hold for nearly all boxes."""
    return bool(np.column_stack(conditions).all(axis=1).mean() >= NEARLY_ALL)


def require_fractions_from_center(boxes: Boxes, path: Path) -> None:
    """Raise DataError naming `path` where nearly all boxes can't be center x, center y, width, height, but corners or x, y of
    the upper left corner with width, height. boxes: in fractions of their image."""
    boxes = boxes[(boxes[:, 2:] > 0).all(axis=1)]
    first, second = boxes[:, :2], boxes[:, 2:]
    outside = (first - second / 2 < -SLACK) | (first + second / 2 > 1 + SLACK)
    if len(boxes) < FEWEST_BOXES or outside.any(axis=1).mean() < MISREAD:
        return
    if nearly_all(second > first):
        found = "the corners x1, y1, x2, y2: write (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1"
    elif nearly_all(first + second <= 1 + SLACK):
        found = "x, y of the upper left corner, width, height: add half of width and height to x and y"
    else:
        return
    raise DataError(f"{path}: labels must be center x, center y, width, height, but nearly all boxes are {found}")
