"""Boxes that are well-formed but of another format than x, y, width, height in pixels, which no error shows later."""

from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from detector.errors import DataError

FEWEST_BOXES = 3
NEARLY_ALL = 0.98
MISREAD = 0.05
"""Fraction of boxes that reach out of their image when corners or centers are read as x, y: 0.15 to 0.8 for usual objects,
less for tiny ones, which stay unnoticed; 0 for boxes of the right format."""
SLACK = 0.01  # of the image's side


def require_pixels_xywh(xywh: Float64[np.ndarray, "boxes 4"], sizes: Int64[np.ndarray, "boxes 2"], path: Path) -> None:
    """Raise DataError naming `path` and the remedy where nearly all boxes must be fractions, corners or centers.

    sizes: (width, height) in pixels of the image of each box. Boxes without area tell nothing.
    """
    some = (xywh[:, 2:] > 0).all(axis=1)
    if np.count_nonzero(some) < FEWEST_BOXES:
        return
    first, second, side = xywh[some, :2], xywh[some, 2:], sizes[some] * (1 + SLACK)
    slack = sizes[some] * SLACK
    fractions = (first >= 0).all(axis=1) & (first + second <= 2).all(axis=1) & (side > 2).all(axis=1)
    misread = (first + second > side).any(axis=1).mean() >= MISREAD
    corners = (first >= -slack).all(axis=1) & (second > first).all(axis=1) & (second <= side).all(axis=1)
    centers = (first - second / 2 >= -slack).all(axis=1) & (first + second / 2 <= side).all(axis=1)
    for fits, format_, remedy in (
        (fractions & (second <= 1).all(axis=1), "fractions of the image", "multiply them by its width and height"),
        (corners & misread, "corners x1, y1, x2, y2", "write x1, y1, x2 - x1, y2 - y1"),
        (centers & misread, "center x, center y, width, height", "take half of width and height off x and y"),
    ):
        if fits.mean() >= NEARLY_ALL:
            raise DataError(
                f"{path}: annotations[].bbox must be x, y, width, height in pixels, but nearly all boxes are {format_}: {remedy}"
            )
