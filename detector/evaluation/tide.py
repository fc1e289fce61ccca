"""What goes wrong, and the AP50 that each kind of error costs: TIDE (Bolya et al., ECCV 2020, arXiv:2008.08115).

An oracle mends all errors of one kind; what AP50 then gains is the kind's dAP50. The gains don't add up to 1 - AP50.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from detector.evaluation.curves import precision_recall
from detector.evaluation.matching import ClassMatches, ImageBoxes, match_own_class

FOREGROUND = 0.5
"""Least IoU of a detection with the object that it finds."""
BACKGROUND = 0.1
"""Largest IoU of a detection that is on nothing."""
FALSE_POSITIVES = ("classification", "localization", "both", "duplicate", "background")
KINDS = (*FALSE_POSITIVES, "missed")
SPECIAL = ("false positive", "false negative")
"""Not of the six: all wrong detections, all objects that were not found."""
RIGHT = -1
"""In the place of a kind's number: the detection is right."""


@dataclass(frozen=True, eq=False)
class Errors:
    """The detections of a split that count, best first, and its objects; a detection on a crowd region doesn't count.

    kinds: number in `KINDS`, `RIGHT` for right ones; targets: index of the object that a misclassified or badly localized
    detection would find, -1 for all others; found: objects that a right detection has.
    """

    scores: Float64[np.ndarray, " detections"]
    labels: Int64[np.ndarray, " detections"]
    kinds: Int64[np.ndarray, " detections"]
    targets: Int64[np.ndarray, " detections"]
    object_labels: Int64[np.ndarray, " objects"]
    found: Bool[np.ndarray, " objects"]
    classes: int

    @property
    def missed(self) -> Bool[np.ndarray, " objects"]:
        """Objects that are not found, nor the target of a misclassified or badly localized detection."""
        missed = ~self.found
        missed[self.targets[self.targets >= 0]] = False
        return missed

    def ap50(self) -> float:
        """The mean AP50 of the classes that have objects, of which there must be one."""
        return self._ap50(np.arange(len(self.scores)), self.labels, self.kinds == RIGHT, self.object_labels)

    def ap50_without(self, kind: str) -> float:
        """AP50 after the oracle of this kind, one of `KINDS` or `SPECIAL`.

        classification, localization: the best detection of each target that is not found is right and of its class; the
        others go. both, duplicate, background, false positive: the detections go. missed, false negative: the objects go,
        as if they were found with the precision of the others; a class of which none is left keeps its AP of 0.
        """
        every, labels = np.arange(len(self.scores)), self.labels
        right, object_labels = self.kinds == RIGHT, self.object_labels
        if kind == "missed":
            object_labels = object_labels[~self.missed]
        elif kind == "false negative":
            object_labels = object_labels[self.found]
        elif kind == "false positive":
            every = np.flatnonzero(right)
        else:
            wrong = self.kinds == KINDS.index(kind)
            mended = wrong & self._best_of_targets(wrong)
            right = right | mended
            labels = labels.copy()
            labels[mended] = self.object_labels[self.targets[mended]]
            every = np.flatnonzero(~wrong | mended)
        return self._ap50(every, labels, right, object_labels)

    def _best_of_targets(self, wrong: Bool[np.ndarray, " detections"]) -> Bool[np.ndarray, " detections"]:
        """Of these detections the first on each object that is not found."""
        free = np.flatnonzero(wrong & (self.targets >= 0))
        free = free[~self.found[self.targets[free]]]
        _, first = np.unique(self.targets[free], return_index=True)
        best = np.zeros(len(wrong), np.bool_)
        best[free[first]] = True
        return best

    def _ap50(
        self,
        kept: Int64[np.ndarray, " kept"],
        labels: Int64[np.ndarray, " detections"],
        right: Bool[np.ndarray, " detections"],
        object_labels: Int64[np.ndarray, " left"],
    ) -> float:
        left = np.bincount(object_labels, minlength=self.classes)
        curves = precision_recall(ClassMatches(self.scores[kept], labels[kept], right[kept], left))
        with_objects = np.unique(self.object_labels)
        return float(np.nan_to_num(curves[with_objects].mean(axis=1)).mean())

    def counts(self) -> dict[str, Int64[np.ndarray, " classes"]]:
        """How many errors of each kind each class has, by the detection's label, or the object's if it was missed."""
        counts = {
            kind: np.bincount(self.labels[self.kinds == number], minlength=self.classes)
            for number, kind in enumerate(FALSE_POSITIVES)
        }
        counts["missed"] = np.bincount(self.object_labels[self.missed], minlength=self.classes)
        counts["false positive"] = np.bincount(self.labels[self.kinds != RIGHT], minlength=self.classes)
        counts["false negative"] = np.bincount(self.object_labels[~self.found], minlength=self.classes)
        return counts


