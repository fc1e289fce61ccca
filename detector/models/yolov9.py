"""YOLOv9: GELAN backbone, pyramid pooling, top-down and bottom-up neck, decoupled head; e has two composite backbones.

What is here is the network as it infers. The auxiliary branch that guides it in training is in `detector.models.pgi`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detector.models.base import DetectionModel
from detector.models.yolo11 import upsample
from detector.nn.conv import Conv
from detector.nn.gelan import ELAN1, SPPELAN, AConv, ADown, CBLinear, RepNCSPELAN, cb_fuse
from detector.nn.head import DetectionHead, plain_class_branch


class Widths(NamedTuple):
    """Widths of an ELAN block: its output, the two halves it starts with together, each inner block's output."""

    out: int
    split: int
    inner: int


@dataclass(frozen=True)
class YOLOv9Scale:
    """A size of the family: widths in channels, `repeats` of RepBottleneck in each RepCSP.

    Three entries stand for strides 8, 16, 32 (`stages`, `downs`: after the downsampling to them) or, in the neck, are
    named by what they belong to; `pooling` is the output of SPPELAN and its hidden width; `plain_stage2`: ELAN1 there;
    `auxiliary_backbone`: in training the auxiliary branch is another backbone, not a neck.
    """

    stem: tuple[int, int]
    stage2: Widths
    plain_stage2: bool
    down: type[AConv] | type[ADown]
    downs: tuple[int, int, int]
    stages: tuple[Widths, Widths, Widths]
    pooling: tuple[int, int]
    top_down4: Widths
    top_down3: Widths
    neck_down4: int
    bottom_up4: Widths
    neck_down5: int
    bottom_up5: Widths
    repeats: int
    auxiliary_backbone: bool = False

    def block(self, in_channels: int, widths: Widths) -> RepNCSPELAN:
        return RepNCSPELAN(in_channels, *widths, self.repeats)


