"""Matching of detections and objects: class by class as COCOeval matches, and whatever the class, for confusions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from pycocotools import mask

from detector.data.coco import CocoDataset
from detector.structures import BOX_DIGITS, SCORE_DIGITS, Detections

DETECTIONS_PER_CLASS = 100
"""Detections of a class in an image that count, the best by score: COCOeval's limit."""


@dataclass(frozen=True, eq=False)
class ImageBoxes:
    """What one image holds and what was found in it, detections best first.

    Boxes are x, y, width, height in pixels of the original image, labels 0..C-1; `crowd` marks `iscrowd` regions,
    in which any number of detections is neither right nor wrong.
    """

    index: int
    truth_boxes: Float64[np.ndarray, "truths 4"]
    truth_labels: Int64[np.ndarray, " truths"]
    crowd: Bool[np.ndarray, " truths"]
    boxes: Float64[np.ndarray, "detections 4"]
    labels: Int64[np.ndarray, " detections"]
    scores: Float64[np.ndarray, " detections"]

    def overlap(self) -> Float64[np.ndarray, "detections truths"]:
        """IoU; with a crowd region, the fraction of the detection that lies in it."""
        if len(self.boxes) == 0 or len(self.truth_boxes) == 0:
            return np.zeros((len(self.boxes), len(self.truth_boxes)))
        return np.asarray(mask.iou(self.boxes, self.truth_boxes, self.crowd.astype(np.uint8)), np.float64)


def image_boxes(dataset: CocoDataset, detections: Mapping[int, Detections]) -> list[ImageBoxes]:
    """Annotations and detections of the images that have an entry in `detections`, by index; in the order and with the digits
    in which COCOeval gets them."""
    images, eval_ids = [], dataset.eval_ids()
    for index in sorted(detections, key=eval_ids.__getitem__):
        truth, found = dataset.annotations(index), detections[index]
        xywh = torch.cat((found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]), dim=1)
        images.append(
            ImageBoxes(
                index,
                truth_boxes=truth.boxes,
                truth_labels=truth.labels,
                crowd=truth.crowd,
                boxes=xywh.double().numpy().round(BOX_DIGITS),
                labels=found.labels.numpy(),
                scores=found.scores.double().numpy().round(SCORE_DIGITS),
            )
        )
    return images


def match(
    overlap: Float64[np.ndarray, "detections truths"], crowd: Bool[np.ndarray, " truths"], min_iou: float
) -> Int64[np.ndarray, " detections"]:
    """The index of the truth that each detection takes, -1 for none.

    In turn, best first, a detection takes the free object that it overlaps most, by `min_iou` or more; if there is none, a
    crowd region, which stays free. Of equal overlaps the last counts, as in COCOeval.
    """
    taken = np.full(len(overlap), -1, np.int64)
    free = ~crowd
    for detection in np.flatnonzero((overlap >= min_iou).any(axis=1)):
        for candidates in (free, crowd):
            usable = np.flatnonzero(candidates & (overlap[detection] >= min_iou))
            if len(usable):
                taken[detection] = usable[::-1][overlap[detection, usable[::-1]].argmax()]
                break
        if taken[detection] >= 0:
            free[taken[detection]] = False
    return taken


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """The detections of a split that count, best first, and whether each is right; those on crowd regions don't count.

    objects: how many of each class there are to find.
    """

    scores: Float64[np.ndarray, " detections"]
    labels: Int64[np.ndarray, " detections"]
    right: Bool[np.ndarray, " detections"]
    objects: Int64[np.ndarray, " classes"]


def match_own_class(
    image: ImageBoxes, min_iou: float, max_dets: int
) -> tuple[ImageBoxes, Int64[np.ndarray, " kept"], Float64[np.ndarray, "kept truths"]]:
    """Match the best `max_dets` detections of each class within it, as COCOeval does.

    Returns the image with those that count, as the ones on crowd regions don't, the index of the object that each takes
    (-1: none), and the overlap with all truths.
    """
    first = _first_of_each(image.labels, max_dets)
    kept = replace(image, boxes=image.boxes[first], labels=image.labels[first], scores=image.scores[first])
    overlap = kept.overlap()
    same_class = kept.labels[:, None] == image.truth_labels
    taken = match(np.where(same_class, overlap, 0.0), image.crowd, min_iou)
    counts = ~np.append(image.crowd, False)[taken]
    kept = replace(kept, boxes=kept.boxes[counts], labels=kept.labels[counts], scores=kept.scores[counts])
    return kept, taken[counts], overlap[counts]


