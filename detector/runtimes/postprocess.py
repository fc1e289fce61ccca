"""From every anchor's prediction to the few that count: best class, threshold, class-wise NMS."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchvision.ops import batched_nms

from detector.geometry.boxes import Anchors, decode_boxes
from detector.structures import Predictions, RawPredictions

MOST_CANDIDATES = 30_000
"""Boxes a picture that enter NMS, the best by score."""


class Chosen(NamedTuple):
    """One picture's detections, best first: their anchors, boxes (xyxy, the predictions' frame), scores and labels."""

    anchors: Int64[Tensor, " n"]
    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    labels: Int64[Tensor, " n"]


def select(
    predictions: Predictions,
    conf: float,
    iou: float,
    max_detections: int,
    wanted: Int64[Tensor, " wanted"] | None = None,
) -> list[Chosen]:
    """The anchors of each picture that are detections, at most `max_detections`.

    An anchor speaks for its best class only; `conf` is the lowest score kept, `iou` the overlap over which the weaker of
    two boxes of one class is dropped; `wanted` are the labels to look for, all if None. Of equal scores the anchor that
    comes first is the better one.
    """
    chosen = []
    for boxes, class_scores in zip(predictions.boxes, predictions.scores, strict=True):
        scores = class_scores.amax(dim=1)
        anchors, labels = _candidates(scores, class_scores, conf, wanted)
        rest = Chosen(anchors, boxes[anchors], scores[anchors], labels)
        chosen.append(_without_overlap(rest, iou, max_detections))
    return chosen


def select_logits(
    predictions: tuple[RawPredictions, Anchors],
    conf: float,
    iou: float,
    max_detections: int,
    wanted: Int64[Tensor, " wanted"] | None = None,
) -> list[Chosen]:
    """As `select`, of `DetectionModel.logits`: decodes only the boxes that pass the threshold."""
    chosen = []
    raw, anchors = predictions
    for box_logits, class_logits in zip(raw.boxes, raw.scores, strict=True):
        scores = class_logits.amax(dim=0).sigmoid()
        candidates, labels = _candidates(scores, class_logits.T, conf, wanted)
        its_anchors = Anchors(anchors.points[candidates], anchors.strides[candidates])
        boxes = decode_boxes(box_logits[None, :, candidates], its_anchors)[0]
        rest = Chosen(candidates, boxes, scores[candidates], labels)
        chosen.append(_without_overlap(rest, iou, max_detections))
    return chosen


def _candidates(
    scores: Float[Tensor, " anchors"],
    of_classes: Float[Tensor, "anchors classes"],
    conf: float,
    wanted: Int64[Tensor, " wanted"] | None,
) -> tuple[Int64[Tensor, " candidates"], Int64[Tensor, " candidates"]]:
    """The anchors of at least `conf` whose best class is wanted, best first, at most `MOST_CANDIDATES`; and these classes."""
    likely = (scores >= conf).nonzero(as_tuple=True)[0]
    labels = of_classes[likely].argmax(dim=1)
    order = scores[likely].argsort(descending=True, stable=True)
    if wanted is not None:
        order = order[torch.isin(labels[order], wanted)]
    order = order[:MOST_CANDIDATES]
    return likely[order], labels[order]


def _without_overlap(candidates: Chosen, iou: float, max_detections: int) -> Chosen:
    kept = _class_wise_nms(candidates.boxes, candidates.scores, candidates.labels, iou)[:max_detections]
    return Chosen(*(values[kept] for values in candidates))


def _class_wise_nms(
    boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], labels: Int64[Tensor, " n"], iou: float
) -> Int64[Tensor, " kept"]:
    """Indices of the boxes that stay, ascending; the boxes come best first.

    `batched_nms` may move the classes apart by label times the largest coordinate: that keeps them apart only where no
    coordinate is negative, and costs digits of the overlap in float32. Hence the shift, and float64.
    """
    if len(boxes) == 0:
        return labels
    shifted = boxes.double() - boxes.min()
    kept: Tensor = batched_nms(shifted, scores.double(), labels, iou)
    return kept.sort().values
