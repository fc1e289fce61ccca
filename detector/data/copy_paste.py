"""Copy-paste: objects of one training image pasted into another.

Source: Ghiasi et al., Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation, 2021, section 3, without
blending; here also of objects that have no polygon, with what their box shows of the background.
"""

from collections.abc import Iterable
from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from detector.data.drawing import Composition
from detector.data.outlines import Outlines

PASTED = 0.5
"""Probability of each object of the other image."""
MAX_SHARED = 0.3
"""Not pasted is an object that would hide more than this fraction of a box, or bring as much along of another one's."""
FAR = 2.0**14
"""Pixels: an outline with a point so far away reaches behind the camera of a strong perspective."""


def copy_paste(first: Composition, other: Composition, rng: np.random.Generator) -> Composition:
    """`first` with about half of the objects of `other`, an image of the same size with outlines, each in its place there."""
    assert other.outlines is not None
    covered = np.zeros(first.drawing.size, np.bool_)
    boxes, labels = list(first.boxes), list(first.labels)
    for index in np.flatnonzero(rng.random(len(other.boxes)) < PASTED):
        box, outline = other.boxes[index], other.outlines.chosen(np.array([index]))
        if np.abs(outline.points).max() > FAR:
            continue
        left, top, right, bottom = np.round(box).astype(np.int64).tolist()
        inside = filled(outline, (left, top), (right - left, bottom - top))
        brought = np.concatenate([np.delete(other.boxes, index, axis=0), other.crowd_boxes])
        if any(part > MAX_SHARED for part in shared(inside, (left, top), [*boxes, *brought])):
            continue
        covered[top:bottom, left:right] |= inside.astype(np.bool_)
        boxes.append(box)
        labels.append(other.labels[index])
    return Composition(
        replace(first.drawing, layers=first.drawing.under(other.drawing, ~covered)),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        first.crowd_boxes,
    )


def filled(outline: Outlines, corner: tuple[int, int], size: tuple[int, int]) -> UInt8[np.ndarray, "height width"]:
    """1 inside the polygons, in a window of `size` (width, height) whose left upper corner is `corner`, in pixels."""
    mask = np.zeros(size[::-1], np.uint8)
    points: Int64[np.ndarray, "points 2"] = np.round(outline.points - 0.5 - corner).astype(np.int64)
    for ring in np.split(points, np.flatnonzero(np.diff(outline.polygons)) + 1):
        cv2.fillPoly(mask, [ring.astype(np.int32)], 1)
    return mask


def shared(
    inside: UInt8[np.ndarray, "height width"], corner: tuple[int, int], boxes: Iterable[Float32[np.ndarray, "4"]]
) -> Iterable[float]:
    """Of each box, xyxy, the fraction that lies inside the mask, whose left upper corner is `corner`."""
    for box in boxes:
        left, top, right, bottom = np.round(box).astype(np.int64).tolist()
        part = inside[
            max(top - corner[1], 0) : max(bottom - corner[1], 0), max(left - corner[0], 0) : max(right - corner[0], 0)
        ]
        yield int(part.sum(dtype=np.int64)) / max((right - left) * (bottom - top), 1)
