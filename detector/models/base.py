"""What every detection model has in common."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from detector.boxes import Anchors, make_anchors
from detector.nn.head import DetectionHead, decode
from detector.structures import Predictions, RawPredictions


class DetectionModel(nn.Module):
    """Images in, a prediction for each anchor out; a family defines `levels` and `head`.

    Input: (batch, 3, height, width) float RGB in 0..1, height and width multiples of 32.
    Output: `RawPredictions` (logits) in training mode, `Predictions` (boxes and scores) in evaluation mode.
    """

    head: DetectionHead

    def levels(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The feature maps that the head reads, strides 8, 16, 32."""
        raise NotImplementedError

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> RawPredictions | Predictions:
        if not self.training:
            return decode(*self.logits(images))
        raw: RawPredictions = self.head(self.levels(images))
        return raw

    def logits(self, images: Float[Tensor, "batch 3 height width"]) -> tuple[RawPredictions, Anchors]:
        """What the head says, not decoded yet, and the anchors that it speaks of."""
        levels = self.levels(images)
        raw: RawPredictions = self.head(levels)
        sizes = [(level.shape[2], level.shape[3]) for level in levels]
        return raw, make_anchors(sizes, self.head.strides, like=raw.boxes)


def scale_pixels(images: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """8-bit pixels to the network's range 0..1."""
    return images.to(torch.float32) / 255
