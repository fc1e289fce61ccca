"""Curves over all thresholds: precision-recall, precision, recall and F1 over the confidence; and the confusion matrix."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from detector.evaluation.matching import ClassMatches, ImageMatch

RECALLS = np.linspace(0, 1, 101)
"""Where COCO reads precision off."""
CONFIDENCES = np.linspace(0, 1, 1001)
"""Thresholds at which the curves over the confidence are read off."""


def precision_recall(matches: ClassMatches) -> Float64[np.ndarray, "classes 101"]:
    """Precision at `RECALLS` by COCO's rule: the best at that recall or a higher one, 0 where it is not reached.

    The mean of a row is the class's AP at the IoU of the matches; rows of classes without objects are NaN.
    """
    curves = np.full((len(matches.objects), len(RECALLS)), np.nan)
    for label in np.flatnonzero(matches.objects):
        found = matches.right[matches.labels == label].cumsum()
        precision = found / np.arange(1, len(found) + 1)
        best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        curves[label] = best[np.searchsorted(found / matches.objects[label], RECALLS)]
    return curves


@dataclass(frozen=True, eq=False)
class ConfidenceCurves:
    """For each class, at `CONFIDENCES`, of the detections with at least that score. NaN rows: classes without objects.

    Precision is NaN where there is no detection; F1 is 2·right / (detections + objects), 0 there.
    """

    precision: Float64[np.ndarray, "classes 1001"]
    recall: Float64[np.ndarray, "classes 1001"]
    f1: Float64[np.ndarray, "classes 1001"]

    def best(self) -> tuple[float, float]:
        """The confidence of the largest mean F1 of the classes, and that F1; there must be an object at least."""
        mean = class_mean(self.f1)
        return float(CONFIDENCES[mean.argmax()]), float(mean.max())

    def best_of_each(self) -> list[tuple[float, float] | None]:
        """The confidence of the largest F1 of each class, and that F1; None for a class of which nothing is found.

        Where a stretch of confidences has it, its middle, far from what would change the count; of several, the first.
        """
        best: list[tuple[float, float] | None] = []
        for curve in np.nan_to_num(self.f1):
            first = int(curve.argmax())
            lower = np.flatnonzero(curve[first:] < curve[first])
            last = first + int(lower[0]) - 1 if len(lower) else len(curve) - 1
            best.append((float(CONFIDENCES[(first + last) // 2]), float(curve[first])) if curve[first] > 0 else None)
        return best


def over_confidence(matches: ClassMatches) -> ConfidenceCurves:
    """Precision, recall and F1 of each class at `CONFIDENCES`."""
    shape = (len(matches.objects), len(CONFIDENCES))
    precision, recall, f1 = np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    for label in np.flatnonzero(matches.objects):
        of_class = matches.labels == label
        detections = np.searchsorted(-matches.scores[of_class], -CONFIDENCES, side="right")
        right = np.append(0, matches.right[of_class].cumsum())[detections]
        np.divide(right, detections, out=precision[label], where=detections > 0)
        recall[label] = right / matches.objects[label]
        f1[label] = 2 * right / (detections + matches.objects[label])
    return ConfidenceCurves(precision, recall, f1)


def class_mean(curves: Float64[np.ndarray, "classes points"]) -> Float64[np.ndarray, " points"]:
    """The mean over the classes that have a value at a point; NaN where none has."""
    known = ~np.isnan(curves)
    mean = np.full(curves.shape[1], np.nan)
    np.divide(np.where(known, curves, 0.0).sum(axis=0), known.sum(axis=0), out=mean, where=known.any(axis=0))
    return mean


def confusion_matrix(matches: Sequence[ImageMatch], classes: int) -> Int64[np.ndarray, "true found"]:
    """How often an object of the row's class was found as the column's, (C + 1) x (C + 1).

    The last column counts missed objects, the last row detections on nothing and second ones on an object.
    """
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    for each in matches:
        image = each.image
        on_object = each.right | each.wrong_class
        np.add.at(matrix, (image.truth_labels[each.taken[on_object]], image.labels[on_object]), 1)
        np.add.at(matrix, (classes, image.labels[each.duplicate | each.background]), 1)
        np.add.at(matrix, (image.truth_labels[each.missed], classes), 1)
    return matrix
