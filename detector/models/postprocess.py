"""Postprocessing: from every anchor's prediction to detections, by best class, threshold and class-wise NMS."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchvision.ops import batched_nms

from detector.boxes import Anchors, decode_boxes
from detector.structures import Predictions, RawPredictions

MAX_CANDIDATES = 30_000
"""Boxes per image that enter NMS, the best by score."""


class NmsResult(NamedTuple):
    """Detections of one image, best first: boxes (xyxy, the predictions' frame), scores, labels.

    anchors: the anchor of each; None where a file computed the detections.
    """

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    labels: Int64[Tensor, " n"]
    anchors: Int64[Tensor, " n"] | None = None


def select(
    predictions: Predictions,
    conf: float,
    iou: float,
    max_detections: int,
    class_filter: Int64[Tensor, " labels"] | None = None,
    class_conf: Float[Tensor, " classes"] | None = None,
) -> list[NmsResult]:
    """Detections of each image, at most `max_detections`.

    An anchor detects its best class only. conf: lowest score kept; iou: IoU above which the weaker of two boxes of one
    class is dropped; class_filter: labels to detect, all if None; class_conf: lowest score of each
    class, where that is above `conf`. Of equal scores the first anchor wins.
    """
    results = []
    for boxes, class_scores in zip(predictions.boxes, predictions.scores, strict=True):
        scores = class_scores.amax(dim=1)
        anchors, labels = _candidates(scores, class_scores, conf, class_filter, class_conf)
        results.append(_nms(boxes[anchors], scores[anchors], labels, anchors, iou, max_detections))
    return results


def select_logits(
    predictions: tuple[RawPredictions, Anchors],
    conf: float,
    iou: float,
    max_detections: int,
    class_filter: Int64[Tensor, " labels"] | None = None,
    class_conf: Float[Tensor, " classes"] | None = None,
) -> list[NmsResult]:
    """`select` on the output of `DetectionModel.logits`: decodes only the boxes that pass the threshold."""
    results = []
    raw, points = predictions
    for box_logits, class_logits in zip(raw.boxes, raw.scores, strict=True):
        scores = class_logits.amax(dim=0).sigmoid()
        anchors, labels = _candidates(scores, class_logits.T, conf, class_filter, class_conf)
        own = Anchors(points.points[anchors], points.strides[anchors])
        boxes = decode_boxes(box_logits[None, :, anchors], own)[0]
        results.append(_nms(boxes, scores[anchors], labels, anchors, iou, max_detections))
    return results


def select_again(
    candidates: NmsResult,
    conf: float,
    iou: float,
    max_detections: int,
    class_filter: Int64[Tensor, " labels"] | None = None,
    class_conf: Float[Tensor, " classes"] | None = None,
) -> NmsResult:
    """What `select` gives with these settings, from what it gave with a `conf` no higher, an `iou` of 1, and neither filter."""
    boxes, scores, labels, _ = candidates
    kept = scores >= conf
    if class_filter is not None:
        kept &= torch.isin(labels, class_filter)
    if class_conf is not None:
        kept &= scores >= class_conf[labels]
    places = kept.nonzero(as_tuple=True)[0]
    return _nms(boxes[places], scores[places], labels[places], places, iou, max_detections)


def _candidates(
    scores: Float[Tensor, " anchors"],
    of_classes: Float[Tensor, "anchors classes"],
    conf: float,
    class_filter: Int64[Tensor, " labels"] | None,
    class_conf: Float[Tensor, " classes"] | None,
) -> tuple[Int64[Tensor, " candidates"], Int64[Tensor, " candidates"]]:
    """The anchors with enough score whose best class passes the filter, best first, at most `MAX_CANDIDATES`; these classes."""
    likely = (scores >= conf).nonzero(as_tuple=True)[0]
    labels = of_classes[likely].argmax(dim=1)
    order = scores[likely].argsort(descending=True, stable=True)
    if class_filter is not None:
        order = order[torch.isin(labels[order], class_filter)]
    if class_conf is not None:
        order = order[scores[likely[order]] >= class_conf.to(scores.device)[labels[order]]]
    order = order[:MAX_CANDIDATES]
    return likely[order], labels[order]


def _nms(
    boxes: Float[Tensor, "n 4"],
    scores: Float[Tensor, " n"],
    labels: Int64[Tensor, " n"],
    anchors: Int64[Tensor, " n"],
    iou: float,
    max_detections: int,
) -> NmsResult:
    """Class-wise NMS of candidates that come best first.

    `batched_nms` may move the classes apart by label times the largest coordinate: that keeps them apart only where no
    coordinate is negative, and costs digits of the overlap in float32. Hence the shift, and float64.
    """
    kept = labels
    if len(boxes):
        shifted = boxes.double() - boxes.min()
        kept = batched_nms(shifted, scores.double(), labels, iou).sort().values[:max_detections]
    return NmsResult(boxes[kept], scores[kept], labels[kept], anchors[kept])
