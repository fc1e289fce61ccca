"""Which detection belongs to which object: class by class as COCOeval matches, and whatever the class, for confusions."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from pycocotools import mask

from detector.structures import Categories

MOST_DETECTIONS = 100
"""Detections of a class in a picture that count, the best by score: COCOeval's limit."""


@dataclass(frozen=True, eq=False)
class PictureBoxes:
    """What one picture holds and what was found in it, detections best first.

    Boxes are x, y, width, height in pixels of the original picture, labels 0..C-1; `crowd` marks `iscrowd` regions,
    in which any number of detections is neither right nor wrong.
    """

    image_id: int
    truth_boxes: Float64[np.ndarray, "truths 4"]
    truth_labels: Int64[np.ndarray, " truths"]
    crowd: Bool[np.ndarray, " truths"]
    boxes: Float64[np.ndarray, "detections 4"]
    labels: Int64[np.ndarray, " detections"]
    scores: Float64[np.ndarray, " detections"]

    def overlap(self) -> Float64[np.ndarray, "detections truths"]:
        """IoU; with a crowd region, the share of the detection that lies in it."""
        if len(self.boxes) == 0 or len(self.truth_boxes) == 0:
            return np.zeros((len(self.boxes), len(self.truth_boxes)))
        return np.asarray(mask.iou(self.boxes, self.truth_boxes, self.crowd.astype(np.uint8)), np.float64)


def picture_boxes(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], image_ids: Sequence[int], categories: Categories
) -> list[PictureBoxes]:
    """The pictures of `image_ids`, by id; truth: what `ground_truth` returns; results: in the COCO results format."""
    label_of = {category_id: label for label, category_id in enumerate(categories.ids)}
    objects, found = defaultdict(list), defaultdict(list)
    for entry in truth["annotations"]:
        objects[entry["image_id"]].append(entry)
    for entry in results:
        found[entry["image_id"]].append(entry)
    pictures = []
    for image_id in sorted(image_ids):
        true, detected = objects[image_id], sorted(found[image_id], key=lambda entry: -entry["score"])
        pictures.append(
            PictureBoxes(
                image_id,
                np.array([entry["bbox"] for entry in true], np.float64).reshape(-1, 4),
                np.array([label_of[entry["category_id"]] for entry in true], np.int64),
                np.array([entry["iscrowd"] for entry in true], np.bool_),
                np.array([entry["bbox"] for entry in detected], np.float64).reshape(-1, 4),
                np.array([label_of[entry["category_id"]] for entry in detected], np.int64),
                np.array([entry["score"] for entry in detected], np.float64),
            )
        )
    return pictures


def match(
    overlap: Float64[np.ndarray, "detections truths"], crowd: Bool[np.ndarray, " truths"], least: float
) -> Int64[np.ndarray, " detections"]:
    """The index of the truth that each detection takes, -1 for none.

    In turn, best first, a detection takes the free object that it overlaps most, by `least` or more; if there is none, a
    crowd region, which stays free. Of equal overlaps the last counts, as in COCOeval.
    """
    taken = np.full(len(overlap), -1, np.int64)
    free = ~crowd
    for detection in np.flatnonzero((overlap >= least).any(axis=1)):
        for candidates in (free, crowd):
            usable = np.flatnonzero(candidates & (overlap[detection] >= least))
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


def match_classes(pictures: Sequence[PictureBoxes], classes: int, least: float) -> ClassMatches:
    """Match within each class, as COCOeval does at an IoU threshold of `least`."""
    scores, labels, right = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0, np.bool_)]
    objects = np.zeros(classes, np.int64)
    for picture in pictures:
        objects += np.bincount(picture.truth_labels[~picture.crowd], minlength=classes)
        same_class = picture.labels[:, None] == picture.truth_labels
        taken = match(np.where(same_class, picture.overlap(), 0.0), picture.crowd, least)
        on_crowd = np.zeros(len(taken), np.bool_)
        on_crowd[taken >= 0] = picture.crowd[taken[taken >= 0]]
        counts = _first_of_each(picture.labels, MOST_DETECTIONS) & ~on_crowd
        scores.append(picture.scores[counts])
        labels.append(picture.labels[counts])
        right.append(taken[counts] >= 0)
    everything = np.concatenate(scores)
    order = np.argsort(-everything, kind="stable")
    return ClassMatches(everything[order], np.concatenate(labels)[order], np.concatenate(right)[order], objects)


def _first_of_each(labels: Int64[np.ndarray, " n"], most: int) -> Bool[np.ndarray, " n"]:
    """Marks the first `most` entries of each label."""
    marked = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        marked[np.flatnonzero(labels == label)[:most]] = True
    return marked


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one picture's objects and of its detections above a score, matched whatever their classes are.

    picture: with those detections only; taken: the index of the truth that each takes, -1 for none; overlap: with it.
    The masks over the detections exclude each other; those in none of them lie in a crowd region.
    """

    picture: PictureBoxes
    taken: Int64[np.ndarray, " detections"]
    overlap: Float64[np.ndarray, " detections"]
    right: Bool[np.ndarray, " detections"]
    wrong_class: Bool[np.ndarray, " detections"]
    duplicate: Bool[np.ndarray, " detections"]
    """On an object that a better detection has taken."""
    background: Bool[np.ndarray, " detections"]
    """On nothing."""
    missed: Bool[np.ndarray, " truths"]
    """Objects that no detection has taken."""

    def quality(self) -> float:
        """F1 in which a right detection counts by its IoU: 2·Σ IoU / (detections + objects); 1 where there is neither."""
        wrong = self.wrong_class | self.duplicate | self.background
        count = int(self.right.sum() + wrong.sum() + (~self.picture.crowd).sum())
        return 2 * float(self.overlap[self.right].sum()) / count if count else 1.0

    def confusion(self) -> float:
        """The scores of the detections that are wrong, summed: high where the network is surely wrong."""
        return float(self.picture.scores[self.wrong_class | self.duplicate | self.background].sum())


def outcome(picture: PictureBoxes, confidence: float, least: float) -> Outcome:
    """Match the detections with a score of `confidence` or more by overlap alone, `least` or more."""
    strong = picture.scores >= confidence
    kept = PictureBoxes(
        picture.image_id,
        picture.truth_boxes,
        picture.truth_labels,
        picture.crowd,
        picture.boxes[strong],
        picture.labels[strong],
        picture.scores[strong],
    )
    overlap = kept.overlap()
    taken = match(overlap, kept.crowd, least)
    matched = np.flatnonzero(taken >= 0)
    on_object = matched[~kept.crowd[taken[matched]]]
    right, wrong_class = np.zeros(len(taken), np.bool_), np.zeros(len(taken), np.bool_)
    same = kept.labels[on_object] == kept.truth_labels[taken[on_object]]
    right[on_object], wrong_class[on_object] = same, ~same
    over_an_object = (overlap[:, ~kept.crowd] >= least).any(axis=1)
    missed = ~kept.crowd
    missed[taken[on_object]] = False
    with_taken = np.zeros(len(taken))
    with_taken[matched] = overlap[matched, taken[matched]]
    return Outcome(
        kept,
        taken,
        with_taken,
        right,
        wrong_class,
        duplicate=(taken < 0) & over_an_object,
        background=(taken < 0) & ~over_an_object,
        missed=missed,
    )
