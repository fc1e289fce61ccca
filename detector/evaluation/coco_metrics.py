"""The 12 COCO metrics and the AP of each category, computed by pycocotools in pixels of the original images."""

import contextlib
import io
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import hotcoco
import numpy as np
from jaxtyping import Float64
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detector.data.coco import CocoDataset
from detector.structures import Categories, Detections

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


def run_cocoeval(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    image_ids: Sequence[int] | None = None,
    reference: bool = True,
    max_dets: int = 100,
) -> Any:
    """The COCOeval after all of its steps; see `coco_metrics`."""
    loader, evaluator = (COCO, COCOeval) if reference else (hotcoco.COCO, hotcoco.COCOeval)
    if image_ids is not None and len(image_ids) == 0:  # which hotcoco takes for all
        truth, results = {**truth, "images": [], "annotations": []}, []
    # without names: they play no part, and hotcoco refuses those that are no UTF-8
    truth = {**truth, "categories": [{"id": each["id"], "name": str(each["id"])} for each in truth["categories"]]}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="hotcoco: max_dets differ")
        coco = loader()
        coco.dataset = {**truth, "annotations": [dict(entry) for entry in truth["annotations"]]}  # both write into them
        coco.createIndex()
        if results:
            found = coco.loadRes([dict(entry) for entry in results] if reference else _rows(results))
        else:
            found = empty_results(loader, truth)
        scores = evaluator(coco, found, "bbox")
        scores.params.maxDets = [1, 10, max_dets]
        if image_ids is not None:
            scores.params.imgIds = sorted(image_ids)
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
    return scores


def coco_metrics(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    image_ids: Sequence[int] | None = None,
    names: Mapping[int, str] | None = None,
    reference: bool = True,
    max_dets: int = 100,
) -> dict[str, Any]:
    """`METRICS`, and `per_category`: name -> {AP, AP50}. None where the ground truth has no object to find.

    truth: as `CocoDataset.ground_truth` returns it; results: entries of the COCO results format; image_ids: the images
    that count, all if None; names: by category id, those in `truth` if None. `reference` takes pycocotools, else
    hotcoco, which computes the same to the bit, faster. max_dets: detections of a class in an image that count, 10 or more;
    with another number than 100, AR100 is named after it.
    """
    scores = run_cocoeval(truth, results, image_ids, reference, max_dets)
    precision = scores.eval["precision"]  # IoU thresholds x recalls x categories x areas x detections per image
    ap = mean_precision(precision[:, :, :, 0, -1])  # COCOeval's own is that of 100 detections, whatever was asked for
    stats = zip(METRICS, [ap, *scores.stats[1:]], strict=False)  # the first 12
    metrics: dict[str, Any] = {name.replace("100", str(max_dets)): metric_value(value) for name, value in stats}
    if names is None:
        names = {category["id"]: category["name"] for category in truth["categories"]}
    metrics["per_category"] = {
        names[category_id]: {
            "AP": metric_value(mean_precision(precision[:, :, k, 0, -1])),
            "AP50": metric_value(mean_precision(precision[0, :, k, 0, -1])),
        }
        for k, category_id in enumerate(scores.params.catIds)
    }
    return metrics


def coco_input(
    dataset: CocoDataset, detections: Mapping[int, Detections]
) -> tuple[dict[str, Any], list[dict[str, Any]], list[int]]:
    """Ground truth, results and ids of the images for COCOeval, from detections by the index of their image.

    Images and classes are numbered from 0 on for the evaluator, which takes ids as floating-point numbers.
    """
    labels = Categories(tuple(range(len(dataset.categories))), dataset.categories.names)
    eval_ids = dataset.eval_ids()
    results = [entry for i, each in detections.items() for entry in each.to_coco(eval_ids[i], labels)]
    return dataset.ground_truth(), results, [eval_ids[index] for index in detections]


def category_names(categories: Categories) -> dict[int, str]:
    """Label -> name; where two share a name, the category id is added to it."""
    count = Counter(categories.names)
    return {
        label: name if count[name] == 1 else f"{name} (id {category_id})"
        for label, (category_id, name) in enumerate(zip(categories.ids, categories.names, strict=True))
    }


def _rows(results: Sequence[Mapping[str, Any]]) -> Float64[np.ndarray, "results 7"]:
    """Results as hotcoco reads them fastest: image, x, y, width, height, score, category."""
    rows = ((each["image_id"], *each["bbox"], each["score"], each["category_id"]) for each in results)
    return np.fromiter(chain.from_iterable(rows), np.float64, 7 * len(results)).reshape(-1, 7)


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


def metric_value(value: float) -> float | None:
    """COCOeval's -1 as None."""
    return None if value < 0 or math.isnan(value) else float(value)