def match_classes(
    images: Sequence[ImageBoxes], classes: int, min_iou: float, max_dets: int = DETECTIONS_PER_CLASS
) -> ClassMatches:
    """Match within each class, as COCOeval does at an IoU threshold of `min_iou`."""
    scores, labels, right = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0, np.bool_)]
    objects = np.zeros(classes, np.int64)
    for image in images:
        objects += np.bincount(image.truth_labels[~image.crowd], minlength=classes)
        kept, taken, _ = match_own_class(image, min_iou, max_dets)
        scores.append(kept.scores)
        labels.append(kept.labels)
        right.append(taken >= 0)
    everything = np.concatenate(scores)
    order = np.argsort(-everything, kind="stable")
    return ClassMatches(everything[order], np.concatenate(labels)[order], np.concatenate(right)[order], objects)


def _first_of_each(labels: Int64[np.ndarray, " n"], limit: int) -> Bool[np.ndarray, " n"]:
    """Mark the first `limit` entries of each label."""
    marked = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        marked[np.flatnonzero(labels == label)[:limit]] = True
    return marked


@dataclass(frozen=True, eq=False)
class ImageMatch:
    """What became of one image's objects and of its detections above a score, matched whatever their classes are.

    image: with those detections only; taken: the index of the truth that each takes, -1 for none; overlap: with it.
    The masks over the detections exclude each other; those in none of them lie in a crowd region.
    """

    image: ImageBoxes
    taken: Int64[np.ndarray, " detections"]
    overlap: Float64[np.ndarray, " detections"]
    right: Bool[np.ndarray, " detections"]
    wrong_class: Bool[np.ndarray, " detections"]
    duplicate: Bool[np.ndarray, " detections"]
    """Detections on an object that a better detection has taken."""
    background: Bool[np.ndarray, " detections"]
    """Detections on nothing."""
    missed: Bool[np.ndarray, " truths"]
    """Objects that no detection has taken."""

    def quality(self) -> float:
        """F1 in which a right detection counts by its IoU: 2·Σ IoU / (detections + objects); 1 where there is neither."""
        wrong = self.wrong_class | self.duplicate | self.background
        count = int(self.right.sum() + wrong.sum() + (~self.image.crowd).sum())
        return 2 * float(self.overlap[self.right].sum()) / count if count else 1.0

    def confusion(self) -> float:
        """The scores of the detections that are wrong, summed: high where the network is surely wrong."""
        return float(self.image.scores[self.wrong_class | self.duplicate | self.background].sum())


def match_image(image: ImageBoxes, confidence: float, min_iou: float) -> ImageMatch:
    """Match the detections with a score of `confidence` or more by overlap alone, `min_iou` or more."""
    strong = image.scores >= confidence
    kept = replace(image, boxes=image.boxes[strong], labels=image.labels[strong], scores=image.scores[strong])
    overlap = kept.overlap()
    taken = match(overlap, kept.crowd, min_iou)
    matched = np.flatnonzero(taken >= 0)
    on_object = matched[~kept.crowd[taken[matched]]]
    right, wrong_class = np.zeros(len(taken), np.bool_), np.zeros(len(taken), np.bool_)
    same = kept.labels[on_object] == kept.truth_labels[taken[on_object]]
    right[on_object], wrong_class[on_object] = same, ~same
    over_an_object = (overlap[:, ~kept.crowd] >= min_iou).any(axis=1)
    missed = ~kept.crowd
    missed[taken[on_object]] = False
    with_taken = np.zeros(len(taken))
    with_taken[matched] = overlap[matched, taken[matched]]
    return ImageMatch(
        image=kept,
        taken=taken,
        overlap=with_taken,
        right=right,
        wrong_class=wrong_class,
        duplicate=(taken < 0) & over_an_object,
        background=(taken < 0) & ~over_an_object,
        missed=missed,
    )
