"""Box arithmetic: anchors, decoding of distances, overlaps. Boxes are xyxy pixels; functions keep the frame they are given."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-7


class Anchors(NamedTuple):
    """The cell centers of all levels, P3 first, each level row by row, in pixels of the network input."""

    points: Float[Tensor, "anchors 2"]
    strides: Float[Tensor, " anchors"]


def make_anchors(sizes: Sequence[tuple[int, int]], strides: Sequence[int], like: Tensor) -> Anchors:
    """Cell centers ((i + 0.5)·stride) of feature maps of `sizes` (height, width), on the device and dtype of `like`."""
    points, spacing = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) * stride
        y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) * stride
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack((grid_x, grid_y), dim=-1).flatten(0, 1))
        spacing.append(torch.full_like(grid_x, stride).flatten())
    return Anchors(torch.cat(points), torch.cat(spacing))


def decode_boxes(
    logits: Float[Tensor, "batch 64 anchors"], anchors: Anchors, bins: int = 16
) -> Float[Tensor, "batch anchors 4"]:
    """Boxes in pixels: per side the expectation over the softmax of its bins, times the stride, from the cell center.

    Source: Li et al., Generalized Focal Loss, 2020, section 3.2 (the distribution over `bins` distances).
    """
    distribution = logits.reshape(logits.shape[0], 4, bins, -1).softmax(2)
    values = torch.arange(bins, device=logits.device, dtype=logits.dtype)[:, None]
    distances = ((distribution * values).sum(2) * anchors.strides).transpose(1, 2)
    return torch.cat((anchors.points - distances[..., :2], anchors.points + distances[..., 2:]), dim=-1)


def box_area(boxes: Float[Tensor, "*shape 4"]) -> Float[Tensor, "*shape"]:
    """Area in square pixels; a box turned inside out counts as 0."""
    return (boxes[..., 2] - boxes[..., 0]).clamp_min(0) * (boxes[..., 3] - boxes[..., 1]).clamp_min(0)


def intersection_area(first: Float[Tensor, "*a 4"], second: Float[Tensor, "*b 4"]) -> Float[Tensor, "*c"]:
    """Area that boxes share, in square pixels; shapes broadcast."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    return (high - low).clamp_min(0).prod(-1)


def complete_iou(first: Float[Tensor, "*a 4"], second: Float[Tensor, "*b 4"]) -> Float[Tensor, "*c"]:
    """CIoU of boxes, shapes broadcast: IoU − center distance² / diagonal² − aspect term, in −1.5..1.

    Source: Zheng et al., Distance-IoU Loss, 2020, section 4; the aspect term's weight carries no gradient, as there.
    """
    width_1, height_1 = first[..., 2] - first[..., 0], first[..., 3] - first[..., 1] + EPSILON
    width_2, height_2 = second[..., 2] - second[..., 0], second[..., 3] - second[..., 1] + EPSILON
    intersection = intersection_area(first, second)
    iou = intersection / (width_1 * height_1 + width_2 * height_2 - intersection + EPSILON)
    low = torch.minimum(first[..., :2], second[..., :2])
    high = torch.maximum(first[..., 2:], second[..., 2:])
    diagonal = (high - low).square().sum(-1) + EPSILON
    distance = (first[..., :2] + first[..., 2:] - second[..., :2] - second[..., 2:]).square().sum(-1) / 4
    aspect = (4 / math.pi**2) * (torch.atan(width_2 / height_2) - torch.atan(width_1 / height_1)).square()
    with torch.no_grad():
        weight = aspect / (aspect - iou + (1 + EPSILON))
    return iou - (distance / diagonal + aspect * weight)
