"""Programmable gradient information: what guides a YOLOv9 in training (Wang, Yeh and Liao, YOLOv9, 2024, section 4.1).

An auxiliary branch reads maps of the network's backbone, has a head and pays a loss of its own, whose gradients reach the
backbone without the long way through neck and main head. It stands beside the network, not in it: training calls
`WithAuxiliaryBranch`; what is validated, averaged, saved and exported is the network alone.
"""

import torch
from torch import Tensor, nn

from detector.models.base import DetectionModel
from detector.models.yolo11 import upsample
from detector.models.yolov9 import Backbone, Pyramid, YOLOv9, YOLOv9Scale, slices_by_width
from detector.nn.gelan import SPPELAN, CBLinear
from detector.nn.head import DetectionHead, plain_class_branch
from detector.structures import AuxiliaryPredictions, RawPredictions


class AuxiliaryNeck(nn.Module):
    """t, s, m, e: pooling, top-down neck and head of its own on the backbone's maps, e's first backbone's.

    Of the auxiliary branch of e the design says nothing; its first backbone, which the main head reaches only through
    slices, has most use for a loss near it, and a second neck costs far less than a third backbone.
    """

    def __init__(self, scale: YOLOv9Scale, num_classes: int) -> None:
        super().__init__()
        p3, p4, p5 = scale.stages[0].out, scale.stages[1].out, scale.pooling[0]
        n3, n4 = scale.top_down3.out, scale.top_down4.out
        self.pooling = SPPELAN(scale.stages[2].out, *scale.pooling)
        self.top_down4 = scale.block(p5 + p4, scale.top_down4)
        self.top_down3 = scale.block(n4 + p3, scale.top_down3)
        self.head = DetectionHead((n3, n4, p5), num_classes, class_branch=plain_class_branch)

    def forward(self, _images: Tensor, pyramid: Pyramid) -> RawPredictions:
        p3, p4, p5 = pyramid
        p5 = self.pooling(p5)  # stride 32, out
        n4 = self.top_down4(torch.cat((upsample(p5), p4), dim=1))  # stride 16, out
        n3 = self.top_down3(torch.cat((upsample(n4), p3), dim=1))  # stride 8, out
        raw: RawPredictions = self.head((n3, n4, p5))
        return raw


class AuxiliaryBackbone(nn.Module):
    """c: the reversible branch, a backbone that starts again from the image and gets slices of the main one's maps; a head.

    After its downsamplings to strides 8, 16, 32 come the slices of that width from all maps at least as coarse.
    """

    def __init__(self, scale: YOLOv9Scale, num_classes: int) -> None:
        super().__init__()
        widths = [stage.out for stage in scale.stages]
        self.linears = nn.ModuleList(CBLinear(width, scale.downs[: i + 1]) for i, width in enumerate(widths))
        self.backbone = Backbone(scale)
        self.head = DetectionHead(widths, num_classes, class_branch=plain_class_branch)

    def forward(self, images: Tensor, pyramid: Pyramid) -> RawPredictions:
        given = [linear(x) for linear, x in zip(self.linears, pyramid, strict=True)]
        raw: RawPredictions = self.head(self.backbone(images, ((), (), *slices_by_width(given)))[2:])
        return raw


class WithAuxiliaryBranch(nn.Module):
    """A network and its auxiliary branch, as training calls them: the raw predictions of both, in either mode."""

    def __init__(self, model: YOLOv9) -> None:
        super().__init__()
        branch = AuxiliaryBackbone if model.scale.auxiliary_backbone else AuxiliaryNeck
        self.model = model
        self.auxiliary = branch(model.scale, model.head.num_classes)

    def forward(self, images: Tensor) -> AuxiliaryPredictions:
        for_neck, for_auxiliary = self.model.features(images)
        return AuxiliaryPredictions(
            main=self.model.head(self.model.neck(for_neck)), auxiliary=self.auxiliary(images, for_auxiliary)
        )


def add_auxiliary(model: DetectionModel) -> nn.Module:
    """`model` with a new auxiliary branch, or as it is if its family has none."""
    return WithAuxiliaryBranch(model) if isinstance(model, YOLOv9) else model