def _narrow_scale(
    stem: tuple[int, int],
    stage2: Widths,
    plain_stage2: bool,
    widths: tuple[int, int, int],
    neck_downs: tuple[int, int],
    repeats: int,
) -> YOLOv9Scale:
    """t, s and m: every block at one stride has one width w, with halves of w together and inner blocks of w / 2."""
    w3, w4, w5 = (Widths(w, w, w // 2) for w in widths)
    return YOLOv9Scale(
        stem=stem,
        stage2=stage2,
        plain_stage2=plain_stage2,
        down=AConv,
        downs=widths,
        stages=(w3, w4, w5),
        pooling=(w5.out, w5.inner),
        top_down4=w4,
        top_down3=w3,
        neck_down4=neck_downs[0],
        bottom_up4=w4,
        neck_down5=neck_downs[1],
        bottom_up5=w5,
        repeats=repeats,
    )


SCALES = {
    "t": _narrow_scale((16, 32), Widths(32, 32, 16), True, (64, 96, 128), (48, 64), repeats=3),
    "s": _narrow_scale((32, 64), Widths(64, 64, 32), True, (128, 192, 256), (96, 128), repeats=3),
    "m": _narrow_scale((32, 64), Widths(128, 128, 64), False, (240, 360, 480), (184, 240), repeats=1),
    "c": YOLOv9Scale(
        stem=(64, 128),
        stage2=Widths(256, 128, 64),
        plain_stage2=False,
        down=ADown,
        downs=(256, 512, 512),
        stages=(Widths(512, 256, 128), Widths(512, 512, 256), Widths(512, 512, 256)),
        pooling=(512, 256),
        top_down4=Widths(512, 512, 256),
        top_down3=Widths(256, 256, 128),
        neck_down4=256,
        bottom_up4=Widths(512, 512, 256),
        neck_down5=512,
        bottom_up5=Widths(512, 512, 256),
        repeats=1,
        auxiliary_backbone=True,
    ),
    "e": YOLOv9Scale(
        stem=(64, 128),
        stage2=Widths(256, 128, 64),
        plain_stage2=False,
        down=ADown,
        downs=(256, 512, 1024),
        stages=(Widths(512, 256, 128), Widths(1024, 512, 256), Widths(1024, 512, 256)),
        pooling=(512, 256),
        top_down4=Widths(512, 512, 256),
        top_down3=Widths(256, 256, 128),
        neck_down4=256,
        bottom_up4=Widths(512, 512, 256),
        neck_down5=512,
        bottom_up5=Widths(512, 1024, 512),
        repeats=2,
    ),
}

Pyramid = tuple[Tensor, Tensor, Tensor]
"""Feature maps of strides 8, 16, 32."""


class Backbone(nn.Module):
    """GELAN: after each of five downsamplings but the first, a block."""

    def __init__(self, scale: YOLOv9Scale) -> None:
        super().__init__()
        stem, (down3, down4, down5), (stage3, stage4, stage5) = scale.stem, scale.downs, scale.stages
        self.stem = nn.ModuleList((Conv(3, stem[0], 3, 2), Conv(stem[0], stem[1], 3, 2)))
        self.stage2 = ELAN1(stem[1], *scale.stage2) if scale.plain_stage2 else scale.block(stem[1], scale.stage2)
        self.down3 = scale.down(scale.stage2.out, down3)
        self.stage3 = scale.block(down3, stage3)
        self.down4 = scale.down(stage3.out, down4)
        self.stage4 = scale.block(down4, stage4)
        self.down5 = scale.down(stage4.out, down5)
        self.stage5 = scale.block(down5, stage5)

    def forward(
        self, images: Tensor, slices: Sequence[Sequence[Tensor]] = ((),) * 5
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The maps of strides 2, 4, 8, 16, 32. `slices`: for each downsampling what another backbone adds after it."""
        x1 = cb_fuse(self.stem[0](images), slices[0])  # stride 2
        x2 = self.stage2(cb_fuse(self.stem[1](x1), slices[1]))  # stride 4
        p3 = self.stage3(cb_fuse(self.down3(x2), slices[2]))  # stride 8
        p4 = self.stage4(cb_fuse(self.down4(p3), slices[3]))  # stride 16
        p5 = self.stage5(cb_fuse(self.down5(p4), slices[4]))  # stride 32
        return x1, x2, p3, p4, p5


class CompositeBackbone(nn.Module):
    """Two backbones: every map of the first gives slices to the second, which starts again from the image.

    After each of its downsamplings the second gets the slices of its width from all maps of the first that are at least
    as coarse. Source: Liang et al., CBNet: a composite backbone network for object detection, 2022 (dense connections).
    """

    def __init__(self, scale: YOLOv9Scale) -> None:
        super().__init__()
        maps = (scale.stem[0], scale.stage2.out, *(stage.out for stage in scale.stages))
        downsampled = (*scale.stem, *scale.downs)
        self.first = Backbone(scale)
        self.linears = nn.ModuleList(CBLinear(width, downsampled[: i + 1]) for i, width in enumerate(maps))
        self.second = Backbone(scale)

    def forward(self, images: Tensor) -> tuple[Pyramid, Pyramid]:
        """Strides 8, 16, 32 of the second backbone, and of the first."""
        first = self.first(images)
        given = [linear(x) for linear, x in zip(self.linears, first, strict=True)]
        return self.second(images, slices_by_width(given))[2:], first[2:]


def slices_by_width(given: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """From the slices of each map, finest map first, those of each width, which all maps at least as coarse have."""
    return [[each[i] for each in given[i:]] for i in range(len(given))]


class YOLOv9(DetectionModel):
    """The published network (t, s, m, c); `neck` and `features` read as its diagram."""

    def __init__(self, scale: YOLOv9Scale, num_classes: int, class_width: int | None = None) -> None:
        super().__init__()
        self.scale = scale
        self.backbone = self.make_backbone(scale)
        p3, p4, p5 = scale.stages[0].out, scale.stages[1].out, scale.pooling[0]
        n3, n4, n5 = scale.top_down3.out, scale.bottom_up4.out, scale.bottom_up5.out
        self.pooling = SPPELAN(scale.stages[2].out, *scale.pooling)
        self.top_down4 = scale.block(p5 + p4, scale.top_down4)
        self.top_down3 = scale.block(scale.top_down4.out + p3, scale.top_down3)
        self.neck_down4 = scale.down(n3, scale.neck_down4)
        self.bottom_up4 = scale.block(scale.neck_down4 + scale.top_down4.out, scale.bottom_up4)
        self.neck_down5 = scale.down(n4, scale.neck_down5)
        self.bottom_up5 = scale.block(scale.neck_down5 + p5, scale.bottom_up5)
        self.head = DetectionHead((n3, n4, n5), num_classes, class_branch=plain_class_branch, class_width=class_width)

    @staticmethod
    def make_backbone(scale: YOLOv9Scale) -> nn.Module:
        return Backbone(scale)

    def features(self, images: Tensor) -> tuple[Pyramid, Pyramid]:
        """What the neck reads, and what an auxiliary branch reads."""
        pyramid = self.backbone(images)[2:]
        return pyramid, pyramid

    def neck(self, pyramid: Pyramid) -> Pyramid:
        p3, p4, p5 = pyramid
        p5 = self.pooling(p5)  # stride 32
        n4 = self.top_down4(torch.cat((upsample(p5), p4), dim=1))  # stride 16
        n3 = self.top_down3(torch.cat((upsample(n4), p3), dim=1))  # stride 8, out
        n4 = self.bottom_up4(torch.cat((self.neck_down4(n3), n4), dim=1))  # stride 16, out
        n5 = self.bottom_up5(torch.cat((self.neck_down5(n4), p5), dim=1))  # stride 32, out
        return n3, n4, n5

    def levels(self, images: Tensor) -> Pyramid:
        pyramid, _ = self.features(images)
        return self.neck(pyramid)


class YOLOv9E(YOLOv9):
    """The published network e: the neck reads the second of two composite backbones."""

    @staticmethod
    def make_backbone(scale: YOLOv9Scale) -> nn.Module:
        return CompositeBackbone(scale)

    def features(self, images: Tensor) -> tuple[Pyramid, Pyramid]:
        """The second backbone's maps for the neck, the first one's for an auxiliary branch."""
        pyramids: tuple[Pyramid, Pyramid] = self.backbone(images)
        return pyramids
