"""Outlines of objects: their polygons where they are annotated, else their boxes. They give tight boxes after a rotation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from detector.data.repairs import polygon_box

AGREES = 2.0
"""Pixels: a polygon counts if none of its sides is farther from that of the object's box."""


@dataclass(frozen=True, eq=False)
class Outlines:
    """Closed polygons around objects, each object with one at least.

    points: (p, 2) float32 xy pixels, in the frame of the boxes; owners: (p,) the object of each; polygons: (p,) the number of its
    polygon, whose points follow each other.
    """

    points: Float32[np.ndarray, "points 2"]
    owners: Int64[np.ndarray, " points"]
    polygons: Int64[np.ndarray, " points"]

    @classmethod
    def of_boxes(cls, boxes: Float32[np.ndarray, "n 4"]) -> "Outlines":
        """The corners of boxes, xyxy, in the order left top, right top, right bottom, left bottom."""
        owners = np.repeat(np.arange(len(boxes)), 4)
        return cls(boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2), owners, owners)

    @classmethod
    def of_rings(cls, points: Float32[np.ndarray, "points 2"], rings: Int64[np.ndarray, "rings 2"]) -> "Outlines":
        """rings: the object of each polygon and the number of its points."""
        numbers = np.repeat(np.arange(len(rings)), rings[:, 1])
        return cls(points, rings[numbers, 0], numbers)

    def chosen(self, objects: Int64[np.ndarray, " chosen"]) -> "Outlines":
        """Those of some objects, which are numbered anew in that order."""
        new = np.full(max(self.owners.max(initial=-1), objects.max(initial=-1)) + 1, -1)
        new[objects] = np.arange(len(objects))
        owners = new[self.owners]
        kept = owners >= 0
        return Outlines(self.points[kept], owners[kept], self.polygons[kept])

    def without(self, objects: Int64[np.ndarray, " some"]) -> "Outlines":
        """Without those of some objects; the others keep their numbers."""
        kept = ~np.isin(self.owners, objects)
        return Outlines(self.points[kept], self.owners[kept], self.polygons[kept])

    def with_boxes(self, objects: Int64[np.ndarray, " bare"], boxes: Float32[np.ndarray, "bare 4"]) -> "Outlines":
        """With those boxes, xyxy, for objects that have no polygon here."""
        corners = Outlines.of_boxes(boxes)
        return joined([self, Outlines(corners.points, objects[corners.owners], corners.polygons)], [0, 0])

    def mapped(self, matrix: Float64[np.ndarray, "3 3"]) -> "Outlines":
        """After a homography; what lies behind the camera gets extremely far away."""
        return Outlines(project(self.points, matrix).astype(np.float32), self.owners, self.polygons)

    def followers(self) -> Int64[np.ndarray, " points"]:
        """For each point the place of the next one of its polygon."""
        count = len(self.points)
        first = np.flatnonzero(np.diff(self.polygons, prepend=-1))
        last = np.append(first[1:], count)[: len(first)] - 1
        following = np.arange(1, count + 1)
        following[last] = first
        return following


def joined(parts: Sequence[Outlines], objects: Sequence[int]) -> Outlines:
    """Outlines together; `objects`: how many objects each part has, by which those of the next ones are numbered on."""
    ends = np.cumsum([0, *(int(part.polygons.max(initial=-1)) + 1 for part in parts)])
    firsts = np.cumsum([0, *objects])
    return Outlines(
        np.concatenate([part.points for part in parts]),
        np.concatenate([part.owners + first for part, first in zip(parts, firsts, strict=False)]),
        np.concatenate([part.polygons + end for part, end in zip(parts, ends, strict=False)]),
    )


def project(
    points: Float[np.ndarray, "points 2"], matrix: Float64[np.ndarray, "3 3"]
) -> Float64[np.ndarray, "points 2"]:
    """Points after a homography; those behind the camera get extremely far away."""
    moved = points.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return np.asarray(moved[:, :2] / moved[:, 2:].clip(min=1e-9))


def polygons_of(segmentation: Any, box: Float32[np.ndarray, "4"]) -> list[Float32[np.ndarray, "points 2"]]:
    """The polygons of a COCO annotation that has some, around the object's `box` (xyxy pixels); else none."""
    around = polygon_box(segmentation)
    if around is None:
        return []
    corners = np.array([*around[:2], around[0] + around[2], around[1] + around[3]])
    if np.abs(corners - box).max() > AGREES:
        return []
    rings = [np.array(ring, np.float32).reshape(-1, 2) for ring in segmentation if len(ring) >= 6]
    return [ring.clip(box[:2], box[2:]) for ring in rings]
