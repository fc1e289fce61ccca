"""Our YOLOv9 weights as MultimediaTechLab/YOLO (MIT) has them: other names, grouped box branches, an auxiliary branch.

Written from the listed names and shapes, without the tables of `detector.weights.published`, which it tests.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from detector.models.base import DetectionModel

GROUPS = 4
"""The sides of a box: each has a group of channels of its own in the last two convolutions of a box branch."""
LAYERS = {
    **{"backbone.stem.0": 0, "backbone.stem.1": 1, "backbone.stage2": 2, "backbone.down3": 3, "backbone.stage3": 4},
    **{"backbone.down4": 5, "backbone.stage4": 6, "backbone.down5": 7, "backbone.stage5": 8, "pooling": 9},
    **{"top_down4": 12, "top_down3": 15, "neck_down4": 16, "bottom_up4": 18, "neck_down5": 19, "bottom_up5": 21},
    "head": 22,
}
AUXILIARY = {9: 23, 12: 26, 15: 29, 22: 30}
"""For each layer of the auxiliary branch of t and s, the main one of the same shapes."""
RULES = (
    (r"^22\.box_branches\.(\d)\.", r"22.heads.\1.anchor_conv."),
    (r"^22\.class_branches\.(\d)\.", r"22.heads.\1.class_conv."),
    (r"^9\.reduce\.", "9.conv1."),
    (r"^9\.merge\.", "9.conv5."),
    (r"\.pooled\.", ".conv2."),
    (r"\.0\.deep\.", ".0.conv1."),
    (r"\.0\.bypass\.", ".0.conv2."),
    (r"\.0\.merge\.", ".0.conv3."),
    (r"\.0\.blocks\.", ".0.bottleneck."),
    (r"\.conv1\.wide\.", ".conv1.conv1."),
    (r"\.conv1\.pointwise\.", ".conv1.conv2."),
    (r"^(\d+)\.split\.", r"\1.conv1."),
    (r"^(\d+)\.first\.", r"\1.conv2."),
    (r"^(\d+)\.second\.", r"\1.conv3."),
    (r"^(\d+)\.merge\.", r"\1.conv4."),
)
"""What our name becomes after the layer's number has been put in front."""
GROUPED = re.compile(r"\.anchor_conv\.(1\.conv|2)\.weight$")


@torch.no_grad()
def group_boxes(model: DetectionModel) -> DetectionModel:
    """Zero what a grouped convolution has not; returns the model, whose weights `to_mit` can then write without a loss."""
    for branch in model.head.box_branches:
        for weight in (branch[1].conv.weight, branch[2].weight):
            rows, columns = len(weight) // GROUPS, weight.shape[1] // GROUPS
            weight *= torch.block_diag(*[torch.ones(rows, columns)] * GROUPS)[..., None, None]
    return model


def to_mit(state: Mapping[str, Tensor], auxiliary: bool = True) -> dict[str, Tensor]:
    """The state of a YOLOv9 t, s, m or c under the names and in the shapes of that project.

    The auxiliary branch is a copy of layers of the main one: what it holds is dropped by an importer. For m and c its
    shapes are not the listed ones.
    """
    adown = any(".pooled." in name for name in state)
    written = {}
    for name, tensor in state.items():
        theirs = _renamed(name, adown)
        if GROUPED.search(theirs):
            blocks = torch.cat([rows.chunk(GROUPS, dim=1)[i] for i, rows in enumerate(tensor.chunk(GROUPS))])
            assert blocks.count_nonzero() == tensor.count_nonzero()
            tensor = blocks
        written[theirs] = tensor.clone()
    for level in range(3):
        written[f"22.heads.{level}.anc2vec.anc2vec.weight"] = torch.arange(16.0).view(1, 16, 1, 1, 1)
    if auxiliary:
        for name, tensor in list(written.items()):
            layer, rest = name.split(".", 1)
            if int(layer) in AUXILIARY:
                written[f"{AUXILIARY[int(layer)]}.{rest}"] = tensor.clone()
    return written


def _renamed(name: str, adown: bool) -> str:
    ours = max((prefix for prefix in LAYERS if name.startswith(f"{prefix}.")), key=len)
    theirs = str(LAYERS[ours]) + name.removeprefix(ours)
    if adown:
        theirs = re.sub(r"^(3|5|7|16|19)\.conv\.", r"\1.conv1.", theirs)
    for pattern, replacement in RULES:
        theirs = re.sub(pattern, replacement, theirs)
    return theirs
