"""The network as other runtimes get it: fused, with plain tensors in and out."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detector.geometry.frame_size import FrameSize
from detector.models.base import DetectionModel
from detector.nn.conv import fuse_conv_bn

INPUT_NAME = "images"
OUTPUT_NAMES = ("boxes", "scores")


class ExportGraph(nn.Module):
    """images (batch, 3, height, width) float32 RGB in 0..1, letterboxed -> boxes (batch, anchors, 4) xyxy pixels of the
    network input, scores (batch, anchors, classes) in 0..1; before NMS."""

    def __init__(self, model: DetectionModel) -> None:
        super().__init__()
        self.model = fuse_conv_bn(model)
        self.eval()

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch anchors 4"], Float[Tensor, "batch anchors classes"]]:
        boxes, scores = self.model(images)
        return boxes, scores


def example_input(size: FrameSize, batch: int) -> Float[Tensor, "batch 3 height width"]:
    """What tracing runs on; only its shape matters."""
    return torch.zeros(batch, 3, size.height, size.width)