def find_errors(images: Sequence[ImageBoxes], classes: int, max_dets: int) -> Errors:
    """The kind of each detection; max_dets: detections of a class in an image that count, the best by score."""
    none = np.zeros(0, np.int64)
    scores, labels, kinds, targets, object_labels = [np.zeros(0)], [none], [none], [none], [none]
    found, objects = [np.zeros(0, np.bool_)], 0
    for image in images:
        kept, taken, overlap = match_own_class(image, FOREGROUND, max_dets)
        real = ~image.crowd
        kind, target = kinds_of(overlap[:, real], kept.labels, image.truth_labels[real], taken >= 0)
        scores.append(kept.scores)
        labels.append(kept.labels)
        kinds.append(kind)
        targets.append(np.where(target >= 0, target + objects, -1))
        object_labels.append(image.truth_labels[real])
        found.append(np.isin(np.flatnonzero(real), taken))
        objects += int(real.sum())
    all_scores = np.concatenate(scores)
    order = np.argsort(-all_scores, kind="stable")
    return Errors(
        scores=all_scores[order],
        labels=np.concatenate(labels)[order],
        kinds=np.concatenate(kinds)[order],
        targets=np.concatenate(targets)[order],
        object_labels=np.concatenate(object_labels),
        found=np.concatenate(found),
        classes=classes,
    )


def kinds_of(
    overlap: Float64[np.ndarray, "detections objects"],
    labels: Int64[np.ndarray, " detections"],
    object_labels: Int64[np.ndarray, " objects"],
    right: Bool[np.ndarray, " detections"],
) -> tuple[Int64[np.ndarray, " detections"], Int64[np.ndarray, " detections"]]:
    """Kind and target of each detection of an image; of several kinds that fit the first in this order counts: localization
    (largest IoU with its class from `BACKGROUND` to below `FOREGROUND`), classification (`FOREGROUND` or more with another
    class), duplicate (with its own), background (below `BACKGROUND` with all), both."""
    kinds, targets = np.full(len(labels), RIGHT, np.int64), np.full(len(labels), -1, np.int64)
    if len(object_labels) == 0:
        kinds[~right] = KINDS.index("background")
        return kinds, targets
    same = labels[:, None] == object_labels
    own, other = np.where(same, overlap, 0.0), np.where(same, 0.0, overlap)
    best_own, best_other = own.max(axis=1), other.max(axis=1)
    conditions = {
        "localization": (best_own >= BACKGROUND) & (best_own < FOREGROUND),
        "classification": best_other >= FOREGROUND,
        "duplicate": best_own >= FOREGROUND,
        "background": np.maximum(best_own, best_other) < BACKGROUND,
    }
    names = [*conditions, "both"]
    numbers = np.array([KINDS.index(name) for name in names])
    chosen = np.select(list(conditions.values()), range(len(conditions)), len(conditions))
    kinds[~right] = numbers[chosen[~right]]
    for name, ious in (("localization", own), ("classification", other)):
        mine = kinds == KINDS.index(name)
        targets[mine] = ious[mine].argmax(axis=1)
    return kinds, targets
