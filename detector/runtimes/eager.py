"""The model itself, in PyTorch."""

import torch
from jaxtyping import UInt8
from torch import Tensor

from detector.geometry.boxes import Anchors
from detector.models.base import DetectionModel, scale_pixels
from detector.nn.conv import fuse_conv_bn
from detector.runtimes.base import Boxes, Runtime, Selection
from detector.runtimes.postprocess import select_logits
from detector.structures import RawPredictions


class EagerRuntime(Runtime):
    """Takes a copy of the model: fused, on the device, channels last."""

    def __init__(self, model: DetectionModel, device: torch.device) -> None:
        self.device = device
        self.model: DetectionModel = fuse_conv_bn(model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def logits(self, frames: UInt8[Tensor, "batch 3 height width"]) -> tuple[RawPredictions, Anchors]:
        """What the network says of the frames, on its device."""
        images = scale_pixels(frames.to(self.device)).contiguous(memory_format=torch.channels_last)
        return self.model.logits(images)

    def detect(self, frames: UInt8[Tensor, "batch 3 height width"], selection: Selection) -> list[Boxes]:
        found = select_logits(self.logits(frames), *selection)
        return [(each.boxes.cpu(), each.scores.cpu(), each.labels.cpu()) for each in found]
