"""What formats without ids, areas and further keys can't hold, counted."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from detector.data.coco import ROUNDING
from detector.data.conversion.content import LabeledImage, LabeledObject, Output, Report

IMAGE_KEYS = {"id", "file_name", "width", "height"}
OBJECT_KEYS = {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"}


def count_losses(
    outputs: Iterable[Output], categories: list[dict[str, Any]], kept: set[str], first_id: int, report: Report
) -> None:
    """categories: in the order in which they are read again, with ids from `first_id` on; kept: the further keys of
    annotations that the format has."""
    own = False
    for output in outputs:
        own |= output.ids
        report.lost["image ids, numbered anew when read"] += output.ids * len(output.images)
        _count_keys("COCO files", output.header, set(), report)
        for image in output.images:
            _count_keys("images", image.fields, IMAGE_KEYS, report)
            report.lost["annotation ids, numbered anew when read"] += output.ids * len(image.objects)
            for each in image.objects:
                _count_object(each, kept, report)
    ids = [entry["id"] for entry in categories]
    if own and ids != list(range(first_id, first_id + len(ids))):
        report.lost["category ids, numbered anew when read"] += len(ids)
    for entry in categories:
        _count_keys("categories", entry, {"id", "name"}, report)


def _count_object(each: LabeledObject, kept: set[str], report: Report) -> None:
    width, height = each.fields["bbox"][2:]
    report.lost["masks (segmentation)"] += bool(each.fields.get("segmentation"))
    same = math.isclose(each.fields["area"], width * height, rel_tol=1e-3, abs_tol=0.01)
    report.lost["areas other than their box's"] += not same
    _count_keys("annotations", each.fields, OBJECT_KEYS | kept, report)


def _count_keys(where: str, fields: Mapping[str, Any], known: set[str], report: Report) -> None:
    for key in fields:  # in their order, which a difference of sets has not
        report.lost[f"the key {key!r} of {where}"] += key not in known


def corners_inside(
    image: LabeledImage, each: LabeledObject, report: Report
) -> tuple[float, float, float, float] | None:
    """The box as x1, y1, x2, y2 in pixels, cut at the edges of its image; None if nothing is left of it. Both are counted."""
    x, y, width, height = each.fields["bbox"]
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + width, image.size[0]), min(y + height, image.size[1])
    if x2 <= x1 or y2 <= y1:
        report.lost["boxes without area in their image, not written"] += 1
        return None
    cut = max(x1 - x, y1 - y, x + width - x2, y + height - y2)
    report.lost["boxes that reach out of their image, cut at its edge"] += cut > ROUNDING
    return x1, y1, x2, y2


def decimal(value: float, places: int) -> str:
    """A number without an exponent and without zeros at its end."""
    return f"{value:.{places}f}".rstrip("0").rstrip(".")
