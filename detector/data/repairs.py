"""Upright boxes of annotations that have a polygon or an angle in place of one."""

from typing import Any, TypeGuard

import numpy as np
from jaxtyping import Float64, Int64

from detector.data.box_format import NEARLY_ALL, SLACK, from_center

LARGEST_NUMBER = 2**63 - 1


def is_box(value: Any, numbers: int = 4) -> bool:
    """Whether this is a list of so many numbers, each finite."""
    return type(value) is list and len(value) == numbers and all(map(_is_number, value))


def polygon_area(segmentation: Any, of_box: float) -> float:
    """The area of the polygons, at most that of the box; that of the box if they are none, or run-length encoded."""
    try:
        rings = [np.array(ring, np.float64).reshape(-1, 2) for ring in segmentation]
    except (TypeError, ValueError, OverflowError):
        return of_box
    with np.errstate(all="ignore"):
        area = sum(abs(np.sum(x * np.roll(y, 1) - y * np.roll(x, 1))) / 2 for x, y in (ring.T for ring in rings))
    return min(float(area), of_box) if area > 0 else of_box


def polygon_box(segmentation: Any) -> list[float] | None:
    """x, y, width, height of the upright box around the polygons, lists of x, y, x, y, …; None if they are none."""
    if type(segmentation) is not list or not all(type(ring) is list and len(ring) % 2 == 0 for ring in segmentation):
        return None
    numbers = [number for ring in segmentation for number in ring]
    if len(numbers) < 6 or not all(map(_is_number, numbers)):
        return None
    x, y = numbers[::2], numbers[1::2]
    return [min(x), min(y), max(x) - min(x), max(y) - min(y)]


def rotation(annotation: dict[str, Any]) -> float:
    """Degrees, 0 to 360, by which CVAT turns the box about its center; 0 beside a polygon, around which the box is upright."""
    attributes = annotation.get("attributes")
    if type(attributes) is not dict or annotation.get("segmentation") or not is_box(annotation.get("bbox")):
        return 0.0
    degrees = attributes.get("rotation")
    return float(degrees % 360) if _is_number(degrees) else 0.0


def around_turned(
    boxes: Float64[np.ndarray, "boxes 4"], degrees: Float64[np.ndarray, " boxes"]
) -> Float64[np.ndarray, "boxes 4"]:
    """The upright boxes around boxes x, y, width, height that are turned about their centers, either way round."""
    angles = np.radians(degrees)
    cos, sin = np.abs(np.cos(angles)), np.abs(np.sin(angles))
    width, height = boxes[:, 2], boxes[:, 3]
    sides = np.stack([width * cos + height * sin, width * sin + height * cos], axis=1)
    return np.concatenate([boxes[:, :2] + (boxes[:, 2:] - sides) / 2, sides], axis=1)


def readings_of_turned(
    rows: Float64[np.ndarray, "boxes 5"], sizes: Int64[np.ndarray, "boxes 2"]
) -> dict[str, Float64[np.ndarray, "boxes 4"]]:
    """What boxes of five numbers may mean: the upright boxes around them for each convention in which nearly all are
    in their image.

    sizes: (width, height) in pixels of the image of each box. The first two numbers are the corner of the box before it is
    turned (NVIDIA's odtk) or its center (detectron2), the angle is in radians (the former) or degrees (the latter).
    """
    boxes, angles = rows[:, :4], rows[:, 4]
    readings = {
        f"{place}, angle in {unit}": around_turned(upright, angles * factor)
        for place, upright in (("x, y of the corner", boxes), ("x, y of the center", from_center(boxes)))
        for unit, factor, largest in (("degrees", 1.0, 360.0), ("radians", 180 / np.pi, 2 * np.pi))
        if np.abs(angles).max() <= largest
    }
    return {convention: upright for convention, upright in readings.items() if _fit(upright, sizes)}


def _fit(xywh: Float64[np.ndarray, "boxes 4"], sizes: Int64[np.ndarray, "boxes 2"]) -> bool:
    rim = sizes * SLACK
    inside = (xywh[:, :2] >= -rim) & (xywh[:, :2] + xywh[:, 2:] <= sizes + rim)
    return bool(inside.all(axis=1).mean() >= NEARLY_ALL)


def grouping_category(categories: list[dict[str, Any]]) -> int | None:
    """The index of the entry that is the supercategory of all others, as Roboflow adds one; None if there is none."""
    above = [entry.get("supercategory") for entry in categories]
    for index, entry in enumerate(categories):
        if len(above) > 1 and entry.get("name") in above[:2]:
            others = above[:index] + above[index + 1 :]
            if all(name == entry["name"] for name in others):
                return index
    return None


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and abs(value) <= LARGEST_NUMBER  # nor NaN
