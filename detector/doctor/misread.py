"""Boxes of another format than x, y, width, height in pixels, in all images or in some, and how to convert them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from detector.data.box_format import FEWEST_BOXES, FRACTIONS, SLACK, are_fractions, from_corners, other_format
from detector.doctor.columns import Columns, Convert

FAR_OUT = 0.05
"""Part of the image's side by which a box of one image's corners must reach out when they are read as x, y, width, height."""


@dataclass(frozen=True, eq=False)
class Misread:
    """Annotations whose boxes are of another format: which, what they are, what to do, and what does it.

    convert: boxes and sizes of their images, both for the annotations of `rows`, to x, y, width, height in pixels; None where
    several readings fit.
    """

    code: str
    what: str
    remedy: str
    rows: Bool[np.ndarray, " annotations"]
    convert: Convert | None


def misread_boxes(columns: Columns) -> list[Misread]:
    """Fractions, and corners or centers, if there are any."""
    sizes = columns.box_sizes
    usable = (columns.xywh[:, 2:] > 0).all(axis=1) & np.isfinite(columns.xywh).all(axis=1) & (sizes > 0).all(axis=1)
    fractions = _in_whole_images(columns, usable, usable & are_fractions(columns.xywh, sizes))
    others = usable & ~fractions
    found = []
    if fractions.any():
        found.append(_fractions(columns, fractions))
    if np.count_nonzero(others) < FEWEST_BOXES:
        return found
    if (other := other_format(columns.xywh[others], sizes[others])) is not None:
        convert = other.convert
        pixels = None if convert is None else lambda boxes, _: convert(boxes)
        found.append(Misread("box-format", other.name, other.remedy, others, pixels))
    elif (corners := _corners_of_some(columns, others)).any():
        what, remedy = "corners x1, y1, x2, y2, in some images", "write x1, y1, x2 - x1, y2 - y1 there"
        found.append(Misread("box-format", what, remedy, corners, lambda boxes, _: from_corners(boxes)))
    return found


def with_pixels(columns: Columns) -> Columns:
    """The split with its misread boxes converted, or without a box where several readings fit."""
    for misread in misread_boxes(columns):
        columns = columns.converted(misread.rows, misread.convert or (lambda boxes, _: np.full_like(boxes, np.nan)))
    return columns


def _fractions(columns: Columns, rows: Bool[np.ndarray, " annotations"]) -> Misread:
    """What fractions in these rows are of, and how they become pixels."""
    boxes = columns.xywh[rows]
    other = other_format(boxes, np.ones((len(boxes), 2), np.int64))
    remedy = "multiply them by width and height of the image"
    if other is None:
        return Misread("box-fractions", FRACTIONS, remedy, rows, lambda boxes, sizes: boxes * np.tile(sizes, 2))
    what, remedy, convert = f"{FRACTIONS} and {other.name}", f"{remedy}, then {other.remedy}", other.convert
    if convert is None:
        return Misread("box-fractions", what, remedy, rows, None)
    return Misread("box-fractions", what, remedy, rows, lambda boxes, sizes: convert(boxes) * np.tile(sizes, 2))


def _in_whole_images(
    columns: Columns, usable: Bool[np.ndarray, " annotations"], like: Bool[np.ndarray, " annotations"]
) -> Bool[np.ndarray, " annotations"]:
    """The rows of `like` in images in which all usable boxes are so."""
    images = len(columns.names)
    of_all, of_like = (np.bincount(columns.image_of[rows], minlength=images) for rows in (usable, like))
    return np.asarray(like & (of_all == of_like)[columns.image_of])


def _corners_of_some(columns: Columns, usable: Bool[np.ndarray, " annotations"]) -> Bool[np.ndarray, " annotations"]:
    """The boxes of images in which all may be corners, and some reach far out as x, y, width, height.

    None, if such boxes are few, or most of those that reach far out can't be corners.
    """
    first, second, sizes = columns.xywh[:, :2], columns.xywh[:, 2:], columns.box_sizes
    with np.errstate(invalid="ignore"):
        far_out = usable & (first + second > sizes * (1 + FAR_OUT)).any(axis=1)
        possible = ((second > first) & (first >= 0) & (second <= sizes * (1 + SLACK))).all(axis=1)
    possible = _in_whole_images(columns, usable, usable & possible)
    out = np.bincount(columns.image_of[possible & far_out], minlength=len(columns.names)) > 0
    corners: Bool[np.ndarray, " annotations"] = possible & out[columns.image_of]
    explained = np.count_nonzero(corners & far_out)
    enough = explained >= FEWEST_BOXES and 2 * explained >= np.count_nonzero(far_out)
    return corners if enough else np.zeros_like(corners)
