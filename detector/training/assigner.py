"""Task-aligned assignment: which anchor learns which object (Feng et al., TOOD, 2021, section 3.2).

Four steps: candidates (`centers_inside`), alignment metric (`alignment_metric`), top-k (`select_topk`), conflicts
(`Claims.resolve`). They run over chunks of objects, not of images: a single image may hold thousands of objects, so that no
number of images would bound the memory.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detector.boxes import Anchors, complete_iou
from detector.structures import Predictions, Targets

TOPK = 10
"""Maximum number of anchors that an object claims."""
MAX_PAIRS = 2**21
"""Pairs of object and anchor examined at a time: bounds the memory, however many objects an image holds."""
EPSILON = 1e-9
"""Keeps the rescaling finite; an object that nothing fits yet gets hardly any class target (as published)."""
MIN_SIDE = 16.0
"""Pixels: a shorter side of a box is widened to this for the test whether an anchor's center lies in the box."""


class PaddedTargets(NamedTuple):
    """The objects of a batch in one tensor; `valid` tells objects from padding. Boxes xyxy, pixels of the network input."""

    boxes: Float[Tensor, "batch objects 4"]
    labels: Int64[Tensor, "batch objects"]
    valid: Bool[Tensor, "batch objects"]


class Assignment(NamedTuple):
    """What each anchor learns.

    foreground: whether an object owns the anchor; object_index: which one (0 where none does);
    weights: the class target of the owner's label, 0 for background; also the weight of the box losses.
    """

    foreground: Bool[Tensor, "batch anchors"]
    object_index: Int64[Tensor, "batch anchors"]
    weights: Float[Tensor, "batch anchors"]


def pad_targets(targets: Sequence[Targets]) -> PaddedTargets:
    """Stack the images' objects, padded to the largest number."""
    counts = torch.tensor([len(target.labels) for target in targets])
    valid = torch.arange(int(counts.max())) < counts[:, None]
    return PaddedTargets(
        pad_sequence([target.boxes for target in targets], batch_first=True),
        pad_sequence([target.labels for target in targets], batch_first=True),
        valid.to(targets[0].boxes.device),
    )


