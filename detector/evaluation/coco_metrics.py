"""The 12 COCO figures and the AP of each category, computed by pycocotools in pixels of the original pictures."""

import contextlib
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import faster_coco_eval
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

METRICS = (
    "AP",
    "AP50",
    "AP75",
    "APsmall",
    "APmedium",
    "APlarge",
    "AR1",
    "AR10",
    "AR100",
    "ARsmall",
    "ARmedium",
    "ARlarge",
)


def ground_truth(annotations: Path) -> dict[str, Any]:
    """The annotation file as COCOeval wants it: `iscrowd`, `area` and `info` filled in, annotations numbered from 1.

    The numbering matters: COCOeval takes an annotation with id 0 for one that was not found, and keeps only one of two
    with the same id.
    """
    content: dict[str, Any] = json.loads(annotations.read_bytes())
    entries = [
        {
            "id": number,
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "bbox": a["bbox"],
            "area": a["area"] if isinstance(a.get("area"), int | float) else a["bbox"][2] * a["bbox"][3],
            "iscrowd": a.get("iscrowd", 0),
        }
        for number, a in enumerate(content["annotations"], start=1)
    ]
    images = [{"id": i["id"], "width": i["width"], "height": i["height"]} for i in content["images"]]
    return {"info": {}, "images": images, "annotations": entries, "categories": content["categories"]}


def coco_metrics(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    image_ids: Sequence[int] | None = None,
    reference: bool = True,
) -> dict[str, Any]:
    """`METRICS`, and `per_category`: name -> {AP, AP50}. None where the ground truth has no object to find.

    truth: what `ground_truth` returns; results: entries of the COCO results format; image_ids: the pictures that count,
    all if None. `reference` takes pycocotools, else faster-coco-eval, which computes the same figures sooner.
    """
    loader, evaluator = (COCO, COCOeval) if reference else (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = loader()
        coco.dataset = {**truth, "annotations": [dict(entry) for entry in truth["annotations"]]}  # both write into them
        coco.createIndex()
        found = coco.loadRes([dict(entry) for entry in results]) if results else empty_results(loader, truth)
        scores = evaluator(coco, found, "bbox")
        if image_ids is not None:
            scores.params.imgIds = sorted(image_ids)
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
    metrics: dict[str, Any] = {name: figure(value) for name, value in zip(METRICS, scores.stats, strict=False)}
    precision = scores.eval["precision"]  # IoU thresholds x recalls x categories x areas x detections a picture
    names = category_names(truth["categories"])
    metrics["per_category"] = {
        names[category_id]: {
            "AP": figure(mean_precision(precision[:, :, k, 0, -1])),
            "AP50": figure(mean_precision(precision[0, :, k, 0, -1])),
        }
        for k, category_id in enumerate(scores.params.catIds)
    }
    return metrics


def category_names(categories: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Category id -> name; where two share a name, the id is added to it."""
    often = Counter(category["name"] for category in categories)
    return {
        category["id"]: category["name"]
        if often[category["name"]] == 1
        else f"{category['name']} (id {category['id']})"
        for category in categories
    }


def empty_results(loader: type, truth: Mapping[str, Any]) -> Any:
    """Results without an entry, which `loadRes` can't make."""
    empty = loader()
    empty.dataset = {"info": {}, "images": truth["images"], "annotations": [], "categories": truth["categories"]}
    empty.createIndex()
    return empty


def mean_precision(precision: np.ndarray) -> float:
    """Mean over what there is; -1 marks what there is not."""
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else -1.0


def figure(value: float) -> float | None:
    """COCOeval's -1 as None."""
    return None if value < 0 or math.isnan(value) else float(value)
