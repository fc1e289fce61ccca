"""How publishers name and shape the tensors of networks that are known here."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from detector.models.catalog import PUBLISHED
from detector.models.yolo11 import YOLO11
from detector.models.yolov9 import YOLOv9, YOLOv9E
from detector.nn.conv import RepConv
from detector.nn.csp import C3K, C3K2, Bottleneck
from detector.nn.gelan import ELAN1, SPPELAN, AConv, ADown, RepBottleneck, RepCSP, RepNCSPELAN
from detector.nn.head import DetectionHead
from detector.nn.spatial_attention import C2PSA, AttentionBlock, SpatialAttention
from detector.nn.spff import SPFF

Children = Mapping[type[nn.Module], Mapping[str, str]]
"""For each module: our child's name -> the publisher's; a child that is not listed has the same name in both.

A dotted name is a grandchild of a child that the publisher doesn't have."""


@dataclass(frozen=True, eq=False)  # one of the few below, compared as such
class Layout:
    """A publisher's names and shapes.

    models: the networks there are, by our names; bins: names within the head of the constants 0..15 that decode
    distances; box_groups: groups of the last two convolutions of a box branch, which are whole in ours.
    """

    models: tuple[str, ...]
    children: Children
    bins: tuple[str, ...]
    box_groups: int = 1


CHILDREN: Children = {
    Bottleneck: {"conv1": "cv1", "conv2": "cv2"},
    C3K: {"deep": "cv1", "bypass": "cv2", "merge": "cv3", "blocks": "m"},
    C3K2: {"split": "cv1", "merge": "cv2", "blocks": "m"},
    SPFF: {"reduce": "cv1", "merge": "cv2"},
    C2PSA: {"split": "cv1", "merge": "cv2", "blocks": "m"},
    AttentionBlock: {"attention": "attn", "feed_forward": "ffn"},
    SpatialAttention: {"position": "pe", "project": "proj"},
    DetectionHead: {"box_branches": "cv2", "class_branches": "cv3"},
    YOLO11: {
        "stem": "model",  # its two convolutions are layers 0 and 1
        "stage2": "model.2",
        "down3": "model.3",
        "stage3": "model.4",
        "down4": "model.5",
        "stage4": "model.6",
        "down5": "model.7",
        "stage5": "model.8",
        "pooling": "model.9",
        "attention": "model.10",
        "top_down4": "model.13",
        "top_down3": "model.16",
        "neck_down4": "model.17",
        "bottom_up4": "model.19",
        "neck_down5": "model.20",
        "bottom_up5": "model.22",
        "head": "model.23",
    },
    RepConv: {"wide": "conv1", "pointwise": "conv2"},
    RepBottleneck: {"conv1": "cv1", "conv2": "cv2"},
    RepCSP: {"deep": "cv1", "bypass": "cv2", "merge": "cv3", "blocks": "m"},
    ELAN1: {"split": "cv1", "first": "cv2", "second": "cv3", "merge": "cv4"},
    RepNCSPELAN: {"split": "cv1", "first": "cv2", "second": "cv3", "merge": "cv4"},
    AConv: {"conv": "cv1"},
    ADown: {"conv": "cv1", "pooled": "cv2"},
    SPPELAN: {"reduce": "cv1", "merge": "cv5"},
    YOLOv9: {
        "backbone.stem.0": "model.0",
        "backbone.stem.1": "model.1",
        "backbone.stage2": "model.2",
        "backbone.down3": "model.3",
        "backbone.stage3": "model.4",
        "backbone.down4": "model.5",
        "backbone.stage4": "model.6",
        "backbone.down5": "model.7",
        "backbone.stage5": "model.8",
        "pooling": "model.9",
        "top_down4": "model.12",
        "top_down3": "model.15",
        "neck_down4": "model.16",
        "bottom_up4": "model.18",
        "neck_down5": "model.19",
        "bottom_up5": "model.21",
        "head": "model.22",
    },
    YOLOv9E: {
        "backbone.first.stem.0": "model.1",
        "backbone.first.stem.1": "model.2",
        "backbone.first.stage2": "model.3",
        "backbone.first.down3": "model.4",
        "backbone.first.stage3": "model.5",
        "backbone.first.down4": "model.6",
        "backbone.first.stage4": "model.7",
        "backbone.first.down5": "model.8",
        "backbone.first.stage5": "model.9",
        "backbone.linears.0": "model.10",
        "backbone.linears.1": "model.11",
        "backbone.linears.2": "model.12",
        "backbone.linears.3": "model.13",
        "backbone.linears.4": "model.14",
        "backbone.second.stem.0": "model.15",
        "backbone.second.stem.1": "model.17",
        "backbone.second.stage2": "model.19",
        "backbone.second.down3": "model.20",
        "backbone.second.stage3": "model.22",
        "backbone.second.down4": "model.23",
        "backbone.second.stage4": "model.25",
        "backbone.second.down5": "model.26",
        "backbone.second.stage5": "model.28",
        "pooling": "model.29",
        "top_down4": "model.32",
        "top_down3": "model.35",
        "neck_down4": "model.36",
        "bottom_up4": "model.38",
        "neck_down5": "model.39",
        "bottom_up5": "model.41",
        "head": "model.42",
    },
}
"""Numbered layers, cv1, cv2, m."""

COMMON = Layout(tuple(PUBLISHED), CHILDREN, bins=("dfl.conv.weight",))
"""That of most published checkpoints of YOLO11 and YOLOv9."""

MIT = Layout(
    models=("yolov9t", "yolov9s", "yolov9m", "yolov9c"),
    children={
        RepConv: {"wide": "conv1", "pointwise": "conv2"},
        RepCSP: {"deep": "conv1", "bypass": "conv2", "merge": "conv3", "blocks": "bottleneck"},
        ELAN1: {"split": "conv1", "first": "conv2", "second": "conv3", "merge": "conv4"},
        RepNCSPELAN: {"split": "conv1", "first": "conv2", "second": "conv3", "merge": "conv4"},
        ADown: {"conv": "conv1", "pooled": "conv2"},
        SPPELAN: {"reduce": "conv1", "merge": "conv5"},
        DetectionHead: {
            **{f"box_branches.{level}": f"heads.{level}.anchor_conv" for level in range(3)},
            **{f"class_branches.{level}": f"heads.{level}.class_conv" for level in range(3)},
        },
        YOLOv9: {ours: theirs.removeprefix("model.") for ours, theirs in CHILDREN[YOLOv9].items()},
    },
    bins=tuple(f"heads.{level}.anc2vec.anc2vec.weight" for level in range(3)),
    box_groups=4,
)
"""That of MultimediaTechLab/YOLO (MIT license): v9-t, v9-s, v9-m, v9-c."""
