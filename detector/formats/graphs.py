"""The network as other runtimes get it: fused, with plain tensors in and out."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from detector.boxes import Anchors
from detector.images.input_size import InputSize
from detector.models.base import DetectionModel, scale_pixels
from detector.nn.conv import fuse_conv_bn
from detector.nn.head import decode
from detector.structures import RawPredictions


class HeadGraph(nn.Module):
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


class HalfGraph(HeadGraph):
    """`HeadGraph` with its layers in half precision; boxes are decoded in float32, as pixels beyond 512 need it."""

    def __init__(self, model: DetectionModel) -> None:
        super().__init__(model)
        self.model.half()

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch anchors 4"], Float[Tensor, "batch anchors classes"]]:
        raw, anchors = self.model.logits(images.half())
        boxes, scores = decode(RawPredictions(*map(Tensor.float, raw)), Anchors(*map(Tensor.float, anchors)))
        return boxes, scores


class Uint8Graph(HeadGraph):
    """`HeadGraph` from letterboxed images (batch, height, width, 3) uint8 RGB."""

    def forward(
        self, inputs: UInt8[Tensor, "batch height width 3"]
    ) -> tuple[Float[Tensor, "batch anchors 4"], Float[Tensor, "batch anchors classes"]]:
        return super().forward(scale_pixels(inputs.permute(0, 3, 1, 2)))


class LogitsGraph(nn.Module):
    """The network without decoding: box logits (batch, 64, anchors), class logits (batch, classes, anchors), the anchors'
    points (anchors, 2) in pixels of the network input and strides (anchors,)."""

    def __init__(self, model: DetectionModel) -> None:
        super().__init__()
        self.model = fuse_conv_bn(model)
        self.eval()

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (boxes, scores), (points, strides) = self.model.logits(images)
        return boxes, scores, points, strides


def example_uint8(size: InputSize, batch: int) -> UInt8[Tensor, "batch height width 3"]:
    """What tracing runs on; only its shape matters."""
    return torch.zeros(batch, size.height, size.width, 3, dtype=torch.uint8)


def example_images(size: InputSize, batch: int) -> Float[Tensor, "batch 3 height width"]:
    return torch.zeros(batch, 3, size.height, size.width)
