"""The decoupled head: a box branch and a class branch per level, and the decoding of what they say."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detector.boxes import Anchors, decode_boxes
from detector.nn.conv import Conv, depthwise
from detector.structures import Predictions, RawPredictions

BINS = 16
"""Bins of the distribution over a side's distance, in strides 0..15."""


def box_branch(in_channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(Conv(in_channels, width, 3), Conv(width, width, 3), nn.Conv2d(width, 4 * BINS, 1))


def separable_class_branch(in_channels: int, width: int, num_classes: int) -> nn.Sequential:
    """Depthwise-separable, as in YOLO11."""
    return nn.Sequential(
        nn.Sequential(depthwise(in_channels, 3), Conv(in_channels, width)),
        nn.Sequential(depthwise(width, 3), Conv(width, width)),
        nn.Conv2d(width, num_classes, 1),
    )


def plain_class_branch(in_channels: int, width: int, num_classes: int) -> nn.Sequential:
    """Class branch of 3x3 Conv, as in YOLOv9."""
    return nn.Sequential(Conv(in_channels, width, 3), Conv(width, width, 3), nn.Conv2d(width, num_classes, 1))


class DetectionHead(nn.Module):
    """Box and class logits for each cell of each level.

    `in_channels`: widths of the levels, finest first; `strides`: input pixels per cell of each level; `class_branch`:
    makes a level's class branch of its width, the branch's width and the number of classes; `class_width`: width of the
    class branches in channels, by the published rule if None. As an attribute it is None wherever the rule holds.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        strides: Sequence[int] = (8, 16, 32),
        class_branch: Callable[[int, int, int], nn.Sequential] = separable_class_branch,
        class_width: int | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.strides = tuple(strides)
        box_width = max(16, in_channels[0] // 4, 4 * BINS)
        rule = max(in_channels[0], min(num_classes, 100))
        self.class_width = None if class_width == rule else class_width
        self.box_branches = nn.ModuleList(box_branch(c, box_width) for c in in_channels)
        self.class_branches = nn.ModuleList(class_branch(c, class_width or rule, num_classes) for c in in_channels)
        self._init_biases()

    def _init_biases(self) -> None:
        """Boxes start at about equal weight for every bin; classes at 5 objects of all classes in a 640 px image."""
        for box, cls, stride in zip(self.box_branches, self.class_branches, self.strides, strict=True):
            nn.init.constant_(box[-1].bias, 1.0)  # type: ignore[index]
            nn.init.constant_(cls[-1].bias, math.log(5 / self.num_classes / (640 / stride) ** 2))  # type: ignore[index]

    def forward(self, levels: Sequence[Float[Tensor, "batch _c _h _w"]]) -> RawPredictions:
        boxes = [branch(level).flatten(2) for branch, level in zip(self.box_branches, levels, strict=True)]
        scores = [branch(level).flatten(2) for branch, level in zip(self.class_branches, levels, strict=True)]
        return RawPredictions(torch.cat(boxes, dim=2), torch.cat(scores, dim=2))


def decode(raw: RawPredictions, anchors: Anchors) -> Predictions:
    """Logits to boxes (xyxy pixels of the network input) and scores (sigmoid)."""
    return Predictions(decode_boxes(raw.boxes, anchors, BINS), raw.scores.sigmoid().transpose(1, 2))