@torch.no_grad()
def assign(
    predictions: Predictions, anchors: Anchors, targets: PaddedTargets, max_pairs: int = MAX_PAIRS
) -> Assignment:
    """Give each object up to 10 anchors, those whose prediction already fits it best.

    Candidates are the anchors whose center lies in the object's box; the 10 of largest alignment metric are claimed. An
    anchor that several objects claim goes to the object around it of largest CIoU. The class target is the alignment
    metric, rescaled for each object so that its largest value equals the object's largest CIoU. Boxes and points are in
    pixels of the network input.

    Objects are processed in chunks of `max_pairs` / anchors (at least one); the result does not depend on it.
    """
    batch, count, _ = predictions.boxes.shape
    image, slot = targets.valid.nonzero(as_tuple=True)  # of each object
    claims = Claims.none(batch * count, predictions.boxes)
    for chunk in torch.split(torch.arange(len(image), device=image.device), max(max_pairs // count, 1)):
        inside = centers_inside(anchors.points, targets.boxes[image[chunk], slot[chunk]])
        row, anchor = inside.nonzero(as_tuple=True)
        objects = chunk[row]
        alignment, iou = alignment_metric(predictions, targets, image[objects], slot[objects], anchor)
        claimed = select_topk(alignment, row, anchor, inside)
        claims.add(image[objects] * count + anchor, objects, iou, claimed)

    cell, owner = claims.resolve()  # cell: image · anchors + anchor
    alignment, iou = alignment_metric(predictions, targets, image[owner], slot[owner], cell % count)
    zeros = iou.new_zeros(len(image))
    max_alignment = zeros.scatter_reduce(0, owner, alignment, "amax") + EPSILON
    max_iou = zeros.scatter_reduce(0, owner, iou, "amax")
    weights = iou.new_zeros(batch * count)
    weights[cell] = alignment / max_alignment[owner] * max_iou[owner]
    object_index = torch.zeros_like(claims.claims).index_put_((cell,), slot[owner])
    return Assignment(*(values.view(batch, count) for values in (claims.claims > 0, object_index, weights)))


def centers_inside(
    points: Float[Tensor, "anchors 2"], boxes: Float[Tensor, "*objects 4"]
) -> Bool[Tensor, "*objects anchors"]:
    """Whether an anchor's center lies in an object's box (sides shorter than 16 px widened about the box's center)."""
    low, high = boxes.chunk(2, dim=-1)
    center, half = (low + high) / 2, ((high - low) / 2).clamp_min(MIN_SIDE / 2)
    left, top = (center - half)[..., None].unbind(-2)
    right, bottom = (center + half)[..., None].unbind(-2)
    x, y = points.unbind(1)
    return (x > left) & (x < right) & (y > top) & (y < bottom)


def alignment_metric(
    predictions: Predictions,
    targets: PaddedTargets,
    image: Int64[Tensor, " n"],
    slot: Int64[Tensor, " n"],
    anchor: Int64[Tensor, " n"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """How well what anchors predict fits objects, score^0.5 · CIoU^6; and CIoU, not below 0.

    The powers are products since the last bit of `pow` depends on where in a tensor a value stands.
    """
    iou = complete_iou(targets.boxes[image, slot], predictions.boxes[image, anchor]).clamp_min(0)
    score = predictions.scores[image, anchor, targets.labels[image, slot]]
    return score.sqrt() * (iou * iou * iou).square(), iou


def select_topk(
    alignment: Float[Tensor, " pairs"],
    row: Int64[Tensor, " pairs"],
    anchor: Int64[Tensor, " pairs"],
    inside: Bool[Tensor, "objects anchors"],
) -> Bool[Tensor, " pairs"]:
    """Whether a pair (row of an object, anchor) is among its object's 10 of largest alignment, which must be above 0."""
    by_object = alignment.new_zeros(inside.shape).index_put_((row, anchor), alignment)
    best = by_object.topk(min(TOPK, inside.shape[1]))
    return torch.zeros_like(inside).scatter_(1, best.indices, best.values > 0)[row, anchor]


class Claims(NamedTuple):
    """Claims of objects on anchors, gathered chunk by chunk; tensors over the cells (image, anchor) of the batch.

    claims: number of claims; claimant: the object where it is one; closest, closest_iou: the object around the anchor of
    largest CIoU (the first of equals), and that.
    """

    claims: Int64[Tensor, " cells"]
    claimant: Int64[Tensor, " cells"]
    closest: Int64[Tensor, " cells"]
    closest_iou: Float[Tensor, " cells"]

    @classmethod
    def none(cls, cells: int, like: Tensor) -> "Claims":
        zeros = torch.zeros(cells, dtype=torch.int64, device=like.device)
        return cls(zeros, zeros.clone(), zeros.clone(), like.new_full((cells,), -1.0))

    def add(
        self,
        cell: Int64[Tensor, " pairs"],
        objects: Int64[Tensor, " pairs"],
        iou: Float[Tensor, " pairs"],
        claimed: Bool[Tensor, " pairs"],
    ) -> None:
        """Add candidate pairs, of objects with higher numbers than those before."""
        self.claims.put_(cell[claimed], torch.ones_like(cell[claimed]), accumulate=True)
        self.claimant.index_put_((cell[claimed],), objects[claimed])
        largest = self.closest_iou.scatter_reduce(0, cell, iou, "amax")
        best = iou == largest[cell]
        first = torch.full_like(self.closest, torch.iinfo(torch.int64).max)
        first.scatter_reduce_(0, cell[best], objects[best], "amin")
        self.closest.copy_(torch.where(largest > self.closest_iou, first, self.closest))
        self.closest_iou.copy_(largest)

    def resolve(self) -> tuple[Int64[Tensor, " foreground"], Int64[Tensor, " foreground"]]:
        """The cells that are claimed, and the object that owns each: its claimant, of several objects the closest one."""
        cell = (self.claims > 0).nonzero().squeeze(1)
        return cell, torch.where(self.claims > 1, self.closest, self.claimant)[cell]
