"""Which anchor learns which object: task-aligned assignment (Feng et al., TOOD, 2021, section 3.2)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from detector.geometry.boxes import Anchors, complete_iou
from detector.structures import Predictions, Targets

CANDIDATES = 10
"""Anchors an object may claim."""
SCORE_POWER = 0.5
IOU_POWER = 6.0
NO_ALIGNMENT = 1e-9
"""Keeps the rescaling finite; an object that nothing fits yet gets hardly any class target (as published)."""
SMALLEST_SIDE = 16.0
"""Pixels: a shorter side of a box is widened to this for the test whether an anchor's centre lies in the box."""


class PaddedTargets(NamedTuple):
    """The objects of a batch in one tensor; `valid` tells objects from padding. Boxes xyxy, pixels of the network input."""

    boxes: Float[Tensor, "batch objects 4"]
    labels: Int64[Tensor, "batch objects"]
    valid: Bool[Tensor, "batch objects"]


class Assignment(NamedTuple):
    """What each anchor is to learn.

    foreground: whether an object owns the anchor; object_index: which one (0 where none does);
    weights: the class target of the owner's label, 0 for background, the box losses' weight as well.
    """

    foreground: Bool[Tensor, "batch anchors"]
    object_index: Int64[Tensor, "batch anchors"]
    weights: Float[Tensor, "batch anchors"]


def pad_targets(targets: Sequence[Targets]) -> PaddedTargets:
    """Stack the pictures' objects, padded to the largest number."""
    most = max(len(target.labels) for target in targets)
    like = targets[0].boxes
    boxes = like.new_zeros((len(targets), most, 4))
    labels = torch.zeros((len(targets), most), dtype=torch.int64, device=like.device)
    valid = torch.zeros((len(targets), most), dtype=torch.bool, device=like.device)
    for i, target in enumerate(targets):
        count = len(target.labels)
        boxes[i, :count], labels[i, :count], valid[i, :count] = target.boxes, target.labels, True
    return PaddedTargets(boxes, labels, valid)


@torch.no_grad()
def assign(predictions: Predictions, anchors: Anchors, targets: PaddedTargets) -> Assignment:
    """Give each object up to 10 anchors, those whose prediction already fits it best.

    Candidates are the anchors whose centre lies in the object's box, ranked by score^0.5 · CIoU^6. An anchor that
    several objects claim goes to the object around it of largest CIoU. The class target is the rank value, rescaled for each object
    so that its largest equals the object's largest CIoU. Everything is in pixels of the network input.
    """
    batch, anchor_count, _ = predictions.boxes.shape
    objects = targets.boxes.shape[1]
    if objects == 0:
        shape = (batch, anchor_count)
        foreground = torch.zeros(shape, dtype=torch.bool, device=anchors.points.device)
        return Assignment(foreground, foreground.long(), predictions.boxes.new_zeros(shape))

    image, obj, anchor = centres_inside(anchors.points, targets).nonzero(as_tuple=True)
    overlap = complete_iou(targets.boxes[image, obj], predictions.boxes[image, anchor]).clamp_min(0)
    score = predictions.scores[image, anchor, targets.labels[image, obj]]
    dense = predictions.boxes.new_zeros((batch, objects, anchor_count))
    overlaps = dense.index_put((image, obj, anchor), overlap)
    alignment = dense.index_put((image, obj, anchor), score**SCORE_POWER * overlap**IOU_POWER)

    best = alignment.topk(min(CANDIDATES, anchor_count), dim=2)
    claims = torch.zeros_like(alignment, dtype=torch.bool).scatter_(2, best.indices, best.values > 0)
    contested = claims.sum(dim=1, keepdim=True) > 1
    owner = torch.where(contested, overlaps, claims.to(overlaps.dtype)).argmax(dim=1)
    owned = claims.any(dim=1, keepdim=True) & (
        owner[:, None] == torch.arange(objects, device=owner.device)[None, :, None]
    )

    alignment, overlaps = alignment * owned, overlaps * owned
    largest_alignment = alignment.amax(dim=2, keepdim=True) + NO_ALIGNMENT
    weights = (alignment / largest_alignment * overlaps.amax(dim=2, keepdim=True)).sum(dim=1)
    foreground = owned.any(dim=1)
    return Assignment(foreground, owner * foreground, weights)


def centres_inside(points: Float[Tensor, "anchors 2"], targets: PaddedTargets) -> Bool[Tensor, "batch objects anchors"]:
    """Whether an anchor's centre lies in an object's box (sides shorter than 16 px widened about the box's centre)."""
    low, high = targets.boxes.chunk(2, dim=-1)
    centre, half = (low + high) / 2, ((high - low) / 2).clamp_min(SMALLEST_SIDE / 2)
    low, high = (centre - half)[:, :, None], (centre + half)[:, :, None]
    inside = ((points > low) & (points < high)).all(dim=-1)
    return inside & targets.valid[..., None]
