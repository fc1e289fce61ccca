"""What is behind the metrics: errors by kind, calibration, AP by size and class with intervals, the best confidences."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64

from detector.data.coco import CocoDataset
from detector.evaluation.bootstrap import AREAS, METHOD, average_precisions, draw_images, interval
from detector.evaluation.calibration import reliability
from detector.evaluation.coco_metrics import category_names, coco_input, metric_value, run_cocoeval
from detector.evaluation.curves import class_mean, over_confidence
from detector.evaluation.matching import DETECTIONS_PER_CLASS, image_boxes, match_classes
from detector.evaluation.tide import FOREGROUND, find_errors
from detector.structures import Detections


def explain(
    dataset: CocoDataset, detections: Mapping[int, Detections], max_dets: int = DETECTIONS_PER_CLASS
) -> dict[str, Any]:
    """Explain the metrics of detections, by the index of their image; of the images that have an entry.

    Returns `sizes`: AP, APsmall, APmedium and APlarge, each {AP, low, high}; `errors`: AP50, and for each kind of error
    {count, dAP50}; `calibration`: {ECE, bins}; `per_category`: name -> {AP, low, high, confidence, F1, ECE, errors}, where
    F1 at `confidence` is the largest; `bootstrap`: how the intervals were made. None where there is nothing to measure.
    """
    names = list(category_names(dataset.categories).values())
    images = image_boxes(dataset, detections)
    matches = match_classes(images, len(names), FOREGROUND, max_dets)
    best = over_confidence(matches).best_of_each()
    errors = find_errors(images, len(names), max_dets)
    counts = errors.counts()
    ap50 = errors.ap50() if len(errors.object_labels) else None
    sizes, of_classes = ap_intervals(dataset, detections, max_dets)
    per_category = {}
    for label, name in enumerate(names):
        mine = matches.labels == label
        confidence, f1 = best[label] or (None, None)
        per_category[name] = {
            **of_classes[label],
            "confidence": confidence,
            "F1": f1,
            "ECE": reliability(matches.scores[mine], matches.right[mine]).ece,
            "errors": {kind: int(of_kind[label]) for kind, of_kind in counts.items()},
        }
    by_kind = {
        kind: {
            "count": int(of_kind.sum()),
            "dAP50": None if ap50 is None else errors.ap50_without(kind) - ap50,
        }
        for kind, of_kind in counts.items()
    }
    return {
        "sizes": sizes,
        "errors": {"AP50": ap50, **by_kind},
        "calibration": reliability(matches.scores, matches.right).to_json(),
        "per_category": per_category,
        "bootstrap": METHOD,
    }


def best_confidences(
    dataset: CocoDataset, detections: Mapping[int, Detections], max_dets: int = DETECTIONS_PER_CLASS
) -> tuple[float | None, ...]:
    """The confidence of the largest F1 of each class, in label order; None for a class of which nothing is found."""
    matches = match_classes(image_boxes(dataset, detections), len(dataset.categories), FOREGROUND, max_dets)
    return tuple(None if best is None else best[0] for best in over_confidence(matches).best_of_each())


def ap_intervals(
    dataset: CocoDataset, detections: Mapping[int, Detections], max_dets: int
) -> tuple[dict[str, dict[str, float | None]], list[dict[str, float | None]]]:
    """AP by size and of each class in label order, each with its interval."""
    scores = run_cocoeval(*coco_input(dataset, detections), max_dets=max_dets)
    values = average_precisions(scores, draw_images(len(detections)))
    sizes = {name: with_interval(class_mean(values[:, area].T)) for area, name in enumerate(AREAS)}
    return sizes, [with_interval(values[:, 0, label]) for label in range(len(dataset.categories))]


def with_interval(values: Float64[np.ndarray, " resamples"]) -> dict[str, float | None]:
    """AP of the split, which comes first, and its interval."""
    return {"AP": metric_value(float(values[0])), **interval(values[1:])}
