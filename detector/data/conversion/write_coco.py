"""Writes COCO annotations: annotations/instances_SPLIT.json, and the images in SPLIT/."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detector.data.conversion.content import Output, Report
from detector.data.conversion.names import Names
from detector.data.conversion.place import Place
from detector.data.layouts import Split
from detector.utils.fileio import writing


def write_coco(
    root: Path, splits: Mapping[Split, Output], categories: list[dict[str, Any]], place: Place, report: Report
) -> None:
    """Ids stay what they are where no two are equal in a split; else they are numbered from 1. All further keys stay."""
    id_of = {entry["name"]: entry["id"] for entry in categories}
    for split, output in splits.items():
        names = Names(by_stem=False, report=report)
        image_ids = _ids([image.fields["id"] for image in output.images], f"image ids ({split})", report)
        given = [each.fields.get("id") for image in output.images for each in image.objects]
        ids = iter(_ids(given, f"annotation ids ({split})", report))
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image, image_id in zip(output.images, image_ids, strict=True):
            name = names.free(image.name)
            place(image.path, root / split / name)
            report.count(split, len(image.objects))
            images.append({**image.fields, "id": image_id, "file_name": name})
            for each in image.objects:
                fields = {"id": next(ids), "image_id": image_id, "category_id": id_of[each.name]}
                annotations.append({**each.fields, **fields})
        content = {**output.header, "images": images, "annotations": annotations, "categories": categories}
        file = root / "annotations" / f"instances_{split}.json"
        with writing(file):
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(content), encoding="utf-8")


def _ids(given: list[Any], what: str, report: Report) -> list[Any]:
    """The ids, or 1, 2, … if one is missing or appears twice."""
    if all(isinstance(each, int | str) for each in given) and len(set(given)) == len(given):
        return given
    report.lost[f"{what}, of which some are equal or missing, numbered from 1"] += len(given)
    return list(range(1, len(given) + 1))
