"""From every anchor's prediction to the few that count: best class, threshold, class-wise NMS."""

from jaxtyping import Float, Int64
from torch import Tensor
from torchvision.ops import batched_nms

from detector.structures import Predictions

MOST_CANDIDATES = 30_000
"""Boxes a picture that enter NMS, the best by score."""


def select(
    predictions: Predictions, conf: float, iou: float, max_detections: int
) -> list[tuple[Float[Tensor, "n 4"], Float[Tensor, " n"], Int64[Tensor, " n"]]]:
    """Boxes (xyxy, frame unchanged), scores and labels of each picture, best first, at most `max_detections`.

    An anchor speaks for its best class only; `conf` is the lowest score kept, `iou` the overlap over which the weaker of
    two boxes of one class is dropped.
    """
    chosen = []
    for boxes, class_scores in zip(predictions.boxes, predictions.scores, strict=True):
        scores, labels = class_scores.max(dim=1)
        candidates = (scores >= conf).nonzero(as_tuple=True)[0]
        if len(candidates) > MOST_CANDIDATES:
            candidates = candidates[scores[candidates].topk(MOST_CANDIDATES).indices]
        boxes, scores, labels = boxes[candidates], scores[candidates], labels[candidates]
        kept = batched_nms(boxes, scores, labels, iou)[:max_detections]
        chosen.append((boxes[kept], scores[kept], labels[kept]))
    return chosen
