"""From every anchor's prediction to the few that count: best class, threshold, class-wise NMS."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torchvision.ops import batched_nms

from detector.geometry.boxes import Anchors, decode_boxes
from detector.structures import Predictions, RawPredictions

MOST_CANDIDATES = 30_000
"""Boxes a picture that enter NMS, the best by score."""


def select(
    predictions: Predictions,
    conf: float,
    iou: float,
    max_detections: int,
    wanted: Int64[Tensor, " wanted"] | None = None,
) -> list[tuple[Float[Tensor, "n 4"], Float[Tensor, " n"], Int64[Tensor, " n"]]]:
    """Boxes (xyxy, frame unchanged), scores and labels of each picture, best first; as `select_anchors` chooses."""
    chosen = []
    kept = select_anchors(predictions, conf, iou, max_detections, wanted)
    for boxes, class_scores, anchors in zip(predictions.boxes, predictions.scores, kept, strict=True):
        scores, labels = class_scores[anchors].max(dim=1)
        chosen.append((boxes[anchors], scores, labels))
    return chosen


def select_anchors(
    predictions: Predictions,
    conf: float,
    iou: float,
    max_detections: int,
    wanted: Int64[Tensor, " wanted"] | None = None,
) -> list[Int64[Tensor, " n"]]:
    """The anchors of each picture that are detections, best first, at most `max_detections`.

    An anchor speaks for its best class only; `conf` is the lowest score kept, `iou` the overlap over which the weaker of
    two boxes of one class is dropped; `wanted` are the labels to look for, all if None. Of equal scores the anchor that
    comes first is the better one.
    """
    chosen = []
    for boxes, class_scores in zip(predictions.boxes, predictions.scores, strict=True):
        scores, labels = class_scores.max(dim=1)
        candidates = _best(scores >= conf, scores, labels, wanted)
        kept = _class_wise_nms(boxes[candidates], scores[candidates], labels[candidates], iou)[:max_detections]
        chosen.append(candidates[kept])
    return chosen


def select_logits(
    predictions: tuple[RawPredictions, Anchors],
    conf: float,
    iou: float,
    max_detections: int,
    wanted: Int64[Tensor, " wanted"] | None = None,
) -> list[tuple[Float[Tensor, "n 4"], Float[Tensor, " n"], Int64[Tensor, " n"]]]:
    """As `select`, of `DetectionModel.logits`: decodes only the boxes that pass the threshold."""
    chosen = []
    raw, anchors = predictions
    for box_logits, class_logits in zip(raw.boxes, raw.scores, strict=True):
        all_scores = class_logits.amax(dim=0).sigmoid()
        likely = (all_scores >= conf).nonzero(as_tuple=True)[0]
        labels = class_logits[:, likely].argmax(dim=0)
        scores = all_scores[likely]
        best = _best(torch.ones_like(likely, dtype=torch.bool), scores, labels, wanted)
        candidates, labels, scores = likely[best], labels[best], scores[best]
        its_anchors = Anchors(anchors.points[candidates], anchors.strides[candidates])
        boxes = decode_boxes(box_logits[None, :, candidates], its_anchors)[0]
        kept = _class_wise_nms(boxes, scores, labels, iou)[:max_detections]
        chosen.append((boxes[kept], scores[kept], labels[kept]))
    return chosen


def _best(
    enough: Bool[Tensor, " n"],
    scores: Float[Tensor, " n"],
    labels: Int64[Tensor, " n"],
    wanted: Int64[Tensor, " wanted"] | None,
) -> Int64[Tensor, " candidates"]:
    """Where `enough` holds and the label is wanted, best score first, at most `MOST_CANDIDATES`."""
    if wanted is not None:
        enough = enough & torch.isin(labels, wanted)
    candidates = enough.nonzero(as_tuple=True)[0]
    return candidates[scores[candidates].argsort(descending=True, stable=True)[:MOST_CANDIDATES]]


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
