"""YOLO11 with cross-scale attention where its neck joins a finer map with a coarser one."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detector.models.yolo11 import YOLO11, YOLO11Scale, upsample
from detector.nn.cross_scale import CrossScaleAttention


class CrossScaleJoin(nn.Module):
    """The coarser map at twice its size beside the finer, whose pixels have looked at the coarser before."""

    def __init__(self, coarse_channels: int, fine_channels: int) -> None:
        super().__init__()
        self.attention = CrossScaleAttention(fine_channels, coarse_channels)

    def forward(
        self, coarse: Float[Tensor, "batch coarse_channels h w"], fine: Float[Tensor, "batch fine_channels 2*h 2*w"]
    ) -> Float[Tensor, "batch coarse_channels+fine_channels 2*h 2*w"]:
        return torch.cat((upsample(coarse), self.attention(fine, coarse)), dim=1)


class YOLO11Cross(YOLO11):
    """YOLO11 whose two top-down joins are `CrossScaleJoin`.

    Those are the places where the finer map needs what the coarser knows: P4 (stride 16) looks at P5, P3 (stride 8) at
    N4. The two bottom-up joins stay: there the finer map has been brought down to the coarser one's size, so that no pair
    of scales is left, and what flows is detail, for which a convolution that sees the neighborhood is the right tool.

    A new model computes what a YOLO11 with the same other weights computes (see `CrossScaleAttention`), and the other
    weights of both are the same for the same seed.
    """

    def __init__(self, scale: YOLO11Scale, num_classes: int, class_width: int | None = None) -> None:
        super().__init__(scale, num_classes, class_width)
        c3, c4, c5, n4 = scale.channels(512), scale.channels(512), scale.channels(1024), scale.channels(512)
        self.join4 = CrossScaleJoin(c5, c4)
        self.join3 = CrossScaleJoin(n4, c3)
