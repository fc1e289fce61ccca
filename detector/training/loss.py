"""Detection loss: CIoU for boxes, binary cross-entropy for classes, distribution focal loss for distances."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from detector.boxes import Anchors, box_area, complete_iou, decode_boxes, intersection_area
from detector.config import LossConfig
from detector.nn.head import BINS, decode
from detector.structures import AuxiliaryPredictions, Batch, GuidedPredictions, RawPredictions
from detector.training.assigner import assign, pad_targets


class Losses(NamedTuple):
    """The three terms, weighted, each divided by the sum of the class targets (at least 1)."""

    box: Float[Tensor, ""]
    classification: Float[Tensor, ""]
    distribution: Float[Tensor, ""]

    def total(self) -> Float[Tensor, ""]:
        return self.box + self.classification + self.distribution


def detection_loss(
    raw: RawPredictions,
    anchors: Anchors,
    batch: Batch,
    config: LossConfig,
    over_processes: Callable[[Tensor], Tensor] = lambda own: own,
) -> Losses:
    """Loss of a batch; a step minimizes `total() · batch size`. Computed in float32 also if the network ran in less.

    `over_processes` sums a value over the processes that share the batch: the losses of all are then divided by the same
    sum of class targets, and add up to those of the whole batch.
    """
    wide = torch.promote_types(raw.boxes.dtype, torch.float32)
    raw = RawPredictions(raw.boxes.to(wide), raw.scores.to(wide))
    with torch.no_grad():
        predictions = decode(raw, anchors)
    targets = pad_targets(batch.targets)
    assignment = assign(predictions, anchors, targets)
    image, anchor = assignment.foreground.nonzero(as_tuple=True)
    obj = assignment.object_index[image, anchor]
    weight = assignment.weights[image, anchor]
    boxes, labels = targets.boxes[image, obj], targets.labels[image, obj]
    normalizer = over_processes(weight.sum()).clamp_min(1)

    # binary cross-entropy with target t is softplus(logit) - t · logit, and few t are not 0
    as_background = F.softplus(raw.scores)
    if any(len(target.crowd_boxes) for target in batch.targets):
        ignored = inside_crowd(predictions.boxes, batch) & ~assignment.foreground
        as_background = as_background.masked_fill(ignored[:, None], 0)
    classification = as_background.sum() - (raw.scores[image, labels, anchor] * weight).sum()

    logits = raw.boxes[image, :, anchor]
    own = Anchors(anchors.points[anchor], anchors.strides[anchor])
    overlap = complete_iou(decode_boxes(logits.T[None], own)[0], boxes)
    distances = torch.cat((own.points - boxes[:, :2], boxes[:, 2:] - own.points), dim=1) / own.strides[:, None]
    distribution = distribution_loss(logits.reshape(-1, 4, BINS), distances)
    return Losses(
        box=config.box * ((1 - overlap) * weight).sum() / normalizer,
        classification=config.classification * classification / normalizer,
        distribution=config.distribution * (distribution * weight).sum() / normalizer,
    )


def training_loss(
    raw: RawPredictions | AuxiliaryPredictions | GuidedPredictions,
    anchors: Anchors,
    batch: Batch,
    config: LossConfig,
    over_processes: Callable[[Tensor], Tensor] = lambda own: own,
) -> tuple[Losses, Float[Tensor, ""]]:
    """The losses of the main branch, and what a step minimizes: their total and, where there is one, the guidance, or the
    auxiliary branch's weighted loss, with an assignment of its own. Arguments as for `detection_loss`."""
    main = raw if isinstance(raw, RawPredictions) else raw.main
    losses = detection_loss(main, anchors, batch, config, over_processes)
    total = losses.total()
    if isinstance(raw, GuidedPredictions):
        total = total + raw.guidance
    elif isinstance(raw, AuxiliaryPredictions):
        auxiliary = detection_loss(raw.auxiliary, anchors, batch, config, over_processes)
        total = total + config.auxiliary * auxiliary.total()
    return losses, total


def distribution_loss(logits: Float[Tensor, "n 4 bins"], distances: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    """Cross-entropy to the two bins beside each distance (in strides), by nearness, mean of the four sides.

    Source: Li et al., Generalized Focal Loss, 2020, equation 6.
    """
    distances = distances.clamp(0, BINS - 1 - 0.01)
    below = distances.floor()
    fraction_above = distances - below
    log_probability = logits.log_softmax(dim=-1)
    index = below.long()[..., None]
    loss_below = -log_probability.gather(-1, index).squeeze(-1)
    loss_above = -log_probability.gather(-1, index + 1).squeeze(-1)
    return (loss_below * (1 - fraction_above) + loss_above * fraction_above).mean(dim=1)


def inside_crowd(boxes: Float[Tensor, "batch anchors 4"], batch: Batch) -> Bool[Tensor, "batch anchors"]:
    """Whether more than half of a predicted box lies in one crowd region of its image."""
    inside = torch.zeros(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
    for i, target in enumerate(batch.targets):
        shared = intersection_area(boxes[i, :, None], target.crowd_boxes[None])
        inside[i] = (shared > 0.5 * box_area(boxes[i])[:, None]).any(dim=1)
    return inside
