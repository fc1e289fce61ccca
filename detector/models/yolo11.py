"""YOLO11: CSP backbone, pyramid pooling, spatial attention, top-down and bottom-up neck, decoupled head."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detector.models.base import DetectionModel
from detector.nn.conv import Conv
from detector.nn.csp import C3K2
from detector.nn.head import DetectionHead
from detector.nn.spatial_attention import C2PSA
from detector.nn.spff import SPFF


@dataclass(frozen=True)
class YOLO11Scale:
    """How a size of the family differs: repeats times `depth`, channels up to `cap` times `width`."""

    depth: float
    width: float
    cap: int
    deep_everywhere: bool

    def channels(self, published: int) -> int:
        return 8 * math.ceil(min(published, self.cap) * self.width / 8)

    def repeats(self, published: int) -> int:
        return max(round(published * self.depth), 1)


SCALES = {
    "n": YOLO11Scale(depth=0.50, width=0.25, cap=1024, deep_everywhere=False),
    "s": YOLO11Scale(depth=0.50, width=0.50, cap=1024, deep_everywhere=False),
    "m": YOLO11Scale(depth=0.50, width=1.00, cap=512, deep_everywhere=True),
    "l": YOLO11Scale(depth=1.00, width=1.00, cap=512, deep_everywhere=True),
    "x": YOLO11Scale(depth=1.00, width=1.50, cap=512, deep_everywhere=True),
}


class Join(nn.Module):
    """The coarser map at twice its size beside the finer."""

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        return torch.cat((upsample(coarse), fine), dim=1)


class YOLO11(DetectionModel):
    """The published network; `forward` is that of `DetectionModel`, `levels` reads as the network's diagram."""

    def __init__(self, scale: YOLO11Scale, num_classes: int, class_width: int | None = None) -> None:
        super().__init__()
        c, repeats, deep = scale.channels, scale.repeats(2), scale.deep_everywhere
        c2, c3, c4, c5 = c(256), c(512), c(512), c(1024)
        n3, n4, n5 = c(256), c(512), c(1024)

        self.stem = nn.Sequential(Conv(3, c(64), 3, 2), Conv(c(64), c(128), 3, 2))
        self.stage2 = C3K2(c(128), c2, repeats, deep, expansion=0.25)
        self.down3 = Conv(c2, c(256), 3, 2)
        self.stage3 = C3K2(c(256), c3, repeats, deep, expansion=0.25)
        self.down4 = Conv(c3, c(512), 3, 2)
        self.stage4 = C3K2(c(512), c4, repeats, deep=True)
        self.down5 = Conv(c4, c(1024), 3, 2)
        self.stage5 = C3K2(c(1024), c5, repeats, deep=True)
        self.pooling = SPFF(c5, c5)
        self.attention = C2PSA(c5, repeats)

        self.join4: nn.Module = Join()
        self.top_down4 = C3K2(c5 + c4, n4, repeats, deep)
        self.join3: nn.Module = Join()
        self.top_down3 = C3K2(n4 + c3, n3, repeats, deep)
        self.neck_down4 = Conv(n3, c(256), 3, 2)
        self.bottom_up4 = C3K2(c(256) + n4, n4, repeats, deep)
        self.neck_down5 = Conv(n4, c(512), 3, 2)
        self.bottom_up5 = C3K2(c(512) + c5, n5, repeats, deep=True)
        self.head = DetectionHead((n3, n4, n5), num_classes, class_width=class_width)

    def levels(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.stage2(self.stem(images))  # stride 4
        p3 = self.stage3(self.down3(x))  # stride 8
        p4 = self.stage4(self.down4(p3))  # stride 16
        p5 = self.attention(self.pooling(self.stage5(self.down5(p4))))  # stride 32

        n4 = self.top_down4(self.join4(p5, p4))  # stride 16
        n3 = self.top_down3(self.join3(n4, p3))  # stride 8, out
        n4 = self.bottom_up4(torch.cat((self.neck_down4(n3), n4), dim=1))  # stride 16, out
        n5 = self.bottom_up5(torch.cat((self.neck_down5(n4), p5), dim=1))  # stride 32, out
        return n3, n4, n5


def upsample(x: Tensor) -> Tensor:
    """Twice the height and width, nearest neighbor."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
