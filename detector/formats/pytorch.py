"""The model itself, run by PyTorch."""

import torch
from jaxtyping import UInt8
from torch import Tensor

from detector.boxes import Anchors
from detector.formats.runtime import Runtime, Selection
from detector.models.base import DetectionModel, scale_pixels
from detector.models.postprocess import NmsResult, select_logits
from detector.nn.conv import fuse_conv_bn
from detector.structures import RawPredictions


class EagerRuntime(Runtime):
    """Runs a copy of the model: fused, on the device, channels last."""

    def __init__(self, model: DetectionModel, device: torch.device) -> None:
        self.device = device
        self.survives_fork = device.type == "cpu"
        self.model: DetectionModel = fuse_conv_bn(model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def logits(self, inputs: UInt8[Tensor, "batch 3 height width"]) -> tuple[RawPredictions, Anchors]:
        """The network's logits, on its device."""
        images = scale_pixels(inputs.to(self.device)).contiguous(memory_format=torch.channels_last)
        return self.model.logits(images)

    def detect(self, inputs: UInt8[Tensor, "batch 3 height width"], selection: Selection) -> list[NmsResult]:
        found = select_logits(self.logits(inputs), *selection)
        return [NmsResult(each.boxes.cpu(), each.scores.cpu(), each.labels.cpu()) for each in found]
