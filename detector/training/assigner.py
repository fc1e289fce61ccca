"""Which anchor learns which object: task-aligned assignment (Feng et al., TOOD, 2021, section 3.2)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detector.geometry.boxes import Anchors, complete_iou
from detector.structures import Predictions, Targets

CANDIDATES = 10
"""Anchors an object may claim."""
PAIRS = 2**21
"""Pairs of object and anchor that are looked at together: the bound of the memory, however many objects a picture holds."""
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
    counts = torch.tensor([len(target.labels) for target in targets])
    valid = torch.arange(int(counts.max())) < counts[:, None]
    return PaddedTargets(
        pad_sequence([target.boxes for target in targets], batch_first=True),
        pad_sequence([target.labels for target in targets], batch_first=True),
        valid.to(targets[0].boxes.device),
    )


@torch.no_grad()
def assign(predictions: Predictions, anchors: Anchors, targets: PaddedTargets, pairs: int = PAIRS) -> Assignment:
    """Give each object up to 10 anchors, those whose prediction already fits it best.

    Candidates are the anchors whose centre lies in the object's box, ranked by score^0.5 · CIoU^6. An anchor that
    several objects claim goes to the object around it of largest CIoU. The class target is the rank value, rescaled for each object
    so that its largest equals the object's largest CIoU. Everything is in pixels of the network input.

    The objects come in chunks of `pairs` / anchors (at least one); the result is the same for every `pairs`.
    """
    batch, count, _ = predictions.boxes.shape
    image, slot = targets.valid.nonzero(as_tuple=True)

    claims = image.new_zeros(batch * count)  # how many objects claim the anchor
    claimant = torch.zeros_like(claims)  # which one, where it is one
    closest = torch.zeros_like(claims)  # overlap and number of the object around it of largest CIoU
    for chunk in torch.split(torch.arange(len(image), device=image.device), max(pairs // count, 1)):
        inside = centres_inside(anchors.points, targets.boxes[image[chunk], slot[chunk]])
        row, anchor = inside.nonzero(as_tuple=True)
        obj = chunk[row]
        alignment, overlap = fit(predictions, targets, image[obj], slot[obj], anchor)
        closest.scatter_reduce_(0, image[obj] * count + anchor, pack(overlap, obj), "amax")
        best = alignment.new_zeros(inside.shape).index_put_((row, anchor), alignment).topk(min(CANDIDATES, count))
        claimed, wanted = image[chunk, None] * count + best.indices, (best.values > 0).long()
        claims.put_(claimed, wanted, accumulate=True)
        claimant.put_(claimed, wanted * chunk[:, None], accumulate=True)

    foreground = claims > 0
    cell = foreground.nonzero().squeeze(1)
    owner = torch.where(claims > 1, unpack(closest), claimant)[cell]
    alignment, overlap = fit(predictions, targets, image[owner], slot[owner], cell % count)
    none = overlap.new_zeros(len(image))
    largest_alignment = none.scatter_reduce(0, owner, alignment, "amax") + NO_ALIGNMENT
    largest_overlap = none.scatter_reduce(0, owner, overlap, "amax")
    object_index = torch.zeros_like(claims).index_put_((cell,), slot[owner])
    weights = overlap.new_zeros(batch * count)
    weights[cell] = alignment / largest_alignment[owner] * largest_overlap[owner]
    return Assignment(*(values.view(batch, count) for values in (foreground, object_index, weights)))


def centres_inside(
    points: Float[Tensor, "anchors 2"], boxes: Float[Tensor, "*objects 4"]
) -> Bool[Tensor, "*objects anchors"]:
    """Whether an anchor's centre lies in an object's box (sides shorter than 16 px widened about the box's centre)."""
    low, high = boxes.chunk(2, dim=-1)
    centre, half = (low + high) / 2, ((high - low) / 2).clamp_min(SMALLEST_SIDE / 2)
    left, top = (centre - half)[..., None].unbind(-2)
    right, bottom = (centre + half)[..., None].unbind(-2)
    x, y = points.unbind(1)
    return (x > left) & (x < right) & (y > top) & (y < bottom)


def fit(
    predictions: Predictions,
    targets: PaddedTargets,
    image: Int64[Tensor, " n"],
    slot: Int64[Tensor, " n"],
    anchor: Int64[Tensor, " n"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """How well what anchors predict fits objects: the rank value, and CIoU, not below 0.

    The powers are products since the last bit of `pow` depends on where in a tensor a value stands.
    """
    overlap = complete_iou(targets.boxes[image, slot], predictions.boxes[image, anchor]).clamp_min(0)
    score = predictions.scores[image, anchor, targets.labels[image, slot]]
    return score.sqrt() * (overlap * overlap * overlap).square(), overlap


def pack(overlap: Float[Tensor, " n"], obj: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Integers that sort by overlap, of equal ones the lower number first: the bits of a positive float sort as it does."""
    return overlap.float().view(torch.int32).long() * 2**32 - obj


def unpack(packed: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """The number that `pack` put in."""
    return -packed % 2**32
